//! What docker's users expect of networks, over [`crate::network`]: which networks a container is on is kept with its
//! configuration; what it has of them while it runs, with its state.

mod cni;
pub mod connect;
mod hosts;
mod inspect;
mod join;
mod list;
mod manage;
mod names;
pub mod publish;

pub(super) use hosts::own as own_lines;
pub use inspect::{Attachment, NetworkMember};
pub(super) use join::{Joined, Namespace, check, normalised};

use super::Engine;
use super::history::{Event, Subject};
use super::registry::Entry;
use crate::network::record::Network;

impl Engine {
    /// Tells the world what happened to a network.
    fn network_happened(&self, network: &Network, action: &'static str, container: Option<&Entry>) {
        let mut attributes = std::collections::BTreeMap::from([
            ("name".to_owned(), network.name.clone()),
            ("type".to_owned(), network.driver.name().to_owned()),
        ]);
        attributes.extend(container.map(|entry| ("container".to_owned(), entry.id.clone())));
        let event = Event {
            time: jiff::Timestamp::now(),
            subject: Subject::Network,
            action: action.into(),
            actor: network.id.clone(),
            attributes,
        };
        self.history.record(event);
    }
}
