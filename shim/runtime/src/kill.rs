//! Signalling one process, by its pidfd.

use crate::sys::process::pidfd_send_signal;
use crate::{Error, Process, Result};
use rustix::fd::AsFd;
use rustix::io::Errno;

pub(crate) fn kill(process: &Process, signal: i32) -> Result<()> {
    match pidfd_send_signal(process.pidfd.as_fd(), signal) {
        Ok(()) => Ok(()),
        Err(Errno::SRCH) => Err(Error::NotRunning),
        Err(Errno::INVAL) => Err(Error::InvalidSpec {
            field: "signal".into(),
            why: format!("{signal} is no signal of this kernel"),
        }),
        Err(errno) => Err(Error::System { doing: "signal the process", source: errno.into() }),
    }
}
