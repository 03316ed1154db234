//! The stdin of one process: bytes from a FIFO and from any number of clients, interleaved as they come.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::stdio::open_keeper;

/// A client's stream: connection and stream number.
pub type Client = (u32, u32);

struct Piece {
    bytes: Vec<u8>,
    taken: usize,
    from: Option<Client>,
}

/// What became of an attempt to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    /// Everything was written.
    All,
    /// The process must read first.
    Waits,
    /// Nobody reads any more, or everything was written and stdin was to be closed then.
    Ended,
}

/// The shim's side of a process's stdin.
pub struct Input {
    to: OwnedFd,
    /// Whether the loop watches for room.
    pub is_watched: bool,
    pieces: VecDeque<Piece>,
    waiting: usize,
    closes: bool,
    fifo: Option<OwnedFd>,
    /// Whether the loop watches the FIFO.
    pub is_fifo_watched: bool,
    keeper: Option<OwnedFd>,
}

impl Input {
    /// `to` is the process's stdin, non-blocking; `fifo` a FIFO to read from, non-blocking.
    pub fn new(to: OwnedFd, fifo: Option<OwnedFd>) -> Self {
        // Without the writer of our own the FIFO merely ends with its first client.
        let keeper = fifo.as_ref().and_then(|fifo| open_keeper(fifo.as_fd()).ok());
        Self {
            to,
            is_watched: false,
            pieces: VecDeque::new(),
            waiting: 0,
            closes: false,
            fifo,
            is_fifo_watched: false,
            keeper,
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.to.as_fd()
    }

    pub fn fifo(&self) -> Option<BorrowedFd<'_>> {
        self.fifo.as_ref().map(AsFd::as_fd)
    }

    /// The FIFO has ended.
    pub fn take_fifo(&mut self) -> Option<OwnedFd> {
        self.is_fifo_watched = false;
        self.fifo.take()
    }

    /// Lets go of our own writer of the FIFO: it ends with its clients.
    pub fn release_fifo(&mut self) {
        self.keeper = None;
    }

    /// Bytes that wait for the process.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Adds bytes; nothing is written yet.
    pub fn push(&mut self, bytes: Vec<u8>, from: Option<Client>) {
        if self.closes || bytes.is_empty() {
            return;
        }
        self.waiting += bytes.len();
        self.pieces.push_back(Piece { bytes, taken: 0, from });
    }

    /// Stdin ends after what waits now.
    pub fn close(&mut self) {
        self.closes = true;
    }

    /// Writes what waits. `taken` is told of each client whose bytes the process got.
    pub fn feed(&mut self, mut taken: impl FnMut(Client, usize)) -> Fed {
        while let Some(piece) = self.pieces.front_mut() {
            let rest = piece.bytes.get(piece.taken..).unwrap_or_default();
            if rest.is_empty() {
                self.pieces.pop_front();
                continue;
            }
            match rustix::io::write(&self.to, rest) {
                Ok(count) => {
                    piece.taken += count;
                    self.waiting -= count;
                    if let Some(client) = piece.from {
                        taken(client, count);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Fed::Waits,
                Err(_) => return Fed::Ended,
            }
        }
        if self.closes { Fed::Ended } else { Fed::All }
    }
}
