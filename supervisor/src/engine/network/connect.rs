//! Connecting containers and taking them off again, also while they run.

use std::sync::Arc;

use super::hosts;
use crate::content::store::blocking;
use crate::engine::Engine;
use crate::engine::config::{Endpoint, NetworkMode};
use crate::engine::process::FirstProcess;
use crate::engine::registry::Entry;
use crate::error::{Error, Result};
use crate::network::record::{Driver, Network};
use crate::network::refusal::Refusal;
use crate::network::sandbox::Owner;

/// What `network disconnect` says of a container that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    Container,
    /// It was to be taken off the network even so: nothing of it is left there.
    Endpoint,
}

impl Engine {
    /// Connects a container, at once if it runs, and from now on at each start.
    pub async fn connect(self: &Arc<Self>, text: &str, asked: &Endpoint) -> Result<()> {
        let (engine, text, asked) = (self.clone(), text.to_owned(), asked.clone());
        // Carried through even if the client goes away.
        let work = async move { engine.connect_now(&text, &asked).await };
        self.carry("connecting a container", work).await
    }

    async fn connect_now(self: &Arc<Self>, text: &str, asked: &Endpoint) -> Result<()> {
        let network = self.networks.find(&asked.network)?;
        let entry = self.find(text)?;
        let _turn = entry.turn.clone().lock_owned().await;
        let mut endpoint = asked.clone();
        endpoint.network.clone_from(&network.name);
        self.check_connect(&entry, &network)?;
        let wanted = self.wanted_of(&endpoint)?;
        let mut listed = entry.read(|record| super::normalised(&record.config));
        // One that runs is on what it has, whatever it will be on at its next start.
        let on_it = match entry.status().is_live() {
            true => entry.read(|record| record.state.endpoints.iter().any(|e| e.network == network.id)),
            false => listed.iter().any(|other| self.is_same(other, &network)),
        };
        if on_it {
            let (container, network) = (entry.name(), network.name.clone());
            return Err(Refusal::Connected { container, network }.into());
        }
        if entry.status().is_live() {
            let record = entry.record();
            let owner = Owner { container: entry.id.clone(), name: record.name.clone() };
            let namespace = FirstProcess::of(record.state.pid, &entry.id)?.namespace("net")?;
            let others = &record.state.endpoints;
            let all = self.networks.connect(&owner, namespace, &wanted, others).await?;
            let lines = all.last().map(|new| hosts::own(&entry.id, &record, std::slice::from_ref(new)));
            self.change_hosts(&entry, lines.unwrap_or_default(), Vec::new()).await;
            entry.change(|record| record.state.endpoints.clone_from(&all));
            self.networks.firewall.endpoints_changed(&entry.id, &all).await?;
            self.names_moved(&entry.id, &entry.record()).await?;
        }
        listed.retain(|other| !self.is_same(other, &network));
        listed.push(endpoint);
        entry.change(|record| record.config.endpoints = listed);
        self.save_record(&entry).await?;
        self.save_state(&entry).await?;
        self.network_happened(&network, "connect", Some(&entry));
        Ok(())
    }

    fn check_connect(&self, entry: &Entry, network: &Network) -> Result<()> {
        let mode = entry.read(|record| record.config.network.clone());
        let refusal = match (&mode, network.driver) {
            (_, Driver::Host) => Refusal::HostStays,
            (NetworkMode::Host | NetworkMode::Container(_), _) => Refusal::Shares,
            (NetworkMode::None, _) | (_, Driver::Null) => Refusal::NoneIsAlone,
            (NetworkMode::Cni(_), _) => {
                return Err(Error::precondition(
                    format!("container {}", entry.name()),
                    "its networks are those of its CNI configuration",
                ));
            }
            (NetworkMode::Default | NetworkMode::Named(_), Driver::Bridge) => return Ok(()),
        };
        Err(refusal.into())
    }

    /// Whether what a container asked for is about this network.
    pub(super) fn is_same(&self, endpoint: &Endpoint, network: &Network) -> bool {
        endpoint.network == network.name
            || self.networks.find(&endpoint.network).is_ok_and(|found| found.id == network.id)
    }

    /// Takes a container off a network, at once if it runs.
    pub async fn disconnect(self: &Arc<Self>, network: &str, text: &str, missing: Missing) -> Result<()> {
        let (engine, network, text) = (self.clone(), network.to_owned(), text.to_owned());
        let work = async move { engine.disconnect_now(&network, &text, missing).await };
        self.carry("disconnecting a container", work).await
    }

    async fn disconnect_now(self: &Arc<Self>, network: &str, text: &str, missing: Missing) -> Result<()> {
        let network = self.networks.find(network)?;
        let entry = match self.find(text) {
            Err(error) if error.is_not_found() && missing == Missing::Endpoint => {
                return Err(Error::not_found("endpoint", text));
            }
            found => found?,
        };
        let _turn = entry.turn.clone().lock_owned().await;
        let mode = entry.read(|record| record.config.network.clone());
        if network.driver == Driver::Host || mode == NetworkMode::Host {
            return Err(Refusal::HostStays.into());
        }
        let mut listed = entry.read(|record| super::normalised(&record.config));
        let before = listed.len();
        listed.retain(|other| !self.is_same(other, &network));
        let record = entry.record();
        let (mine, others): (Vec<_>, Vec<_>) =
            record.state.endpoints.iter().cloned().partition(|endpoint| endpoint.network == network.id);
        if listed.len() == before && mine.is_empty() {
            let (container, network) = (entry.id.clone(), network.name.clone());
            return Err(Refusal::NotConnected { container, network }.into());
        }
        for endpoint in &mine {
            let namespace = FirstProcess::of(record.state.pid, &entry.id)?.namespace("net")?;
            self.networks.disconnect(namespace, endpoint, &others).await?;
            self.change_hosts(&entry, Vec::new(), endpoint.addresses().collect()).await;
        }
        entry.change(|record| {
            record.config.endpoints = listed;
            // The first of the others is the container's own network from now on.
            if let (NetworkMode::Default | NetworkMode::Named(_), Some(first)) =
                (&record.config.network, record.config.endpoints.first())
            {
                record.config.network = NetworkMode::Named(first.network.clone());
            }
            record.state.endpoints.clone_from(&others);
        });
        if !mine.is_empty() {
            self.networks.firewall.endpoints_changed(&entry.id, &others).await?;
            self.names_moved(&entry.id, &entry.record()).await?;
        }
        self.save_record(&entry).await?;
        self.save_state(&entry).await?;
        self.network_happened(&network, "disconnect", Some(&entry));
        Ok(())
    }

    /// A hosts file that cannot be changed is the container's own doing and stands in nobody's way.
    async fn change_hosts(&self, entry: &Entry, add: Vec<String>, take: Vec<std::net::IpAddr>) {
        let path = self.folder(&entry.id).join("hosts");
        if let Err(error) = blocking(move || hosts::change(&path, &add, &take)).await {
            tracing::warn!(container = %entry.id, "its hosts file was not changed: {error}");
        }
    }
}
