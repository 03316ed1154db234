//! What the shims of the pool have to say: they share one FIFO in the state folder as their stderr, which is copied to
//! the daemon's log.
//!
//! What always holds: no shim waits for the daemon, and none hears of its end; what shims said while it was away is read
//! by the next one, as far as a FIFO holds it.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use super::pool::above_shim_fds;
use super::sys::watch_readable;
use crate::error::{Error, Result};

/// Its name in the state folder.
pub const NAME: &str = "shims.fifo";

/// A line is no longer than a FIFO takes at once; what has no end after so many bytes is cut.
const LINE: usize = 4096;

/// The open FIFO; while it exists it is read.
pub struct ShimLog {
    writer: OwnedFd,
    reader: tokio::task::JoinHandle<()>,
}

impl ShimLog {
    /// Makes the FIFO, or finds the one from before. Needs a tokio runtime.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub fn open(state: &Path) -> Result<Self> {
        let path = state.join(NAME);
        let fail = |errno: Errno| Error::io("opening the FIFO for what shims say", &path, errno.into());
        match rustix::fs::lstat(&path) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo => {}
            Ok(_) | Err(Errno::NOENT) => {
                let _ = rustix::fs::unlink(&path);
                rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).map_err(fail)?;
            }
            Err(errno) => return Err(fail(errno)),
        }
        let flags = OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        // Each shim has the reading end, too, so that writing does not fail when the daemon is away.
        let writer = rustix::fs::open(&path, flags | OFlags::RDWR, Mode::empty()).map_err(fail)?;
        let writer = above_shim_fds(writer)
            .map_err(|error| Error::io("copying the descriptor of what shims say", &path, error))?;
        let reader = rustix::fs::open(&path, flags | OFlags::RDONLY, Mode::empty()).map_err(fail)?;
        let reader = watch_readable(reader)
            .map_err(|error| Error::io("watching the FIFO for what shims say", &path, error))?;
        Ok(Self { writer, reader: tokio::spawn(copy(reader)) })
    }

    /// What shims get as stderr.
    pub fn stderr(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }
}

impl Drop for ShimLog {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn copy(fifo: AsyncFd<OwnedFd>) {
    let mut pending = Vec::new();
    let mut bytes = [0u8; LINE];
    loop {
        let Ok(mut ready) = fifo.readable().await else { return };
        let read = ready.try_io(|fd| rustix::io::read(fd, &mut bytes).map_err(io::Error::from));
        let Ok(Ok(count)) = read else { continue };
        pending.extend_from_slice(bytes.get(..count).unwrap_or_default());
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            say(&line);
        }
        if pending.len() > LINE {
            say(&pending);
            pending.clear();
        }
    }
}

fn say(line: &[u8]) {
    let text = String::from_utf8_lossy(line);
    let text = text.trim();
    if text.contains(" level=error ") {
        tracing::error!(target: "shim", "{text}");
    } else if !text.is_empty() {
        tracing::warn!(target: "shim", "{text}");
    }
}
