//! A connection to a port of the host, and the one to the container that it goes on in.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use crate::limits;
use crate::poll::{Flags, Poll, Token};

/// Which end of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who connected to the host's port.
    Near,
    /// The container.
    Far,
}

/// One direction.
#[derive(Default)]
struct Flow {
    /// Read, and not written yet.
    pending: Vec<u8>,
    /// The source has ended.
    ended: bool,
    /// And the sink knows it.
    told: bool,
}

struct End {
    socket: TcpStream,
    watched: Option<Flags>,
}

/// The two connections.
pub struct Pair {
    near: End,
    far: End,
    /// Whether the connection to the container is made.
    connected: bool,
    inward: Flow,
    outward: Flow,
    broken: bool,
}

impl Pair {
    /// Begins to connect to the container.
    pub fn new(near: TcpStream, target: SocketAddr) -> std::io::Result<Pair> {
        near.set_nonblocking(true)?;
        let far = crate::dns::connect(target)?;
        // Whoever wrote little wants it to arrive now, as without us between.
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let end = |socket| End { socket, watched: None };
        Ok(Pair {
            near: end(near),
            far: end(far),
            connected: false,
            inward: Flow::default(),
            outward: Flow::default(),
            broken: false,
        })
    }

    pub fn ready(&mut self, side: Side, flags: Flags, scratch: &mut [u8]) {
        if side == Side::Far && !self.connected {
            match self.far.socket.take_error() {
                Ok(None) if flags.contains(Flags::OUT) => self.connected = true,
                Ok(None) => return,
                _ => self.broken = true,
            }
        }
        if flags.contains(Flags::ERR) {
            self.broken |= !matches!(self.end(side).socket.take_error(), Ok(None));
        }
        if self.broken || !self.connected {
            return;
        }
        self.broken |= self.inward.pump(&self.near.socket, &self.far.socket, scratch).is_err()
            || self.outward.pump(&self.far.socket, &self.near.socket, scratch).is_err();
    }

    fn end(&self, side: Side) -> &End {
        match side {
            Side::Near => &self.near,
            Side::Far => &self.far,
        }
    }

    /// Has both ends watched for what they wait for. False: there is nothing to wait for any more.
    pub fn watch(&mut self, poll: &Poll, number: u32) -> bool {
        if self.broken || (self.inward.told && self.outward.told) {
            return false;
        }
        let (near, far) = if self.connected {
            (wants(&self.inward, &self.outward), wants(&self.outward, &self.inward))
        } else {
            (Flags::empty(), Flags::OUT)
        };
        self.near.watch(poll, number, near) && self.far.watch(poll, number + 1, far)
    }

    pub fn unwatch(&self, poll: &Poll) {
        for end in [&self.near, &self.far] {
            if end.watched.is_some() {
                poll.remove(&end.socket);
            }
        }
    }
}

/// What an end is watched for that is the source of one flow and the sink of another.
fn wants(source: &Flow, sink: &Flow) -> Flags {
    let mut flags = Flags::empty();
    flags.set(Flags::IN, !source.ended && source.pending.is_empty());
    flags.set(Flags::OUT, !sink.pending.is_empty());
    flags
}

impl End {
    /// An end that waits for nothing is not watched at all: epoll would go on to say that it was hung up.
    fn watch(&mut self, poll: &Poll, number: u32, flags: Flags) -> bool {
        let wanted = (!flags.is_empty()).then_some(flags);
        if wanted == self.watched {
            return true;
        }
        let done = match (self.watched, wanted) {
            (None, Some(flags)) => poll.add(&self.socket, Token::Port(number), flags),
            (Some(_), Some(flags)) => poll.change(&self.socket, Token::Port(number), flags),
            (_, None) => {
                poll.remove(&self.socket);
                Ok(())
            }
        };
        self.watched = wanted;
        done.is_ok()
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Flow {
    /// Moves what can be moved, a bounded amount at a time.
    fn pump(
        &mut self,
        mut source: &TcpStream,
        mut sink: &TcpStream,
        scratch: &mut [u8],
    ) -> std::io::Result<()> {
        let mut moved = 0;
        loop {
            while !self.pending.is_empty() {
                match written(sink.write(&self.pending))? {
                    Some(length) => {
                        self.pending.drain(..length);
                    }
                    None => return Ok(()),
                }
            }
            self.pending = Vec::new();
            if self.ended || moved >= limits::TURN {
                break;
            }
            let Some(length) = written(source.read(scratch))? else { break };
            self.ended = length == 0;
            moved += length;
            let bytes = scratch.get(..length).unwrap_or_default();
            let sent = if bytes.is_empty() { 0 } else { written(sink.write(bytes))?.unwrap_or(0) };
            self.pending.extend_from_slice(bytes.get(sent..).unwrap_or_default());
        }
        if self.ended && !self.told {
            self.told = true;
            // The other side may have gone meanwhile; then there is nobody to tell.
            let _ = sink.shutdown(Shutdown::Write);
        }
        Ok(())
    }
}

/// `None`: not now.
fn written(result: std::io::Result<usize>) -> std::io::Result<Option<usize>> {
    match result {
        Ok(length) => Ok(Some(length)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}
