//! epoll, and the names by which the loop knows its descriptors.
//!
//! Every descriptor is taken out before it is closed: a child at its gate may hold a copy, and epoll would go on
//! reporting it.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

pub use rustix::event::epoll::EventFlags as Flags;
use rustix::event::{Timespec, epoll};

use crate::error::{Error, Result};

/// What became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Signals,
    Listener,
    /// The out-of-memory notification of the container whose first process has this serial number.
    Oom(u32),
    /// The connection to the daemon that events are sent to.
    Publisher,
    Connection(u32),
    /// What the command with this number says.
    Command(u32),
    /// A descriptor of a process's stdio.
    Stdio(u32, Channel),
    /// A socket of the names that the container looks up.
    Dns(u32),
    /// A port of the host, or what goes through it.
    Port(u32),
}

/// Which descriptor of a process's stdio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// What the process writes to: we read.
    Source(Stream),
    /// Where its output goes, if that can block.
    Sink(Stream),
    /// The process's stdin: we write.
    Stdin,
    /// The FIFO that a client writes stdin into.
    StdinFifo,
}

/// The two output streams; with a terminal there is only the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub const BOTH: [Self; 2] = [Self::Stdout, Self::Stderr];
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, id) = match self {
            Self::Signals => (0u64, 0),
            Self::Listener => (1, 0),
            Self::Oom(id) => (2, id),
            Self::Publisher => (10, 0),
            Self::Connection(id) => (3, id),
            Self::Stdio(id, Channel::Source(Stream::Stdout)) => (4, id),
            Self::Stdio(id, Channel::Source(Stream::Stderr)) => (5, id),
            Self::Stdio(id, Channel::Sink(Stream::Stdout)) => (6, id),
            Self::Stdio(id, Channel::Sink(Stream::Stderr)) => (7, id),
            Self::Stdio(id, Channel::Stdin) => (8, id),
            Self::Stdio(id, Channel::StdinFifo) => (9, id),
            Self::Command(id) => (11, id),
            Self::Dns(id) => (12, id),
            Self::Port(id) => (13, id),
        };
        kind << 32 | u64::from(id)
    }

    fn unpack(packed: u64) -> Option<Self> {
        let id = (packed & u64::from(u32::MAX)) as u32;
        Some(match packed >> 32 {
            0 => Self::Signals,
            1 => Self::Listener,
            2 => Self::Oom(id),
            10 => Self::Publisher,
            11 => Self::Command(id),
            12 => Self::Dns(id),
            13 => Self::Port(id),
            3 => Self::Connection(id),
            4 => Self::Stdio(id, Channel::Source(Stream::Stdout)),
            5 => Self::Stdio(id, Channel::Source(Stream::Stderr)),
            6 => Self::Stdio(id, Channel::Sink(Stream::Stdout)),
            7 => Self::Stdio(id, Channel::Sink(Stream::Stderr)),
            8 => Self::Stdio(id, Channel::Stdin),
            9 => Self::Stdio(id, Channel::StdinFifo),
            _ => return None,
        })
    }
}

/// How many descriptors one turn of the loop looks at.
const BATCH: usize = 32;

/// The epoll instance.
pub struct Poll {
    epoll: OwnedFd,
}

impl Poll {
    pub fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Error::system("create epoll"))?;
        Ok(Self { epoll })
    }

    /// Starts to watch a descriptor.
    pub fn add(&self, fd: impl AsFd, token: Token, flags: Flags) -> Result<()> {
        let data = epoll::EventData::new_u64(token.pack());
        epoll::add(&self.epoll, fd, data, flags).map_err(Error::system("watch a descriptor"))
    }

    /// Changes what is watched.
    pub fn change(&self, fd: impl AsFd, token: Token, flags: Flags) -> Result<()> {
        let data = epoll::EventData::new_u64(token.pack());
        epoll::modify(&self.epoll, fd, data, flags).map_err(Error::system("watch a descriptor"))
    }

    /// Stops watching; one that is not watched is fine.
    pub fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits until something is ready or the time has passed; `None`: for ever.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Vec<(Token, Flags)>> {
        let timeout = timeout.map(|t| Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(t.subsec_nanos()),
        });
        let empty = epoll::Event { flags: Flags::empty(), data: epoll::EventData::new_u64(0) };
        let mut ready = [empty; BATCH];
        let count = match epoll::wait(&self.epoll, &mut ready[..], timeout.as_ref()) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(errno) => return Err(Error::system("wait for epoll")(errno)),
        };
        let found = ready.iter().take(count);
        Ok(found.filter_map(|event| Some((Token::unpack(event.data.u64())?, event.flags))).collect())
    }
}
