//! Connecting: addresses are taken in memory, then the kernel makes a pair of interfaces, one end in the container's
//! namespace.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::addresses::{Given, NoAddress};
use super::cidr::Family;
use super::endpoint::{Address, EndpointState, Link, Mac};
use super::kernel::Host;
use super::links::{Addressing, Pair};
use super::netlink::Netlink;
use super::record::{Chosen, Network};
use super::refusal::Refusal;
use super::up::{of_interface, write};
use super::{Member, Networks, Place, new_id, new_interface};
use crate::error::{Error, Result};

/// What a container wants of one network.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Id.
    pub network: String,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub mac: Option<Mac>,
    pub aliases: Vec<String>,
    pub links: Vec<Link>,
    pub priority: i32,
    pub driver_options: BTreeMap<String, String>,
}

impl Wanted {
    /// Whether any endpoint of the network will do.
    pub(super) fn is_plain(&self) -> bool {
        self.ipv4.is_none() && self.ipv6.is_none() && self.mac.is_none()
    }
}

/// Whose endpoints they are.
#[derive(Clone, Debug)]
pub struct Owner {
    pub container: String,
    pub name: String,
}

/// An endpoint to be made.
pub(super) struct Plan {
    pub state: EndpointState,
    pub network: Arc<Network>,
    /// Index of the bridge.
    pub bridge: u32,
    /// Interfaces that have to go first.
    pub evict: Vec<String>,
}

impl Networks {
    /// Takes addresses on a network for a container, or for none yet.
    pub(super) fn plan(
        &self,
        wanted: &Wanted,
        interface: String,
        bridge: u32,
        owner: Option<&Owner>,
    ) -> Result<Plan> {
        let mut table = self.table();
        let place = table.places.get_mut(&wanted.network).filter(|place| !place.doomed);
        let place = place.ok_or_else(|| Refusal::NotFound(wanted.network.clone()))?;
        let network = place.network.clone();
        if let Some(owner) = owner
            && place.members.values().any(|member| member.container == owner.container)
        {
            let (container, network) = (owner.name.clone(), network.name.clone());
            return Err(Refusal::Connected { container, network }.into());
        }
        let (v4, v6) = both(place, wanted)?;
        let ipv4 = v4.as_ref().and_then(|given| match given.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        let mac = wanted.mac.unwrap_or_else(|| ipv4.map_or_else(Mac::random, Mac::from_ipv4));
        let state = EndpointState {
            id: new_id(),
            network: network.id.clone(),
            name: network.name.clone(),
            interface,
            host_interface: new_interface(),
            mac,
            ipv4: v4.as_ref().and_then(|given| address(&network, given).0),
            ipv6: v6.as_ref().and_then(|given| address(&network, given).1),
            aliases: wanted.aliases.clone(),
            links: wanted.links.clone(),
            priority: wanted.priority,
            driver_options: wanted.driver_options.clone(),
        };
        if let Some(owner) = owner {
            let member = Member {
                container: owner.container.clone(),
                name: owner.name.clone(),
                endpoint: state.clone(),
            };
            place.members.insert(state.id.clone(), member);
        }
        let evict = v4.into_iter().chain(v6).filter_map(|given| given.evict).collect();
        Ok(Plan { state, network, bridge, evict })
    }

    /// Takes back what a plan took.
    pub(super) fn unplan(&self, state: &EndpointState) {
        if let Some(place) = self.table().places.get_mut(&state.network) {
            place.members.remove(&state.id);
            place.give_back(state);
        }
    }
}

fn both(place: &mut Place, wanted: &Wanted) -> Result<(Option<Given>, Option<Given>)> {
    let v4 = one(place, Family::V4, wanted.ipv4.map(IpAddr::from))?;
    match one(place, Family::V6, wanted.ipv6.map(IpAddr::from)) {
        Ok(v6) => Ok((v4, v6)),
        Err(error) => {
            if let (Some(given), Some(addresses)) = (v4, place.v4.as_mut()) {
                addresses.give_back(&given.address, given.evict.as_deref().unwrap_or_default());
            }
            Err(error)
        }
    }
}

fn one(place: &mut Place, family: Family, fixed: Option<IpAddr>) -> Result<Option<Given>> {
    let network = place.network.clone();
    let chosen = network.subnet(family).map(|subnet| subnet.chosen);
    if fixed.is_some() {
        if network.is_predefined() {
            return Err(Refusal::FixedAddressOnPredefined.into());
        }
        if chosen != Some(Chosen::ByUser) {
            return Err(Refusal::FixedAddressOnChosen.into());
        }
    }
    let Some(addresses) = place.addresses(family) else { return Ok(None) };
    let given = match &fixed {
        Some(address) => addresses.take(address),
        None => addresses.give(),
    };
    let refuse = |why| match why {
        NoAddress::Taken => Refusal::AddressInUse,
        NoAddress::Outside => {
            Refusal::AddressOutside(fixed.map(|address| address.to_string()).unwrap_or_default())
        }
        NoAddress::Full => Refusal::Full {
            family: if family == Family::V4 { "IPv4" } else { "IPv6" },
            name: network.name.clone(),
            id: network.id.clone(),
        },
    };
    Ok(Some(given.map_err(refuse)?))
}

/// An address with its subnet's prefix and gateway.
fn address(network: &Network, given: &Given) -> (Option<Address<Ipv4Addr>>, Option<Address<Ipv6Addr>>) {
    let Some(subnet) = network.subnet(Family::of(&given.address)) else { return (None, None) };
    let prefix = subnet.net.prefix();
    match (given.address, subnet.gateway) {
        (IpAddr::V4(address), IpAddr::V4(gateway)) => {
            let gateway = (!network.internal).then_some(gateway);
            (Some(Address { address, prefix, gateway }), None)
        }
        (IpAddr::V6(address), IpAddr::V6(gateway)) => {
            let gateway = (!network.internal).then_some(gateway);
            (None, Some(Address { address, prefix, gateway }))
        }
        _ => (None, None),
    }
}

/// Which endpoint has the way out for a family: the highest priority wins, then the first name.
pub(super) fn way_out(endpoints: &[EndpointState], family: Family) -> Option<(&EndpointState, IpAddr)> {
    let gateway = |endpoint: &EndpointState| match family {
        Family::V4 => endpoint.ipv4.and_then(|v4| v4.gateway).map(IpAddr::from),
        Family::V6 => endpoint.ipv6.and_then(|v6| v6.gateway).map(IpAddr::from),
    };
    endpoints
        .iter()
        .filter_map(|endpoint| Some((endpoint, gateway(endpoint)?)))
        .min_by_key(|(endpoint, _)| (std::cmp::Reverse(endpoint.priority), endpoint.name.clone()))
}

/// A new namespace keeps IPv6 off interfaces of networks without it.
pub(super) fn prepare_namespace() {
    write(&of_interface("default", "disable_ipv6"), "1");
}

/// Makes the pair of one endpoint. The thread is in the container's namespace, which `inner` speaks of.
pub(super) fn plug(
    host: &mut Host,
    inner: &mut Netlink,
    namespace: BorrowedFd<'_>,
    plan: &Plan,
    gateways: &[IpAddr],
) -> io::Result<()> {
    for interface in &plan.evict {
        host.netlink.delete_named(interface)?;
    }
    let state = &plan.state;
    host.netlink.make_pair(&Pair {
        host: &state.host_interface,
        bridge: plan.bridge,
        namespace: namespace.as_fd(),
        name: &state.interface,
        mac: state.mac,
        mtu: plan.network.mtu(),
    })?;
    if !plan.network.connects_containers() {
        // Before its own end is up. The packet filter does not see what goes from port to port of a bridge.
        host.netlink.isolate(&state.host_interface)?;
    }
    let index = inner.index(&state.interface)?;
    if state.ipv6.is_some() {
        write(&of_interface(&state.interface, "disable_ipv6"), "0");
    }
    let v4 = state.ipv4.map(|v4| (IpAddr::from(v4.address), v4.prefix));
    let v6 = state.ipv6.map(|v6| (IpAddr::from(v6.address), v6.prefix));
    let addresses: Vec<(IpAddr, u8)> = v4.into_iter().chain(v6).collect();
    inner.configure(&Addressing { index, addresses: &addresses, gateways })
}

/// The gateways of the families for which this endpoint is the way out.
pub(super) fn gateways(state: &EndpointState, all: &[EndpointState]) -> Vec<IpAddr> {
    [Family::V4, Family::V6]
        .into_iter()
        .filter_map(|family| way_out(all, family))
        .filter(|(endpoint, _)| endpoint.id == state.id)
        .map(|(_, gateway)| gateway)
        .collect()
}

/// An error of the kernel's about a container's networks.
pub(super) fn failed(container: &str) -> impl FnOnce(io::Error) -> Error {
    let container = container.to_owned();
    move |source| Error::network("connecting container", container, source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str, priority: i32, gateway: Option<Ipv4Addr>) -> EndpointState {
        EndpointState {
            id: name.to_owned(),
            network: name.to_owned(),
            name: name.to_owned(),
            interface: "eth0".to_owned(),
            host_interface: "v".to_owned(),
            mac: Mac([2; 6]),
            ipv4: Some(Address { address: Ipv4Addr::new(10, 0, 0, 2), prefix: 24, gateway }),
            ipv6: None,
            aliases: Vec::new(),
            links: Vec::new(),
            priority,
            driver_options: BTreeMap::new(),
        }
    }

    #[test]
    fn the_way_out_has_the_highest_priority_and_then_the_first_name() {
        let gateway = Some(Ipv4Addr::new(10, 0, 0, 1));
        let chosen = |endpoints: &[EndpointState]| {
            way_out(endpoints, Family::V4).map(|(endpoint, _)| endpoint.name.clone())
        };
        let all = [endpoint("b", 0, gateway), endpoint("a", 0, gateway), endpoint("c", -1, gateway)];
        assert_eq!(chosen(&all).as_deref(), Some("a"));
        let all = [endpoint("b", 1, gateway), endpoint("a", 0, gateway), endpoint("z", 9, None)];
        assert_eq!(chosen(&all).as_deref(), Some("b"));
        assert_eq!(chosen(&[endpoint("z", 9, None)]), None);
        assert!(way_out(&all, Family::V6).is_none());
    }
}
