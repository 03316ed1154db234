//! What is shown of networks, and of containers' places on them.

use std::net::IpAddr;
use std::sync::Arc;

use crate::engine::Engine;
use crate::engine::config::{Endpoint, Record};
use crate::error::Result;
use crate::network::endpoint::EndpointState;
use crate::network::record::{Driver, Network, Subnet};

/// A container's place on a network, as inspect shows it.
#[derive(Clone, Debug, Default)]
pub struct Attachment {
    /// Name of the network.
    pub network: String,
    /// Empty if the network is not there.
    pub network_id: String,
    /// `None` while the container does not run.
    pub state: Option<EndpointState>,
    pub asked: Endpoint,
    /// Every name by which others on the network find it.
    pub names: Vec<String>,
}

/// A running container of a network.
#[derive(Clone, Debug)]
pub struct NetworkMember {
    pub container: String,
    pub name: String,
    pub attachment: Attachment,
}

/// Nothing is routed by the gateway of an internal network; it is shown nevertheless.
fn with_gateways(mut state: EndpointState, network: Option<&Network>) -> EndpointState {
    let of = |subnet: &Option<Subnet>| subnet.as_ref().map(|subnet| subnet.gateway);
    let Some(network) = network.filter(|network| network.internal) else { return state };
    if let (Some(own), Some(IpAddr::V4(gateway))) = (&mut state.ipv4, of(&network.ipv4)) {
        own.gateway = Some(gateway);
    }
    if let (Some(own), Some(IpAddr::V6(gateway))) = (&mut state.ipv6, of(&network.ipv6)) {
        own.gateway = Some(gateway);
    }
    state
}

impl Engine {
    pub fn find_network(&self, text: &str) -> Result<Arc<Network>> {
        self.networks.find(text)
    }

    /// The running containers of a network.
    pub fn network_members(&self, network: &Network) -> Vec<NetworkMember> {
        let members = self.networks.members(&network.id).into_iter().map(|member| NetworkMember {
            container: member.container.clone(),
            name: member.name.clone(),
            attachment: Attachment {
                network: network.name.clone(),
                network_id: network.id.clone(),
                names: Vec::new(),
                asked: Endpoint::default(),
                state: Some(member.endpoint),
            },
        });
        let shared = self.registry.all().into_iter().filter(|entry| {
            let mode = match network.driver {
                Driver::Bridge => return false,
                Driver::Host => crate::engine::config::NetworkMode::Host,
                Driver::Null => crate::engine::config::NetworkMode::None,
            };
            entry.status().is_live() && entry.read(|record| record.config.network == mode)
        });
        let shared = shared.map(|entry| NetworkMember {
            container: entry.id.clone(),
            name: entry.name(),
            attachment: Attachment {
                network: network.name.clone(),
                network_id: network.id.clone(),
                ..Attachment::default()
            },
        });
        members.chain(shared).collect()
    }

    /// A container's places on networks.
    pub(in crate::engine) fn attachments(&self, id: &str, record: &Record) -> Vec<Attachment> {
        let mut asked = super::normalised(&record.config);
        let mode = record.config.network.to_string();
        if asked.is_empty() && (matches!(mode.as_str(), "host" | "none") || mode.starts_with("cni:")) {
            asked.push(Endpoint { network: mode, ..Endpoint::default() });
        }
        let short = id.get(..12).unwrap_or(id);
        let live = record.state.status.is_live();
        asked
            .into_iter()
            .filter_map(|asked| {
                let network = self.networks.find(&asked.network).ok();
                let network_id = network.as_ref().map(|network| network.id.clone()).unwrap_or_default();
                let state =
                    record.state.endpoints.iter().find(|endpoint| endpoint.network == network_id).cloned();
                let state = state.map(|state| with_gateways(state, network.as_deref()));
                let has_places = network.as_ref().is_some_and(|network| network.driver == Driver::Bridge);
                if live && has_places && state.is_none() {
                    // It was taken off it, and will be on it at its next start.
                    return None;
                }
                let mut names = Vec::new();
                if network.as_ref().is_some_and(|network| network.has_names()) {
                    names.push(record.name.clone());
                    let more = asked.aliases.iter().map(String::as_str).chain([short]);
                    for name in more {
                        if !names.iter().any(|other| other == name) {
                            names.push(name.to_owned());
                        }
                    }
                }
                let network = network.map_or_else(|| asked.network.clone(), |network| network.name.clone());
                Some(Attachment { network, network_id, state, names, asked })
            })
            .collect()
    }

    /// Names of the networks that a container is on, or will be when it starts.
    pub(in crate::engine) fn networks_of(&self, record: &Record) -> Vec<String> {
        let named = super::normalised(&record.config);
        if named.is_empty() {
            return vec![record.config.network.to_string()];
        }
        let name = |endpoint: Endpoint| {
            self.networks.find(&endpoint.network).map_or(endpoint.network, |network| network.name.clone())
        };
        named.into_iter().map(name).collect()
    }
}
