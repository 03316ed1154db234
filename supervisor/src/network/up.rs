//! A network's interface: a bridge with the gateways' addresses, made when the first container comes.

use std::net::IpAddr;
use std::sync::Arc;

use super::cidr::Family;
use super::endpoint::Mac;
use super::kernel::Host;
use super::plug::Wanted;
use super::record::Network;
use super::refusal::Refusal;
use super::{GROUP, Networks};
use crate::error::{Error, Result};

/// How often it is tried to turn on what somebody turns off at the same time.
const ATTEMPTS: usize = 3;

impl Networks {
    /// The index of a network's interface, which is made if it is not there.
    pub(super) async fn up(&self, id: &str) -> Result<u32> {
        let (network, interface) = {
            let table = self.table();
            let place = table.places.get(id).filter(|place| !place.doomed);
            let place = place.ok_or_else(|| Refusal::NotFound(id.to_owned()))?;
            (place.network.clone(), place.interface.clone())
        };
        let mut interface = interface.lock().await;
        if let Some(index) = *interface {
            return Ok(index);
        }
        let index = self.make_interface(&network).await?;
        if let Err(error) = self.protect_and_forward(&network).await {
            self.drop_interface(&network).await?;
            return Err(error);
        }
        *interface = Some(index);
        Ok(index)
    }

    /// The rules are in place before the host passes anything on.
    async fn protect_and_forward(&self, network: &Arc<Network>) -> Result<()> {
        let families: Vec<Family> = match network.internal {
            true => Vec::new(),
            false => network.subnets().map(|subnet| subnet.net.family()).collect(),
        };
        for _ in 0..ATTEMPTS {
            self.firewall.forwarding.note(&families);
            self.firewall.network_up(network).await?;
            let (firewall, families) = (self.firewall.clone(), families.clone());
            // Not while another network, the last one, has it turned off.
            let work = move |_: &mut Host| Ok(firewall.forwarding.turn_on(&families));
            if self.kernel.run("making the host pass packets on", work).await? {
                return Ok(());
            }
        }
        tracing::warn!(network = network.name, "somebody keeps turning off that the host passes packets on");
        Ok(())
    }

    /// CNI plugins have connected a container: what they made is not known to our rules and relies on the host's passing packets
    /// on, whoever turned that on.
    pub async fn host_is_a_router(&self) -> Result<()> {
        if !self.firewall.forwarding.ours().any() {
            return Ok(());
        }
        self.firewall.forwarding.forget();
        self.firewall.rewrite().await
    }

    /// After the last network: what was turned on for our sake is turned off, unless another daemon of ours has networks here.
    pub(super) async fn stop_forwarding(&self) -> Result<()> {
        if !(self.firewall.has_none() && self.firewall.forwarding.ours().any()) {
            return Ok(());
        }
        let own: Vec<String> = self.all().iter().map(|network| network.bridge.clone()).collect();
        let firewall = self.firewall.clone();
        self.kernel
            .run("looking for other networks", move |host| {
                let failed = |source| Error::network("looking for", "other networks", source);
                let links = host.netlink.links().map_err(failed)?;
                let others = links.iter().any(|link| link.group == GROUP && !own.contains(&link.name));
                if !others && firewall.has_none() {
                    firewall.forwarding.turn_off();
                }
                Ok(())
            })
            .await?;
        self.firewall.rewrite().await
    }

    /// Forgets interfaces of these networks that somebody else took away, so that they are made again; whether there are any.
    pub(super) async fn forget_lost(&self, wanted: &[Wanted]) -> Result<bool> {
        let mut lost = false;
        for one in wanted {
            let place =
                self.table().places.get(&one.network).map(|p| (p.network.clone(), p.interface.clone()));
            let Some((network, interface)) = place else { continue };
            let mut interface = interface.lock().await;
            let Some(known) = *interface else { continue };
            let bridge = network.bridge.clone();
            let found = self
                .kernel
                .run("looking for a bridge", move |host| {
                    let found = host.netlink.link(&bridge);
                    found.map_err(|source| Error::network("looking for the bridge", &bridge, source))
                })
                .await?;
            if found.is_none_or(|found| found.index != known) {
                tracing::warn!(
                    network = network.name,
                    "its interface {} is gone and is made again",
                    network.bridge
                );
                *interface = None;
                lost = true;
            }
        }
        Ok(lost)
    }

    async fn make_interface(&self, network: &Arc<Network>) -> Result<u32> {
        let network = network.clone();
        self.kernel
            .run("making a bridge", move |host| {
                bridge(host, &network)
                    .map_err(|source| Error::network("making the bridge", &network.bridge, source))
            })
            .await
    }

    /// Removes the bridge; one that is gone already is fine.
    pub(super) async fn drop_interface(&self, network: &Arc<Network>) -> Result<()> {
        let network = network.clone();
        self.kernel
            .run("removing a bridge", move |host| {
                host.netlink
                    .delete_named(&network.bridge)
                    .map_err(|source| Error::network("removing the bridge", &network.bridge, source))
            })
            .await
    }
}

fn bridge(host: &mut Host, network: &Network) -> std::io::Result<u32> {
    let index = match host.netlink.link(&network.bridge)? {
        Some(found) if found.is_bridge => {
            host.netlink.set_up(found.index)?;
            host.netlink.set_group(found.index, GROUP)?;
            found.index
        }
        Some(_) => return Err(std::io::Error::from_raw_os_error(libc::EEXIST)),
        None => {
            let mac = match network.ipv4.as_ref().map(|subnet| subnet.gateway) {
                Some(IpAddr::V4(gateway)) => Mac::from_ipv4(gateway),
                _ => Mac::random(),
            };
            host.netlink.make_bridge(&network.bridge, mac, network.mtu(), GROUP)?
        }
    };
    let made = addresses(host, network, index);
    if made.is_err() {
        host.netlink.delete_link(index)?;
    }
    made.map(|()| index)
}

fn addresses(host: &mut Host, network: &Network, index: u32) -> std::io::Result<()> {
    let quiet = network.ipv6.is_none();
    write(&of_interface(&network.bridge, "disable_ipv6"), if quiet { "1" } else { "0" });
    // What the host hears here is what containers say: they do not route it.
    write(&of_interface(&network.bridge, "accept_ra"), "0");
    for subnet in network.subnets() {
        host.netlink.add_address(index, subnet.gateway, subnet.net.prefix())?;
    }
    Ok(())
}

/// A setting of IPv6 for one interface.
pub(super) fn of_interface(interface: &str, name: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{interface}/{name}")
}

/// Sets a value if it is another; a kernel without the setting has no need of it.
pub(super) fn write(path: &str, value: &str) {
    let Ok(now) = std::fs::read_to_string(path) else { return };
    if now.trim() == value {
        return;
    }
    if let Err(error) = std::fs::write(path, value) {
        tracing::warn!("{path} cannot be set to {value}: {error}: networks may not work as they should");
    }
}
