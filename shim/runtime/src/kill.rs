//! Signalling one process, by its pidfd.

use crate::{Process, Result};
use rustix::fd::AsFd;

pub(crate) fn kill(process: &Process, signal: i32) -> Result<()> {
    crate::record::signal(process.pidfd.as_fd(), signal)
}
