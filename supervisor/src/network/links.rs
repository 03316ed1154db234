//! What is asked of the kernel, by name: bridges, pairs of interfaces, addresses, routes.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::cidr::Cidr;
use super::endpoint::Mac;
use super::netlink::Netlink;

/// A link as it is.
#[derive(Clone, Debug, Default)]
pub struct LinkState {
    pub index: u32,
    pub name: String,
    /// Index of the bridge that it is part of; 0: of none.
    pub master: u32,
    pub mac: Vec<u8>,
    /// Index of the other end, where that end is.
    pub peer: u32,
    pub is_bridge: bool,
    pub group: u32,
    /// A port of a bridge that does not send to other such ports.
    pub isolated: bool,
}

/// A pair of interfaces to be made.
pub struct Pair<'a> {
    /// On the host.
    pub host: &'a str,
    /// Index of the bridge that the host's end becomes part of.
    pub bridge: u32,
    /// Where the other end goes, what it is called there, and its hardware address.
    pub namespace: BorrowedFd<'a>,
    pub name: &'a str,
    pub mac: Mac,
    pub mtu: Option<u32>,
}

/// An interface's addresses and routes to be set.
pub struct Addressing<'a> {
    pub index: u32,
    pub addresses: &'a [(IpAddr, u8)],
    /// Default routes.
    pub gateways: &'a [IpAddr],
}

impl Netlink {
    /// The link of this name; `None` if there is none.
    pub fn link(&mut self, name: &str) -> io::Result<Option<LinkState>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.get(Message::GetLink(message)) {
            Ok(Some(Message::NewLink(found))) => Ok(Some(link_state(&found))),
            Ok(_) => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn links(&mut self) -> io::Result<Vec<LinkState>> {
        let all = self.dump(Message::GetLink(LinkMessage::default()))?;
        Ok(all
            .iter()
            .filter_map(|message| match message {
                Message::NewLink(link) => Some(link_state(link)),
                _ => None,
            })
            .collect())
    }

    /// Makes a bridge, up, in a group of interfaces; its index.
    pub fn make_bridge(&mut self, name: &str, mac: Mac, mtu: Option<u32>, group: u32) -> io::Result<u32> {
        let mut message = up();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        message.attributes.push(LinkAttribute::Group(group));
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.ask(Message::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)?;
        self.index(name)
    }

    /// The index of a link that must be there.
    pub fn index(&mut self, name: &str) -> io::Result<u32> {
        let found = self.link(name)?.map(|link| link.index);
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        let mut message = up();
        message.header.index = index;
        self.ask(Message::SetLink(message), 0)
    }

    pub fn set_group(&mut self, index: u32, group: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Group(group));
        self.ask(Message::SetLink(message), 0)
    }

    /// Lets ports of bridges, by name, send to the bridge only and not to each other. Fails where the kernel cannot.
    pub fn isolate(&mut self, name: &str) -> io::Result<()> {
        self.ask(isolation(name), 0)?;
        // A kernel that does not know it takes no notice.
        match self.link(name)? {
            Some(link) if link.isolated => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        }
    }

    /// Removes a link; one that is gone already is fine.
    pub fn delete_link(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        gone_is_fine(self.ask(Message::DelLink(message), 0))
    }

    /// Removes the link of this name, if there is one.
    pub fn delete_named(&mut self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        gone_is_fine(self.ask(Message::DelLink(message), 0))
    }

    /// Makes a pair, the host's end up. The other cannot be before it has a peer: [`Netlink::configure`] does that.
    pub fn make_pair(&mut self, pair: &Pair<'_>) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes.push(LinkAttribute::IfName(pair.name.to_owned()));
        peer.attributes.push(LinkAttribute::Address(pair.mac.0.to_vec()));
        peer.attributes.push(LinkAttribute::NetNsFd(pair.namespace.as_raw_fd()));
        peer.attributes.extend(pair.mtu.map(LinkAttribute::Mtu));
        let mut message = up();
        message.attributes.push(LinkAttribute::IfName(pair.host.to_owned()));
        message.attributes.extend(pair.mtu.map(LinkAttribute::Mtu));
        message.attributes.push(LinkAttribute::Controller(pair.bridge));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.ask(Message::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Sets an interface and the loopback interface up, and addresses and default routes, in one call.
    pub fn configure(&mut self, addressing: &Addressing<'_>) -> io::Result<()> {
        let mut loopback = up();
        loopback.header.index = 1;
        let mut own = up();
        own.header.index = addressing.index;
        let mut messages = vec![(Message::SetLink(loopback), 0), (Message::SetLink(own), 0)];
        for (address, prefix) in addressing.addresses {
            messages
                .push((Message::NewAddress(address_message(addressing.index, *address, *prefix)), CREATE));
        }
        for gateway in addressing.gateways {
            messages.push((Message::NewRoute(default_route(addressing.index, *gateway)), REPLACE));
        }
        self.ask_all(messages)
    }

    pub fn add_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        match self.ask(Message::NewAddress(address_message(index, address, prefix)), CREATE) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// Makes this the way out of the namespace for the gateway's family.
    pub fn set_default_route(&mut self, index: u32, gateway: IpAddr) -> io::Result<()> {
        self.ask(Message::NewRoute(default_route(index, gateway)), REPLACE)
    }

    /// Every address of this namespace with its interface's index.
    pub fn addresses(&mut self) -> io::Result<Vec<(u32, IpAddr, u8)>> {
        let all = self.dump(Message::GetAddress(AddressMessage::default()))?;
        Ok(all
            .iter()
            .filter_map(|message| {
                let Message::NewAddress(found) = message else { return None };
                let mut own = None;
                for attribute in &found.attributes {
                    match attribute {
                        AddressAttribute::Local(address) => own = Some(*address),
                        AddressAttribute::Address(address) if own.is_none() => own = Some(*address),
                        _ => {}
                    }
                }
                own.map(|address| (found.header.index, address, found.header.prefix_len))
            })
            .collect())
    }

    /// Every subnet that this namespace has a route to, but for the default ones.
    pub fn routes(&mut self) -> io::Result<Vec<Cidr>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            for route in self.dump(Message::GetRoute(message))? {
                let Message::NewRoute(route) = route else { continue };
                if route.header.kind != RouteType::Unicast || route.header.destination_prefix_length == 0 {
                    continue;
                }
                let to = route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::from(*v4)),
                    RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::from(*v6)),
                    _ => None,
                });
                found.extend(to.and_then(|to| Cidr::new(to, route.header.destination_prefix_length)));
            }
        }
        Ok(found)
    }
}

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;
const REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;

fn isolation(name: &str) -> Message {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(true)])),
    ]));
    Message::NewLink(message)
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

fn up() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn family(address: &IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address_message(index: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(&address);
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    match address {
        IpAddr::V4(v4) if prefix < 31 => {
            let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            message.attributes.push(AddressAttribute::Broadcast((u32::from(v4) | host).into()));
        }
        IpAddr::V4(_) => {}
        // Nobody else can have it: the daemon gives the addresses out.
        IpAddr::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    message
}

fn default_route(index: u32, gateway: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(&gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    let hop = match gateway {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    };
    message.attributes.push(RouteAttribute::Gateway(hop));
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

fn link_state(message: &LinkMessage) -> LinkState {
    let mut state = LinkState { index: message.header.index, ..LinkState::default() };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => state.name.clone_from(name),
            LinkAttribute::Controller(index) => state.master = *index,
            LinkAttribute::Address(mac) => state.mac.clone_from(mac),
            LinkAttribute::Link(index) => state.peer = *index,
            LinkAttribute::Group(group) => state.group = *group,
            LinkAttribute::LinkInfo(infos) => {
                state.is_bridge = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Bridge)));
                state.isolated = infos.iter().any(|info| match info {
                    LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
                        port.contains(&InfoBridgePort::Isolated(true))
                    }
                    _ => false,
                });
            }
            _ => {}
        }
    }
    state
}
