//! Signals as a descriptor: none ever interrupts the shim, and only SIGCHLD means anything to it. A container must
//! not end because somebody signals its shim; SIGKILL stays.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::{Error, Result};

/// The open descriptor; while it exists the signals are blocked.
pub struct Signals {
    fd: SignalFd,
}

const TAKEN: [Signal; 8] = [
    Signal::SIGCHLD,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGPIPE,
];

impl Signals {
    /// Blocks the signals and opens the descriptor.
    pub fn block() -> Result<Self> {
        let failed = |doing| move |errno: nix::errno::Errno| Error::System { doing, source: errno.into() };
        let set: SigSet = TAKEN.into_iter().collect();
        set.thread_block().map_err(failed("block signals"))?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(failed("open a signal descriptor"))?;
        Ok(Self { fd })
    }

    /// Takes one signal from the descriptor; whether SIGTERM was it.
    pub fn take(&self) -> Option<Taken> {
        let info = self.fd.read_signal().ok().flatten()?;
        let number = i32::try_from(info.ssi_signo).unwrap_or(0);
        Some(if number == libc::SIGTERM { Taken::Terminate } else { Taken::Other })
    }
}

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Ends a shim that still waits in the pool; nothing else.
    Terminate,
    Other,
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
