//! A connection over which questions come, each after its length in two bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use super::message::LONGEST;
use crate::limits;
use crate::poll::Flags;

/// One connection from the container.
pub struct Client {
    socket: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    used: Instant,
    /// Nothing more comes.
    ended: bool,
    broken: bool,
}

impl Client {
    pub fn new(socket: TcpStream) -> Self {
        let (input, output) = (Vec::new(), Vec::new());
        Self { socket, input, output, used: Instant::now(), ended: false, broken: false }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads and writes what can be; the messages that are complete.
    pub fn ready(&mut self, flags: Flags, scratch: &mut [u8]) -> Vec<Vec<u8>> {
        self.used = Instant::now();
        if flags.contains(Flags::OUT) {
            self.flush();
        }
        if flags.intersects(Flags::IN | Flags::HUP | Flags::ERR) && !self.ended {
            match self.socket.read(scratch) {
                Ok(0) => self.ended = true,
                Ok(length) => self.input.extend_from_slice(scratch.get(..length).unwrap_or_default()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => self.broken = true,
            }
        }
        let mut messages = Vec::new();
        while let Some(message) = cut(&mut self.input) {
            messages.push(message);
        }
        messages
    }

    pub fn send(&mut self, answer: &[u8]) {
        let Ok(length) = u16::try_from(answer.len()) else { return };
        // Who asks and does not read is let go.
        if self.output.len() > limits::DNS_OUTPUT {
            self.broken = true;
            return;
        }
        self.output.extend(length.to_be_bytes());
        self.output.extend_from_slice(answer);
        self.flush();
    }

    fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(length) => {
                    self.output.drain(..length);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.broken |= error.kind() != ErrorKind::WouldBlock;
                    return;
                }
            }
        }
    }

    /// What it waits for; `None`: it is at its end.
    pub fn wants(&self, awaits_answers: bool) -> Option<Flags> {
        if self.broken || (self.ended && self.output.is_empty() && !awaits_answers) {
            return None;
        }
        let mut flags = Flags::empty();
        // Not while answers pile up.
        flags.set(Flags::IN, !self.ended && self.output.len() < LONGEST);
        flags.set(Flags::OUT, !self.output.is_empty());
        Some(flags)
    }

    pub fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) > limits::DNS_IDLE
    }
}

/// Takes the first whole message off.
pub fn cut(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(buffer.get(..2)?.try_into().ok()?));
    let message = buffer.get(2..2 + length)?.to_vec();
    buffer.drain(..2 + length);
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_at_their_lengths() {
        let mut buffer = vec![0, 2, 7, 8, 0, 0, 0, 3, 1];
        assert_eq!(cut(&mut buffer), Some(vec![7, 8]));
        assert_eq!(cut(&mut buffer), Some(Vec::new()));
        assert_eq!((cut(&mut buffer), buffer.as_slice()), (None, &[0, 3, 1][..]));
    }
}
