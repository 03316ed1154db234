//! Which ports of the host are published for whom.
//!
//! What always holds: a port of an address belongs to one container at a time; who asks for a taken one is told in docker's
//! words, whether a container of ours has it or another process of the host's.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use serde::{Deserialize, Serialize};

use crate::engine::config::{PortBinding, Protocol};

/// Ports of one container.
pub const MAX: usize = 4096;

/// Where ports come from that nobody asked for by number, if the host does not say.
const EPHEMERAL: (u16, u16) = (32768, 60999);

/// A port that is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    pub container_port: u16,
    pub protocol: Protocol,
    pub host_ip: IpAddr,
    pub host_port: u16,
}

/// Why a port cannot be published: docker's words.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    #[error("Bind for {0} failed: port is already allocated")]
    Allocated(SocketAddr),
    #[error("Error starting userland proxy: listen {protocol}{} {address}: {}", if address.is_ipv4() { 4 } else { 6 }, said(source))]
    Bind { protocol: &'static str, address: SocketAddr, source: io::Error },
    #[error("invalid IP address: {0}")]
    Address(String),
    #[error("all ports are allocated")]
    AllAllocated,
    #[error("{asked} ports are too many: one container can publish {MAX}")]
    TooMany { asked: usize },
}

/// As Go says it.
fn said(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => "bind: address already in use".to_owned(),
        io::ErrorKind::AddrNotAvailable => "bind: cannot assign requested address".to_owned(),
        io::ErrorKind::PermissionDenied => "bind: permission denied".to_owned(),
        _ => source.to_string(),
    }
}

type Place = (Protocol, u16);

/// All ports that are published.
#[derive(Default)]
pub struct Ports {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// Addresses on which a port is taken, and by whom.
    taken: BTreeMap<Place, Vec<(IpAddr, String)>>,
    /// The last one given out without having been asked for. The first is anyone: between the look at a port and the shim that
    /// holds it another process may take it, such as a second daemon that would look at the same.
    last: Option<u16>,
}

impl Ports {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds a port of the host for each wish and takes them all, or none.
    pub fn take(
        &self,
        container: &str,
        wishes: &[PortBinding],
        everywhere: &[IpAddr],
    ) -> Result<Vec<Published>, PortError> {
        if wishes.len() > MAX {
            return Err(PortError::TooMany { asked: wishes.len() });
        }
        let mut table = self.table();
        let mut published = Vec::new();
        for wish in wishes {
            let addresses = match wish.host_ip.as_str() {
                "" => everywhere.to_vec(),
                text => {
                    let bare = text.trim_start_matches('[').trim_end_matches(']');
                    vec![bare.parse().map_err(|_| PortError::Address(text.to_owned()))?]
                }
            };
            match table.find(container, wish, &addresses) {
                Ok(port) => published.extend(addresses.into_iter().map(|host_ip| Published {
                    container_port: wish.container_port,
                    protocol: wish.protocol,
                    host_ip,
                    host_port: port,
                })),
                Err(error) => {
                    table.release(container);
                    return Err(error);
                }
            }
        }
        Ok(published)
    }

    /// A container that runs has these already.
    pub fn are_taken(&self, container: &str, published: &[Published]) {
        let mut table = self.table();
        for port in published {
            let place = table.taken.entry((port.protocol, port.host_port)).or_default();
            place.push((port.host_ip, container.to_owned()));
        }
    }

    pub fn release(&self, container: &str) {
        self.table().release(container);
    }
}

impl Table {
    fn release(&mut self, container: &str) {
        self.taken.retain(|_, owners| {
            owners.retain(|(_, owner)| owner != container);
            !owners.is_empty()
        });
    }

    /// The first port that is free on all of the addresses.
    fn find(&mut self, owner: &str, wish: &PortBinding, addresses: &[IpAddr]) -> Result<u16, PortError> {
        let asked = wish.host_port_first != 0;
        let (first, last) = match asked {
            true => (wish.host_port_first, wish.host_port_last.max(wish.host_port_first)),
            false => ephemeral(),
        };
        let count = u32::from(last - first) + 1;
        let skip = match asked {
            true => 0,
            false => u32::from(self.last.unwrap_or_else(rand::random).wrapping_sub(first)) % count + 1,
        };
        let mut failure = PortError::AllAllocated;
        for step in 0..count {
            let port = first + ((skip + step) % count) as u16;
            match self.check(wish.protocol, port, addresses) {
                Ok(()) => {
                    let owners = self.taken.entry((wish.protocol, port)).or_default();
                    owners.extend(addresses.iter().map(|address| (*address, owner.to_owned())));
                    if !asked {
                        self.last = Some(port);
                    }
                    return Ok(port);
                }
                Err(error) => {
                    // An address that is not the host's has no free port at all.
                    let hopeless = matches!(&error, PortError::Bind { source, .. } if source.kind() != io::ErrorKind::AddrInUse);
                    failure = error;
                    if hopeless {
                        break;
                    }
                }
            }
        }
        Err(failure)
    }

    fn check(&self, protocol: Protocol, port: u16, addresses: &[IpAddr]) -> Result<(), PortError> {
        let owners = self.taken.get(&(protocol, port)).map(Vec::as_slice).unwrap_or_default();
        for address in addresses {
            let clash = |other: &IpAddr| {
                let same_family = other.is_ipv4() == address.is_ipv4();
                same_family && (other == address || other.is_unspecified() || address.is_unspecified())
            };
            if owners.iter().any(|(other, _)| clash(other)) {
                return Err(PortError::Allocated((*address, port).into()));
            }
            let address = SocketAddr::from((*address, port));
            probe(protocol, address).map_err(|errno| PortError::Bind {
                protocol: protocol.name(),
                address,
                source: errno.into(),
            })?;
        }
        Ok(())
    }
}

/// Whether the port could be bound: the shim does that, a moment later.
fn probe(protocol: Protocol, address: SocketAddr) -> Result<(), rustix::io::Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, None),
        Protocol::Udp => (SocketType::DGRAM, None),
        Protocol::Sctp => (SocketType::STREAM, Some(ipproto::SCTP)),
    };
    let socket = match rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, number) {
        // A kernel without SCTP sockets has nobody who could hold the port.
        Err(rustix::io::Errno::PROTONOSUPPORT) if protocol == Protocol::Sctp => return Ok(()),
        socket => socket?,
    };
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol == Protocol::Tcp {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)
}

/// The host's range of ports that nobody chooses.
fn ephemeral() -> (u16, u16) {
    let read = || {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
        let mut words = text.split_whitespace().map(str::parse);
        let range = (words.next()?.ok()?, words.next()?.ok()?);
        (range.0 > 0 && range.0 <= range.1).then_some(range)
    };
    read().unwrap_or(EPHEMERAL)
}

/// The addresses that a port without one is published on.
pub fn everywhere() -> Vec<IpAddr> {
    let has_ipv6 = std::fs::read_to_string("/proc/net/if_inet6").is_ok_and(|text| !text.is_empty());
    let v6 = has_ipv6.then_some(IpAddr::from(Ipv6Addr::UNSPECIFIED));
    std::iter::once(Ipv4Addr::UNSPECIFIED.into()).chain(v6).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(host_ip: &str, first: u16, last: u16) -> PortBinding {
        PortBinding {
            container_port: 80,
            host_ip: host_ip.to_owned(),
            host_port_first: first,
            host_port_last: last,
            ..PortBinding::default()
        }
    }

    /// A port that is free now.
    fn free() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn a_taken_port_is_refused_in_dockers_words() {
        let ports = Ports::default();
        let port = free();
        let all = [IpAddr::from(Ipv4Addr::UNSPECIFIED)];
        ports.take("a", &[wish("", port, port)], &all).unwrap();
        let error = ports.take("b", &[wish("", port, port)], &all).unwrap_err();
        assert_eq!(error.to_string(), format!("Bind for 0.0.0.0:{port} failed: port is already allocated"));
        let error = ports.take("b", &[wish("127.0.0.1", port, port)], &all).unwrap_err();
        assert_eq!(error.to_string(), format!("Bind for 127.0.0.1:{port} failed: port is already allocated"));
        ports.release("a");
        ports.take("b", &[wish("127.0.0.1", port, port)], &all).unwrap();
    }

    #[test]
    fn a_port_of_another_process_is_refused_in_dockers_words() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let error = Ports::default().take("a", &[wish("127.0.0.1", port, port)], &[]).unwrap_err();
        let words = format!(
            "Error starting userland proxy: listen tcp4 127.0.0.1:{port}: bind: address already in use"
        );
        assert_eq!(error.to_string(), words);
    }

    #[test]
    fn a_range_gives_its_first_free_port_and_nothing_is_kept_of_a_failure() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let first = other.local_addr().unwrap().port();
        let Some(last) = first.checked_add(20) else { return };
        let ports = Ports::default();
        let published = ports.take("a", &[wish("127.0.0.1", first, last)], &[]).unwrap();
        assert!((first + 1..=last).contains(&published[0].host_port));
        let wishes = [wish("127.0.0.1", first + 1, last), wish("127.0.0.1", first, first)];
        assert!(ports.take("b", &wishes, &[]).is_err());
        assert!(ports.table().taken.values().flatten().all(|(_, owner)| owner == "a"));
    }

    #[test]
    fn ports_that_nobody_chose_differ() {
        let ports = Ports::default();
        let published = ports.take("a", &[wish("127.0.0.1", 0, 0), wish("127.0.0.1", 0, 0)], &[]).unwrap();
        assert_ne!(published[0].host_port, published[1].host_port);
        let (first, last) = ephemeral();
        assert!(published.iter().all(|port| (first..=last).contains(&port.host_port)));
        let another = |_| Ports::default().take("a", &[wish("127.0.0.1", 0, 0)], &[]).unwrap()[0].host_port;
        let firsts: std::collections::BTreeSet<u16> = (0..4).map(another).collect();
        assert!(firsts.len() > 1, "another daemon begins elsewhere: {firsts:?}");
    }
}
