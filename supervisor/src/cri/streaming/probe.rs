//! Whether a peer has hung up, asked beside whoever reads the connection.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A second descriptor of a connection.
#[derive(Debug)]
pub struct Probe(OwnedFd);

impl Probe {
    /// `None` without a descriptor to spare: hanging up is then noticed by reading only.
    pub fn of(connection: impl AsFd) -> Option<Self> {
        connection.as_fd().try_clone_to_owned().ok().map(Self)
    }

    /// The peer has closed its end, though there may be bytes of it to read.
    pub fn hung_up(&self) -> bool {
        let mut polled = [PollFd::new(&self.0, PollFlags::RDHUP)];
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&none)).is_ok()
            && polled[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
    }
}
