//! After a start of the daemon: the addresses of containers that run are taken again, interfaces that are there are
//! known, and those that no container has are removed.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::cidr::Family;
use super::endpoint::{Address, EndpointState, Mac};
use super::links::LinkState;
use super::netlink::Netlink;
use super::plug::{Owner, Wanted};
use super::record::{Driver, Network};
use super::{Member, Networks, new_id};
use crate::error::{Error, Result};

impl Networks {
    /// A container that runs has these.
    pub fn is_there(&self, owner: &Owner, endpoints: &[EndpointState]) {
        let mut table = self.table();
        for endpoint in endpoints {
            let Some(place) = table.places.get_mut(&endpoint.network) else {
                tracing::warn!(container = owner.container, "its network {} is not there", endpoint.name);
                continue;
            };
            for address in endpoint.addresses() {
                if let Some(addresses) = place.addresses(Family::of(&address))
                    && addresses.take(&address).is_err()
                {
                    tracing::warn!(container = owner.container, "address {address} is another's, too");
                }
            }
            let member = Member {
                container: owner.container.clone(),
                name: owner.name.clone(),
                endpoint: endpoint.clone(),
            };
            place.members.insert(endpoint.id.clone(), member);
        }
    }

    /// After all containers are known: what is in the kernel is made to agree with it.
    pub async fn reconcile(self: &Arc<Self>) -> Result<()> {
        let networks: Vec<Arc<Network>> =
            self.all().into_iter().filter(|network| network.driver == Driver::Bridge).collect();
        let known: HashSet<String> = {
            let table = self.table();
            let members = table.places.values().flat_map(|place| place.members.values());
            members.map(|member| member.endpoint.host_interface.clone()).collect()
        };
        // Of each interface, whether its containers talk to each other.
        let names: HashMap<String, bool> =
            networks.iter().map(|network| (network.bridge.clone(), network.connects_containers())).collect();
        let rebuilt = self.db.rebuilt().is_some();
        let indexes = self
            .on_kernel("looking for interfaces", move |host| {
                let failed = |source| Error::network("looking for", "interfaces", source);
                let links = host.netlink.links().map_err(failed)?;
                let bridges: HashMap<String, u32> = links
                    .iter()
                    .filter(|link| link.is_bridge && names.contains_key(&link.name))
                    .map(|link| (link.name.clone(), link.index))
                    .collect();
                for (bridge, index) in &bridges {
                    // As earlier versions did not.
                    host.netlink.set_group(*index, super::GROUP).map_err(failed)?;
                    for port in links.iter().filter(|link| link.master == *index) {
                        let is_known = known.contains(&port.name);
                        if port.name.starts_with("veth") && !is_known && !rebuilt {
                            host.netlink.delete_link(port.index).map_err(failed)?;
                        } else if (is_known || rebuilt)
                            && names.get(bridge) == Some(&false)
                            && let Err(error) = host.netlink.isolate(&port.name)
                        {
                            tracing::error!("{} is not kept from others on {bridge}: {error}", port.name);
                        }
                    }
                }
                Ok(bridges)
            })
            .await?;
        let mut there = Vec::new();
        for network in networks {
            let Some(index) = indexes.get(&network.bridge) else { continue };
            let interface = self.table().places.get(&network.id).map(|place| place.interface.clone());
            if let Some(interface) = interface {
                *interface.lock().await = Some(*index);
            }
            there.push(network);
        }
        // All at once: while only some were written, the others would be without rules.
        self.firewall.recover(&there).await?;
        self.stop_forwarding().await
    }

    /// What a running container has, as the kernel knows it: for one whose record was lost with the daemon that made it.
    pub async fn find_out(&self, namespace: OwnedFd, wanted: &[Wanted]) -> Result<Vec<EndpointState>> {
        let networks: Vec<(Arc<Network>, Wanted)> = wanted
            .iter()
            .filter_map(|wanted| {
                let table = self.table();
                Some((table.places.get(&wanted.network)?.network.clone(), wanted.clone()))
            })
            .collect();
        self.on_kernel("looking at a container's networks", move |host| {
            let failed = |source| Error::network("looking at", "a container's networks", source);
            let outside = host.netlink.links().map_err(failed)?;
            let inside = |_: &mut super::kernel::Host| {
                let mut inner = Netlink::open()?;
                Ok((inner.links()?, inner.addresses()?))
            };
            let (links, addresses) = host.enter(namespace.as_fd(), inside).map_err(failed)?;
            let mut found = Vec::new();
            for (network, wanted) in &networks {
                let bridge = outside.iter().find(|link| link.is_bridge && link.name == network.bridge);
                let Some(bridge) = bridge else { continue };
                let ends = links.iter().find_map(|link| {
                    let end = |host: &&LinkState| host.index == link.peer && host.master == bridge.index;
                    outside.iter().find(end).map(|host| (link, host))
                });
                let Some((link, end)) = ends else { continue };
                let own = addresses.iter().filter(|(index, ..)| *index == link.index);
                found.extend(state(network, wanted, link, end, own.map(|(_, a, p)| (*a, *p))));
            }
            Ok(found)
        })
        .await
    }
}

fn state(
    network: &Network,
    wanted: &Wanted,
    link: &LinkState,
    end: &LinkState,
    addresses: impl Iterator<Item = (IpAddr, u8)>,
) -> Option<EndpointState> {
    let (mut ipv4, mut ipv6) = (None, None);
    for (address, prefix) in addresses {
        let Some(subnet) = network.subnet(Family::of(&address)) else { continue };
        let gateway = (!network.internal).then_some(subnet.gateway);
        match address {
            IpAddr::V4(address) if subnet.net.contains(&address.into()) => {
                let gateway = gateway.and_then(|g| if let IpAddr::V4(v4) = g { Some(v4) } else { None });
                ipv4 = Some(Address { address, prefix, gateway });
            }
            IpAddr::V6(address) if subnet.net.contains(&address.into()) => {
                let gateway = gateway.and_then(|g| if let IpAddr::V6(v6) = g { Some(v6) } else { None });
                ipv6 = Some(Address { address, prefix, gateway });
            }
            _ => {}
        }
    }
    Some(EndpointState {
        id: new_id(),
        network: network.id.clone(),
        name: network.name.clone(),
        interface: link.name.clone(),
        host_interface: end.name.clone(),
        mac: Mac(link.mac.as_slice().try_into().ok()?),
        ipv4,
        ipv6,
        aliases: wanted.aliases.clone(),
        links: wanted.links.clone(),
        priority: wanted.priority,
        driver_options: wanted.driver_options.clone(),
    })
}
