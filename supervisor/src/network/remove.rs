//! A network goes: its rules, its interface, then its record.

use std::sync::Arc;

use super::Networks;
use super::record::Network;
use super::refusal::Refusal;
use crate::error::{Error, Result};
use crate::metadata::tables;

impl Networks {
    /// Removes a network without containers. Returns when nothing of it is left.
    pub async fn remove(&self, network: &Arc<Network>) -> Result<()> {
        if network.is_predefined() {
            return Err(Refusal::PredefinedStays(network.name.clone()).into());
        }
        let interface = {
            let mut table = self.table();
            let place = table.places.get_mut(&network.id).filter(|place| !place.doomed);
            let place = place.ok_or_else(|| Refusal::NotFound(network.name.clone()))?;
            if !place.members.is_empty() {
                let (name, id) = (network.name.clone(), network.id.clone());
                return Err(Refusal::Active { name, id }.into());
            }
            place.doomed = true;
            place.interface.clone()
        };
        let mut interface = interface.lock().await;
        let removed = self.take_down(network).await;
        if let Err(error) = removed {
            if let Some(place) = self.table().places.get_mut(&network.id) {
                place.doomed = false;
            }
            *interface = None;
            return Err(error);
        }
        self.db
            .write(|tx| {
                tx.delete(&tables::NETWORKS, &self.namespace, &network.id)?;
                Ok(())
            })
            .await?;
        self.table().places.remove(&network.id);
        self.dns.forget_network(&network.id);
        Ok(())
    }

    /// The kernel's side of a network goes.
    async fn take_down(&self, network: &Arc<Network>) -> Result<()> {
        self.firewall.network_down(network).await?;
        self.stop_forwarding().await?;
        let resting = self.resting(Some(&network.id));
        self.on_kernel("removing interfaces", move |host| {
            for interface in resting {
                host.netlink
                    .delete_named(&interface)
                    .map_err(|source| Error::network("removing the interface", &interface, source))?;
            }
            Ok(())
        })
        .await?;
        self.drop_interface(network).await
    }

    /// The daemon stops: what no container uses is taken down; it is made again when it is needed.
    pub async fn shutdown(&self) {
        let waiting = self.empty();
        let some = !waiting.is_empty();
        let job = move |host: &mut super::kernel::Host| {
            for interface in waiting {
                host.netlink
                    .delete_named(&interface)
                    .map_err(|source| Error::network("removing the interface", &interface, source))?;
            }
            Ok(())
        };
        let idle: Vec<_> = {
            let table = self.table();
            let idle = table.places.values().filter(|place| place.members.is_empty());
            idle.map(|place| (place.network.clone(), place.interface.clone())).collect()
        };
        if some && let Err(error) = self.on_kernel("removing interfaces", job).await {
            tracing::warn!("interfaces that wait for containers stay: {error}");
        }
        for (network, interface) in idle {
            let mut interface = interface.lock().await;
            if interface.take().is_some()
                && let Err(error) = self.take_down(&network).await
            {
                tracing::warn!(network = network.name, "the network's interface stays: {error}");
            }
        }
    }
}
