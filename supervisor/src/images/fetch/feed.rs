//! A blob that is still arriving, for readers on other threads: what is contiguous from the beginning can be read.
//!
//! What always holds: a reader sees each byte once it can no longer change; a reader that waits is woken when the blob is
//! complete, has failed, or its own work was cancelled.

#![forbid(unsafe_code)]

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::content::Parts;

/// How soon a cancelled reader notices.
const PATROL: Duration = Duration::from_millis(50);

pub struct Feed {
    parts: Parts,
    size: u64,
    frontier: watch::Receiver<u64>,
    /// Bytes that have come, in whatever order, and whether they are written yet or not.
    arrived: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    available: u64,
    failed: bool,
}

impl Feed {
    pub fn new(parts: Parts, size: u64, frontier: watch::Receiver<u64>) -> Arc<Feed> {
        let available = *frontier.borrow();
        let state = Mutex::new(State { available, failed: false });
        Arc::new(Feed { parts, size, frontier, arrived: AtomicU64::new(0), state, changed: Condvar::new() })
    }

    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that are there from the beginning.
    pub fn available(&self) -> u64 {
        *self.frontier.borrow()
    }

    /// Bytes came, which are written when there are enough of them.
    pub fn arrive(&self, bytes: usize) {
        self.arrived.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How many came: this moves while [`Feed::available`] waits for a piece to be whole.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// More was written.
    pub fn advance(&self) {
        let available = self.available();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.available != available {
            state.available = available;
            self.changed.notify_all();
        }
    }

    /// No more will come.
    pub fn fail(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failed = true;
        self.changed.notify_all();
    }

    // Blocks until there is more than `position`; the amount that is there.
    fn wait(&self, position: u64, cancel: &AtomicBool) -> io::Result<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.available > position || position >= self.size {
                return Ok(state.available.min(self.size));
            }
            if state.failed {
                return Err(io::Error::other("its download failed"));
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(io::Error::other("cancelled"));
            }
            state = self.changed.wait_timeout(state, PATROL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Reads a [`Feed`] from the beginning; blocks.
pub struct FeedReader {
    feed: Arc<Feed>,
    position: u64,
    cancel: Arc<AtomicBool>,
}

impl FeedReader {
    pub fn new(feed: Arc<Feed>, cancel: Arc<AtomicBool>) -> FeedReader {
        FeedReader { feed, position: 0, cancel }
    }
}

impl Read for FeedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.feed.wait(self.position, &self.cancel)?;
        let left = usize::try_from(available - self.position).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        if length == 0 {
            return Ok(0);
        }
        let count =
            self.feed.parts.read_at(self.position, &mut buffer[..length]).map_err(io::Error::other)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += count as u64;
        Ok(count)
    }
}
