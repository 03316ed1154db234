//! A connection to a port of the host, and the one to the container that it goes on in.
//!
//! What always holds: each direction ends by itself, when its source has ended or its sink takes no more, and the other goes
//! on; what is dead is found out, and what carries nothing for very long ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::net::sockopt;

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
    /// The sink was told that nothing more comes, or takes nothing more.
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
    /// When it last carried something.
    used: Instant,
}

impl Pair {
    /// Accepts a connection and begins to connect to the container; `None`: it came to nothing, and only it.
    ///
    /// The socket to the container is had first: whoever is accepted and cannot be led on for want of descriptors would be lost.
    pub fn accept(listener: &TcpListener, target: SocketAddr) -> std::io::Result<Option<Pair>> {
        let far = crate::dns::stream_for(target)?;
        let (near, _) = listener.accept()?;
        Ok(Pair::new(near, far, target).ok())
    }

    fn new(near: TcpStream, far: OwnedFd, target: SocketAddr) -> std::io::Result<Pair> {
        near.set_nonblocking(true)?;
        let far = crate::dns::connect_by(far, target)?;
        // Whoever wrote little wants it to arrive now, as without us between.
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        keep_alive(&near)?;
        keep_alive(&far)?;
        let end = |socket| End { socket, watched: None };
        Ok(Pair {
            near: end(near),
            far: end(far),
            connected: false,
            inward: Flow::default(),
            outward: Flow::default(),
            broken: false,
            used: Instant::now(),
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
        if self.broken || !self.connected {
            self.broken |= flags.contains(Flags::ERR);
            return;
        }
        if flags.contains(Flags::ERR) {
            self.failed(side);
        }
        let moved = self.inward.pump(&self.near.socket, &self.far.socket, scratch)
            | self.outward.pump(&self.far.socket, &self.near.socket, scratch);
        if moved && !(self.inward.told && self.outward.told) {
            self.used = Instant::now();
        }
    }

    /// An end has failed: nothing can be sent to it any more. What came from it before is still there to be read.
    fn failed(&mut self, side: Side) {
        let _ = self.end(side).socket.take_error();
        match side {
            Side::Near => self.outward.finish(&self.near.socket),
            Side::Far => self.inward.finish(&self.far.socket),
        }
    }

    /// Looks after what nothing was heard of: an end that is not watched may have failed, and nothing may have been carried for too
    /// long.
    pub fn look_after(&mut self, now: Instant) {
        // Where nothing is carried any more, one end has yet to say that it knows.
        let patience = match self.inward.told && self.outward.told {
            true => limits::PORT_LINGER,
            false => limits::PORT_IDLE,
        };
        self.broken |= now.saturating_duration_since(self.used) > patience;
        for side in [Side::Near, Side::Far] {
            if self.connected && matches!(self.end(side).socket.take_error(), Ok(Some(_))) {
                self.failed(side);
            }
        }
    }

    fn end(&self, side: Side) -> &End {
        match side {
            Side::Near => &self.near,
            Side::Far => &self.far,
        }
    }

    /// Has both ends watched for what they wait for. False: there is nothing to wait for any more.
    pub fn watch(&mut self, poll: &Poll, number: u32) -> bool {
        if self.broken || (self.inward.is_over() && self.outward.is_over()) {
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
    /// Moves what can be moved, a bounded amount at a time; whether anything was.
    fn pump(&mut self, mut source: &TcpStream, mut sink: &TcpStream, scratch: &mut [u8]) -> bool {
        let mut moved = 0;
        while moved < limits::TURN {
            if !self.pending.is_empty() {
                match written(sink.write(&self.pending)) {
                    Ok(Some(length)) => {
                        moved += length;
                        self.pending.drain(..length);
                    }
                    Ok(None) => break,
                    Err(_) => self.finish(sink),
                }
                continue;
            }
            self.pending = Vec::new();
            if self.ended {
                self.finish(sink);
                break;
            }
            let length = match written(source.read(scratch)) {
                Ok(Some(length)) => length,
                Ok(None) => break,
                Err(_) => 0,
            };
            self.ended = length == 0;
            moved += length;
            // What nobody takes is read all the same: the source would be reset, and lose what it was sent.
            if !self.told && length > 0 {
                let bytes = scratch.get(..length).unwrap_or_default();
                match written(sink.write(bytes)) {
                    Ok(sent) => {
                        self.pending.extend_from_slice(bytes.get(sent.unwrap_or(0)..).unwrap_or_default());
                    }
                    Err(_) => self.finish(sink),
                }
            }
        }
        moved > 0
    }

    /// Nothing is sent this way any more.
    fn finish(&mut self, sink: &TcpStream) {
        if !self.told {
            (self.told, self.pending) = (true, Vec::new());
            // It may have gone meanwhile; then there is nobody to tell.
            let _ = sink.shutdown(Shutdown::Write);
        }
    }

    fn is_over(&self) -> bool {
        self.told && self.ended
    }
}

/// Has the kernel ask whether the other end is there when it says nothing.
fn keep_alive(socket: &TcpStream) -> std::io::Result<()> {
    let (after, between, most) = limits::PORT_KEEPALIVE;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, after)?;
    sockopt::set_tcp_keepintvl(socket, between)?;
    Ok(sockopt::set_tcp_keepcnt(socket, most)?)
}

/// `None`: not now.
fn written(result: std::io::Result<usize>) -> std::io::Result<Option<usize>> {
    match result {
        Ok(length) => Ok(Some(length)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NEAR: u32 = 0;

    /// A client, the pair, and the server that it leads to.
    fn chain() -> (TcpStream, Pair, TcpStream, Poll) {
        let (front, back) = (listener(), listener());
        let client = TcpStream::connect(front.local_addr().unwrap()).unwrap();
        let pair = Pair::accept(&front, back.local_addr().unwrap()).unwrap().unwrap();
        let (server, _) = back.accept().unwrap();
        for end in [&client, &server] {
            end.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        }
        (client, pair, server, Poll::new().unwrap())
    }

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    /// Runs the pair in a loop of its own until it has ended.
    fn run(mut pair: Pair, poll: Poll) -> std::thread::JoinHandle<usize> {
        std::thread::spawn(move || {
            let (mut scratch, mut turns) = (vec![0; limits::CHUNK], 0);
            while pair.watch(&poll, NEAR) {
                turns += 1;
                for (token, flags) in poll.wait(Some(Duration::from_secs(20))).unwrap() {
                    let side = if token == Token::Port(NEAR) { Side::Near } else { Side::Far };
                    pair.ready(side, flags, &mut scratch);
                }
            }
            pair.unwatch(&poll);
            turns
        })
    }

    #[test]
    fn an_answer_comes_after_the_question_has_ended() {
        let (mut client, pair, mut server, poll) = chain();
        let pair = run(pair, poll);
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut asked = String::new();
        server.read_to_string(&mut asked).unwrap();
        assert_eq!(asked, "question");
        std::thread::sleep(Duration::from_millis(50));
        server.write_all(b"answer").unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
        assert!(pair.join().unwrap() < 50, "it waits without turning");
    }

    #[test]
    fn an_answer_arrives_whole_though_the_server_reads_no_more() {
        let (mut client, pair, mut server, poll) = chain();
        let pair = run(pair, poll);
        client.write_all(&vec![1; 200_000]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let answer = vec![2; 300_000];
        let expected = answer.clone();
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            let _ = client.read_to_end(&mut got);
            got
        });
        server.write_all(&answer).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        // With most of the question unread: the kernel ends this by a reset.
        drop(server);
        assert!(reader.join().unwrap() == expected);
        pair.join().unwrap();
    }

    #[test]
    fn a_client_that_went_away_half_open_is_found_out() {
        let (client, mut pair, _server, poll) = chain();
        let mut scratch = vec![0; limits::CHUNK];
        assert!(pair.watch(&poll, NEAR));
        let settle = |pair: &mut Pair, scratch: &mut Vec<u8>| {
            while pair.watch(&poll, NEAR) {
                let ready = poll.wait(Some(Duration::from_millis(200))).unwrap();
                if ready.is_empty() {
                    return true;
                }
                for (token, flags) in ready {
                    let side = if token == Token::Port(NEAR) { Side::Near } else { Side::Far };
                    pair.ready(side, flags, scratch);
                }
            }
            false
        };
        client.shutdown(Shutdown::Write).unwrap();
        assert!(settle(&mut pair, &mut scratch), "the server may still answer");
        let now = Instant::now();
        pair.look_after(now);
        assert!(pair.watch(&poll, NEAR));
        pair.look_after(now + limits::PORT_IDLE + Duration::from_secs(1));
        assert!(!pair.watch(&poll, NEAR));
        assert!(sockopt::socket_keepalive(&pair.near.socket).unwrap());
        assert!(sockopt::socket_keepalive(&pair.far.socket).unwrap());
        pair.unwatch(&poll);
    }
}
