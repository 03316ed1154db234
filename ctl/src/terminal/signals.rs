//! Signals as a stream: blocked in this thread (and in those it starts afterwards) and read from a descriptor, so
//! that no handler runs anywhere.

use std::io;
use std::os::fd::AsFd;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::net::unix::pipe::Receiver;

/// `struct signalfd_siginfo`, of which the first four bytes are the signal's number.
const RECORD: usize = 128;

/// Of every signal, those that are about us and not about the container: our children, our pipes, our job
/// control, timers and faults.
const OWN: [Signal; 14] = [
    Signal::SIGCHLD,
    Signal::SIGPIPE,
    Signal::SIGURG,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGSYS,
];

pub struct Signals {
    /// tokio's reader of pipes does for any descriptor that can be polled.
    records: Receiver,
}

impl Signals {
    /// Every signal that a container may want.
    pub fn all() -> io::Result<Signals> {
        let mut set = SigSet::all();
        for signal in OWN {
            set.remove(signal);
        }
        Signals::take(&set)
    }

    /// Those after which a raw terminal has to be restored, and the change of its size.
    pub fn of_terminal() -> io::Result<Signals> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGWINCH, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
            set.add(signal);
        }
        Signals::take(&set)
    }

    fn take(set: &SigSet) -> io::Result<Signals> {
        set.thread_block()?;
        let fd = SignalFd::with_flags(set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let records = Receiver::from_owned_fd_unchecked(fd.as_fd().try_clone_to_owned()?)?;
        Ok(Signals { records })
    }

    /// The next signal's number. Dropping the future loses nothing.
    pub async fn next(&self) -> io::Result<i32> {
        let mut record = [0; RECORD];
        loop {
            self.records.readable().await?;
            match self.records.try_read(&mut record) {
                Ok(_) => return Ok(i32::from_ne_bytes([record[0], record[1], record[2], record[3]])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Signals by which a user means to end the command itself.
pub fn ends_command(signal: i32) -> bool {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT].iter().any(|&end| end as i32 == signal)
}

pub const WINCH: i32 = Signal::SIGWINCH as i32;
