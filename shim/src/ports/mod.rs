//! Ports of the host that lead to the container. Rules of the firewall translate what they can; the shim keeps the ports bound,
//! so that nobody else of the host gets them, and passes on what comes to them all the same: from the host's loopback addresses,
//! over IPv6 to a container without, and everything where the host's firewall is to decide.
//!
//! What always holds: a port is held from before the container's program runs until its first process has ended, whether a
//! daemon runs or not; connections and senders are bounded, and one that is slow holds up itself only.

mod bind;
mod datagram;
mod stream;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use longshore_proto::longshore::shim::v1::{HeldPort, PublishRequest, held_port};

use crate::error::{Error, Result};
use crate::limits;
use crate::poll::{Flags, Poll, Token};
use crate::server::Shim;
use crate::timers::Timer;
use bind::Socket;
use datagram::Sessions;
use stream::{Pair, Side};

/// What a port is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    protocol: Protocol,
    host: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A port that is bound.
struct Held {
    key: Key,
    /// Where to pass on to.
    target: Option<SocketAddr>,
    socket: Socket,
    /// Whether epoll watches it.
    watched: bool,
}

impl Held {
    fn unwatch(&self, poll: &Poll) {
        if let Some(fd) = self.socket.fd() {
            poll.remove(fd);
        }
    }
}

/// All ports of one container, and what goes through them. Each is known to epoll by an even number; the far side of a
/// connection by the number after it.
#[derive(Default)]
pub struct Ports {
    held: BTreeMap<u32, Held>,
    pairs: BTreeMap<u32, Pair>,
    sessions: Sessions,
    next: u32,
    /// Why nothing could be accepted, until somebody has said it.
    refused: Option<std::io::Error>,
}

impl Ports {
    /// Holds these ports and no others, or fails and changes nothing.
    fn set(&mut self, poll: &Poll, wanted: &[(Key, Option<SocketAddr>)]) -> Result<()> {
        let mut added = Vec::new();
        for (key, target) in wanted {
            let is_new = !self.held.values().any(|held| held.key == *key);
            if is_new && !added.iter().any(|held: &Held| held.key == *key) {
                let socket = Socket::bind(*key)?;
                added.push(Held { key: *key, target: *target, socket, watched: false });
            }
        }
        let gone: Vec<u32> = self
            .held
            .iter()
            .filter(|(_, held)| !wanted.iter().any(|(key, _)| *key == held.key))
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            self.release(poll, number);
        }
        for held in self.held.values_mut() {
            if let Some((_, target)) = wanted.iter().find(|(key, _)| *key == held.key) {
                held.target = *target;
            }
        }
        for held in added {
            let number = self.number();
            self.held.insert(number, held);
        }
        self.watch(poll);
        Ok(())
    }

    fn release(&mut self, poll: &Poll, number: u32) {
        if let Some(held) = self.held.remove(&number) {
            held.unwatch(poll);
            self.sessions.forget(poll, number);
        }
    }

    fn close(&mut self, poll: &Poll) {
        let all: Vec<u32> = self.held.keys().copied().collect();
        all.into_iter().for_each(|number| self.release(poll, number));
        self.pairs.values().for_each(|pair| pair.unwatch(poll));
        self.pairs.clear();
    }

    fn number(&mut self) -> u32 {
        let number = self.next;
        self.next = self.next.checked_add(2).unwrap_or(0);
        number
    }

    /// Watches every port that can take more.
    fn watch(&mut self, poll: &Poll) {
        let full = self.pairs.len() >= limits::PORT_CONNECTIONS;
        for (number, held) in &mut self.held {
            let wants = held.target.is_some() && !(full && matches!(held.socket, Socket::Tcp(_)));
            if wants && !held.watched {
                let fd = held.socket.fd();
                held.watched = fd.is_some_and(|fd| poll.add(fd, Token::Port(*number), Flags::IN).is_ok());
            } else if held.watched && !wants {
                held.unwatch(poll);
                held.watched = false;
            }
        }
    }

    fn ready(&mut self, poll: &Poll, number: u32, flags: Flags, scratch: &mut [u8]) {
        let near = number & !1;
        if let Some(pair) = self.pairs.get_mut(&near) {
            let side = if number == near { Side::Near } else { Side::Far };
            pair.ready(side, flags, scratch);
            self.settle(poll, near);
        } else if self.held.contains_key(&number) {
            self.arrived(poll, number, scratch);
        } else {
            let held = &self.held;
            self.sessions.answer(number, scratch, |number| {
                match held.get(&number).map(|held| &held.socket) {
                    Some(Socket::Udp(socket)) => Some(socket),
                    _ => None,
                }
            });
        }
    }

    /// Something came to a port.
    fn arrived(&mut self, poll: &Poll, number: u32, scratch: &mut [u8]) {
        let fresh = self.number();
        let Some(held) = self.held.get_mut(&number) else { return };
        let Some(target) = held.target else { return };
        match &held.socket {
            Socket::Tcp(listener) => match Pair::accept(listener, target) {
                Ok(pair) => {
                    if let Some(pair) = pair {
                        self.pairs.insert(fresh, pair);
                        self.settle(poll, fresh);
                    }
                    if self.pairs.len() >= limits::PORT_CONNECTIONS {
                        self.watch(poll);
                    }
                }
                Err(error) if is_passing(&error) => {}
                // No descriptors, perhaps: it is tried again when the ports are looked after.
                Err(error) => {
                    poll.remove(listener);
                    held.watched = false;
                    self.refused = Some(error);
                }
            },
            Socket::Udp(socket) => {
                for _ in 0..limits::PORT_TURN {
                    match socket.recv_from(scratch) {
                        Ok((length, from)) => {
                            let datagram = scratch.get(..length).unwrap_or_default();
                            let next = &mut self.next;
                            let fresh = || {
                                let number = *next;
                                *next = next.checked_add(2).unwrap_or(0);
                                number
                            };
                            self.sessions.pass_on(poll, (number, from), target, datagram, fresh);
                        }
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                        // An answer that could not be delivered.
                        Err(_) => {}
                    }
                }
            }
            Socket::Sctp(_) => {}
        }
    }

    /// Watches a connection for what it waits for, or ends it.
    fn settle(&mut self, poll: &Poll, number: u32) {
        let Some(pair) = self.pairs.get_mut(&number) else { return };
        if pair.watch(poll, number) {
            return;
        }
        pair.unwatch(poll);
        self.pairs.remove(&number);
        if self.pairs.len() + 1 == limits::PORT_CONNECTIONS {
            self.watch(poll);
        }
    }

    /// Ends what is dead or too old, and accepts again.
    fn look_after(&mut self, poll: &Poll, now: Instant) {
        self.sessions.expire(poll, now);
        let all: Vec<u32> = self.pairs.keys().copied().collect();
        for number in all {
            if let Some(pair) = self.pairs.get_mut(&number) {
                pair.look_after(now);
            }
            self.settle(poll, number);
        }
        self.watch(poll);
    }

    /// When there is something to look after; `None`: never.
    fn next_look(&self) -> Option<Duration> {
        let full = self.pairs.len() >= limits::PORT_CONNECTIONS;
        let is_paused = |held: &Held| {
            held.target.is_some() && !held.watched && !(full && matches!(held.socket, Socket::Tcp(_)))
        };
        if self.held.values().any(is_paused) {
            Some(limits::SHORT)
        } else if !self.sessions.is_empty() {
            Some(limits::PORT_LOOK)
        } else {
            (!self.pairs.is_empty()).then_some(limits::PORT_CONNECTION_LOOK)
        }
    }
}

/// Errors of `accept` that belong to one connection only.
fn is_passing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock)
}

impl Shim {
    /// Says which ports of the host are held from now on.
    pub fn publish_ports(&mut self, request: PublishRequest) -> Result<()> {
        let inits = self.tasks.values().filter_map(|task| self.processes.get(&task.init));
        let pid = inits.filter(|init| init.is_alive()).map(|init| init.pid).next().ok_or(Error::Finished)?;
        self.hold_ports(&request.ports)?;
        if self.dns.is_none() {
            self.open_dns(pid, &request.dns)?;
        }
        Ok(())
    }

    /// Holds these ports and no others.
    pub fn hold_ports(&mut self, wanted: &[HeldPort]) -> Result<()> {
        if wanted.len() > limits::PORTS {
            return Err(Error::Limit { what: "ports of one container", limit: limits::PORTS });
        }
        let wanted: Vec<_> = wanted.iter().map(parse).collect::<Result<_>>()?;
        if wanted.is_empty() && self.ports.is_none() {
            return Ok(());
        }
        self.ports.get_or_insert_default().set(&self.poll, &wanted)
    }

    /// The container has ended.
    pub fn release_ports(&mut self) {
        if let Some(mut ports) = self.ports.take() {
            ports.close(&self.poll);
        }
    }

    pub fn on_port(&mut self, number: u32, flags: Flags) {
        let mut scratch = self.take_scratch();
        let mut refused = None;
        if let Some(ports) = &mut self.ports {
            ports.ready(&self.poll, number, flags, &mut scratch);
            refused = ports.refused.take();
            match ports.next_look() {
                Some(after) if refused.is_some() => self.timers.reset(after, Timer::Ports),
                Some(after) if !self.timers.is_set(Timer::Ports) => self.timers.set(after, Timer::Ports),
                _ => {}
            }
        }
        self.return_scratch(scratch);
        if let Some(error) = refused {
            self.cannot_accept(&error);
        }
    }

    pub fn on_ports_timer(&mut self) {
        if let Some(ports) = &mut self.ports {
            ports.look_after(&self.poll, Instant::now());
            if let Some(after) = ports.next_look() {
                self.timers.reset(after, Timer::Ports);
            }
        }
    }
}

fn parse(port: &HeldPort) -> Result<(Key, Option<SocketAddr>)> {
    let bad =
        |what: &str| Error::BadField { field: "ports", why: format!("{what} is no address with a port") };
    let address = |ip: &str, port: u32| -> Option<SocketAddr> {
        let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
        Some((ip.parse::<IpAddr>().ok()?, port).into())
    };
    let host = address(&port.host_ip, port.host_port).ok_or_else(|| bad(&port.host_ip))?;
    let target = match port.target_ip.as_str() {
        "" => None,
        ip => Some(address(ip, port.target_port).ok_or_else(|| bad(ip))?),
    };
    let protocol = match held_port::Protocol::try_from(port.protocol) {
        Ok(held_port::Protocol::Tcp) => Protocol::Tcp,
        Ok(held_port::Protocol::Udp) => Protocol::Udp,
        Ok(held_port::Protocol::Sctp) => Protocol::Sctp,
        Err(_) => return Err(Error::BadField { field: "ports", why: "a protocol that is not known".into() }),
    };
    // Its associations are not for us to pass on.
    let target = target.filter(|_| protocol != Protocol::Sctp);
    Ok((Key { protocol, host }, target))
}
