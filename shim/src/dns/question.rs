//! A question that other servers are asked, one after the other, by the way that it came: datagram or connection.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::Asker;
use super::client::Frames;
use super::message::{self, Question};
use crate::limits;
use crate::poll::{Flags, Poll, Token};

/// How a question stands.
pub enum Progress {
    Waiting,
    /// What its asker gets.
    Answered(Vec<u8>),
}

enum Way {
    /// No server was asked yet, or none could be.
    None,
    Datagram(UdpSocket),
    Stream {
        socket: TcpStream,
        output: Vec<u8>,
        input: Frames,
    },
}

/// One question under way.
pub struct Asked {
    pub asker: Asker,
    /// When the server that is being asked has had its time.
    pub deadline: Instant,
    way: Way,
    /// As it is sent: with an id of our own.
    message: Vec<u8>,
    id: u16,
    their_id: u16,
    end: usize,
    /// Whom else to ask, the next one last.
    servers: Vec<SocketAddr>,
    /// What the asker gets if nobody answers better.
    failure: Vec<u8>,
}

impl Asked {
    pub fn new(
        asker: Asker,
        question: &Question,
        mut message: Vec<u8>,
        mut servers: Vec<SocketAddr>,
        failure: Vec<u8>,
    ) -> Self {
        // Keyed at random, anew for each: nobody can tell the next from the last.
        let id = RandomState::new().build_hasher().finish() as u16;
        if let Some(place) = message.get_mut(..2) {
            place.copy_from_slice(&id.to_be_bytes());
        }
        servers.reverse();
        Self {
            asker,
            deadline: Instant::now(),
            way: Way::None,
            message,
            id,
            their_id: question.id,
            end: question.end(),
            servers,
            failure,
        }
    }

    /// The descriptor that epoll watches, if there is one.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.way {
            Way::None => None,
            Way::Datagram(socket) => Some(socket.as_fd()),
            Way::Stream { socket, .. } => Some(socket.as_fd()),
        }
    }

    /// Asks the next server that can be asked.
    pub fn ask_next(&mut self, poll: &Poll, number: u32) -> Progress {
        if let Some(fd) = self.fd() {
            poll.remove(fd);
        }
        self.way = Way::None;
        while let Some(server) = self.servers.pop() {
            let (way, flags) = match self.asker {
                Asker::Datagram(_) => (self.by_datagram(server), Flags::IN),
                Asker::Stream(_) => (self.by_stream(server), Flags::OUT),
            };
            let Ok(way) = way else { continue };
            self.way = way;
            if self.fd().is_some_and(|fd| poll.add(fd, Token::Dns(number), flags).is_ok()) {
                self.deadline = Instant::now() + limits::DNS_PATIENCE;
                return Progress::Waiting;
            }
            self.way = Way::None;
        }
        Progress::Answered(std::mem::take(&mut self.failure))
    }

    /// The server that is being asked has had its time.
    pub fn give_up(&mut self, poll: &Poll, number: u32) -> Progress {
        self.ask_next(poll, number)
    }

    fn by_datagram(&self, server: SocketAddr) -> std::io::Result<Way> {
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_nonblocking(true)?;
        socket.connect(server)?;
        socket.send(&self.message)?;
        Ok(Way::Datagram(socket))
    }

    fn by_stream(&self, server: SocketAddr) -> std::io::Result<Way> {
        let socket = connect(server)?;
        let length = u16::try_from(self.message.len()).unwrap_or(0);
        let output = [&length.to_be_bytes()[..], &self.message].concat();
        Ok(Way::Stream { socket, output, input: Frames::default() })
    }

    /// Something came, or can be sent.
    pub fn ready(&mut self, poll: &Poll, number: u32, flags: Flags, scratch: &mut [u8]) -> Progress {
        let answer = match &mut self.way {
            Way::None => return Progress::Waiting,
            Way::Datagram(socket) => match socket.recv(scratch) {
                Ok(length) => Some(scratch.get(..length).unwrap_or_default().to_vec()),
                Err(error) if is_early(&error) => return Progress::Waiting,
                Err(_) => None,
            },
            Way::Stream { socket, output, input } => match exchange(socket, output, input, flags, scratch) {
                Ok(Some(answer)) => Some(answer),
                Ok(None) => {
                    if output.is_empty() {
                        let _ = poll.change(socket.as_fd(), Token::Dns(number), Flags::IN);
                    }
                    return Progress::Waiting;
                }
                Err(_) => None,
            },
        };
        let Some(mut answer) = answer else { return self.ask_next(poll, number) };
        if !message::answers(&answer, self.id, &self.message, self.end) {
            // Not ours: perhaps somebody guesses. The true one may still come.
            return Progress::Waiting;
        }
        if let Some(place) = answer.get_mut(..2) {
            place.copy_from_slice(&self.their_id.to_be_bytes());
        }
        if message::is_failure(&answer) && !self.servers.is_empty() {
            self.failure = answer;
            return self.ask_next(poll, number);
        }
        Progress::Answered(answer)
    }
}

fn exchange(
    socket: &mut TcpStream,
    output: &mut Vec<u8>,
    input: &mut Frames,
    flags: Flags,
    scratch: &mut [u8],
) -> std::io::Result<Option<Vec<u8>>> {
    if flags.contains(Flags::OUT) && !output.is_empty() {
        match socket.write(output) {
            Ok(length) => {
                output.drain(..length);
            }
            Err(error) if is_early(&error) => {}
            Err(error) => return Err(error),
        }
    }
    if flags.intersects(Flags::IN | Flags::HUP | Flags::ERR) {
        match socket.read(scratch) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => input.push(scratch.get(..length).unwrap_or_default()),
            Err(error) if is_early(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(input.cut())
}

fn is_early(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Begins to connect.
pub fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    connect_by(stream_for(to)?, to)
}

/// A socket that can be connected to an address.
pub fn stream_for(to: SocketAddr) -> std::io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?)
}

/// Begins to connect by a socket that is there.
pub fn connect_by(socket: OwnedFd, to: SocketAddr) -> std::io::Result<TcpStream> {
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket.into()),
        Err(errno) => Err(errno.into()),
    }
}
