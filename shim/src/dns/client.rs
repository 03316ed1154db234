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
    input: Frames,
    output: Vec<u8>,
    used: Instant,
    /// Nothing more comes.
    ended: bool,
    broken: bool,
}

impl Client {
    pub fn new(socket: TcpStream) -> Self {
        let (input, output) = (Frames::default(), Vec::new());
        Self { socket, input, output, used: Instant::now(), ended: false, broken: false }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Writes what can be, and reads unless questions wait already.
    pub fn ready(&mut self, flags: Flags, scratch: &mut [u8]) {
        self.used = Instant::now();
        if flags.contains(Flags::OUT) {
            self.flush();
        }
        let has_come = flags.intersects(Flags::IN | Flags::HUP | Flags::ERR);
        if has_come && !self.ended && !self.input.has_whole() {
            match self.socket.read(scratch) {
                Ok(0) => self.ended = true,
                Ok(length) => self.input.push(scratch.get(..length).unwrap_or_default()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => self.broken = true,
            }
        }
    }

    /// The next message that is complete.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        self.input.cut()
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

    /// What it waits for while so many of its questions are not answered; `None`: it is at its end.
    pub fn wants(&self, unanswered: usize) -> Option<Flags> {
        let waits = self.input.has_whole();
        if self.broken || (self.ended && self.output.is_empty() && unanswered == 0 && !waits) {
            return None;
        }
        let may_ask = unanswered < limits::DNS_CLIENT_ASKED && self.output.len() < LONGEST;
        let mut flags = Flags::empty();
        // Not while answers pile up.
        flags.set(Flags::IN, !self.ended && !waits && may_ask);
        // What waits gets its turn when there is room to write, which there is.
        flags.set(Flags::OUT, !self.output.is_empty() || (waits && may_ask));
        Some(flags)
    }

    pub fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) > limits::DNS_IDLE
    }
}

/// Messages as they come over a connection, each after its length in two bytes.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// So many of them were cut off already.
    start: usize,
}

impl Frames {
    pub fn push(&mut self, bytes: &[u8]) {
        // Once for all that was cut off since, so that no byte is moved for each message before it.
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    fn whole(&self) -> Option<&[u8]> {
        let rest = self.bytes.get(self.start..)?;
        let length = usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?));
        rest.get(2..2 + length)
    }

    pub fn has_whole(&self) -> bool {
        self.whole().is_some()
    }

    /// Takes the first whole message off.
    pub fn cut(&mut self) -> Option<Vec<u8>> {
        let message = self.whole()?.to_vec();
        self.start += 2 + message.len();
        if self.start == self.bytes.len() {
            (self.bytes, self.start) = (Vec::new(), 0);
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_at_their_lengths() {
        let mut frames = Frames::default();
        frames.push(&[0, 2, 7, 8, 0, 0, 0, 3, 1]);
        assert_eq!(frames.cut(), Some(vec![7, 8]));
        assert_eq!(frames.cut(), Some(Vec::new()));
        assert_eq!(frames.cut(), None);
        frames.push(&[2, 3]);
        assert_eq!(frames.cut(), Some(vec![1, 2, 3]));
        assert!(frames.bytes.is_empty());
    }

    #[test]
    fn very_many_messages_cost_no_more_each() {
        let mut frames = Frames::default();
        frames.push(&vec![0; 8 << 20]);
        let begun = Instant::now();
        let mut count = 0;
        while frames.cut().is_some() {
            count += 1;
        }
        assert_eq!(count, 4 << 20);
        // Moving the rest for each would take hours.
        assert!(begun.elapsed() < std::time::Duration::from_secs(60));
    }

    #[test]
    fn a_client_with_many_questions_waits_without_being_read() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut client = Client::new(listener.accept().unwrap().0);
        far.write_all(&[0, 1, 9, 0, 1, 9]).unwrap();
        client.ready(Flags::IN, &mut [0; 64]);
        assert!(client.next().is_some());
        assert_eq!(client.wants(1), Some(Flags::OUT), "one more has come");
        assert_eq!(client.wants(limits::DNS_CLIENT_ASKED), Some(Flags::empty()));
        assert!(client.next().is_some() && client.next().is_none());
        assert_eq!(client.wants(2), Some(Flags::IN));
    }
}
