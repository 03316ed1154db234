//! Datagrams to a port of the host: each sender has a socket towards the container, so that what comes back finds him.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use crate::limits;
use crate::poll::{Flags, Poll, Token};

/// A port, by its number, and who sends to it.
type Sender = (u32, SocketAddr);

struct Session {
    sender: Sender,
    target: SocketAddr,
    socket: UdpSocket,
    used: Instant,
}

/// All senders of one container.
#[derive(Default)]
pub struct Sessions {
    by_number: BTreeMap<u32, Session>,
    by_sender: BTreeMap<Sender, u32>,
}

impl Sessions {
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// Passes a datagram on; one that cannot be is lost, as datagrams are.
    pub fn pass_on(
        &mut self,
        poll: &Poll,
        sender: Sender,
        target: SocketAddr,
        datagram: &[u8],
        fresh: impl FnOnce() -> u32,
    ) {
        if let Some(number) = self.by_sender.get(&sender).copied()
            && self.by_number.get(&number).is_none_or(|session| session.target != target)
        {
            self.end(poll, number);
        }
        if !self.by_sender.contains_key(&sender) {
            self.make_room(poll);
            let number = fresh();
            let Ok(socket) = open(target) else { return };
            if poll.add(&socket, Token::Port(number), Flags::IN).is_err() {
                return;
            }
            self.by_number.insert(number, Session { sender, target, socket, used: Instant::now() });
            self.by_sender.insert(sender, number);
        }
        let session = self.by_sender.get(&sender).and_then(|number| self.by_number.get_mut(number));
        if let Some(session) = session {
            session.used = Instant::now();
            let _ = session.socket.send(datagram);
        }
    }

    /// Brings back what the container has answered.
    pub fn answer<'a>(
        &mut self,
        number: u32,
        scratch: &mut [u8],
        port: impl Fn(u32) -> Option<&'a UdpSocket>,
    ) {
        let Some(session) = self.by_number.get_mut(&number) else { return };
        let Some(socket) = port(session.sender.0) else { return };
        for _ in 0..limits::PORT_TURN {
            // What the container refuses is told by an error, which is nothing to pass on.
            match session.socket.recv(scratch) {
                Ok(length) => {
                    session.used = Instant::now();
                    let _ = socket.send_to(scratch.get(..length).unwrap_or_default(), session.sender.1);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => {}
            }
        }
    }

    /// The port is held no longer.
    pub fn forget(&mut self, poll: &Poll, port: u32) {
        let theirs = self.by_number.iter().filter(|(_, session)| session.sender.0 == port);
        let numbers: Vec<u32> = theirs.map(|(number, _)| *number).collect();
        numbers.into_iter().for_each(|number| self.end(poll, number));
    }

    pub fn expire(&mut self, poll: &Poll, now: Instant) {
        let is_late = |session: &Session| now.saturating_duration_since(session.used) > limits::PORT_SESSION;
        let late = self.by_number.iter().filter(|(_, session)| is_late(session));
        let numbers: Vec<u32> = late.map(|(number, _)| *number).collect();
        numbers.into_iter().for_each(|number| self.end(poll, number));
    }

    fn make_room(&mut self, poll: &Poll) {
        if self.by_number.len() >= limits::PORT_SESSIONS {
            let oldest = self.by_number.iter().min_by_key(|(_, session)| session.used);
            if let Some(number) = oldest.map(|(number, _)| *number) {
                self.end(poll, number);
            }
        }
    }

    fn end(&mut self, poll: &Poll, number: u32) {
        if let Some(session) = self.by_number.remove(&number) {
            poll.remove(&session.socket);
            self.by_sender.remove(&session.sender);
        }
    }
}

fn open(target: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(target)?;
    Ok(socket)
}
