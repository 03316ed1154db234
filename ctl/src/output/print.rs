//! Writing to stdout and stderr without panics: a reader that went away ends the command quietly, and a reader
//! that is slow holds up neither signals nor the rest of the program.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;

use crate::failure::Failure;

/// A pipe that polls as writable takes this many bytes without blocking.
const PIPE_ATOMIC: usize = 4096;

/// Whether `--debug` or `--log-level debug` was given.
static DEBUG: AtomicBool = AtomicBool::new(false);

/// From now on what `debug` is told is shown.
pub fn show_debug() {
    DEBUG.store(true, Ordering::Relaxed);
}

/// A line on stderr for who looks for a fault.
pub fn debug(text: impl FnOnce() -> String) {
    if DEBUG.load(Ordering::Relaxed) {
        note(format!("DEBUG: {}", text()));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Stdout,
    Stderr,
}

impl Target {
    fn with_fd<T>(self, action: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        match self {
            Target::Stdout => action(io::stdout().as_fd()),
            Target::Stderr => action(io::stderr().as_fd()),
        }
    }
}

/// Prints `text` as it is to stdout.
pub fn out(text: &str) -> Result<(), Failure> {
    Target::Stdout.with_fd(|fd| write_all(fd, text.as_bytes())).map_err(Failure::from)
}

/// Prints a line to stdout.
pub fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    let mut text = text.as_ref().to_string();
    text.push('\n');
    out(&text)
}

/// Prints a line to stderr; that it cannot be written is no reason to fail.
pub fn note(text: impl AsRef<str>) {
    let _ = io::stderr().write_all(format!("{}\n", text.as_ref()).as_bytes());
}

/// Writes what a container printed. Blocks only in a thread of its own, when the reader is slow.
pub async fn forward(target: Target, bytes: Vec<u8>) -> Result<(), Failure> {
    if target.with_fd(is_file) {
        return target.with_fd(|fd| write_all(fd, &bytes)).map_err(Failure::from);
    }
    let mut written = 0;
    while written < bytes.len() && target.with_fd(is_writable) {
        let end = bytes.len().min(written + PIPE_ATOMIC);
        match target.with_fd(|fd| rustix::io::write(fd, &bytes[written..end])) {
            Ok(count) => written += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => break,
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    if written == bytes.len() {
        return Ok(());
    }
    let slow = tokio::task::spawn_blocking(move || target.with_fd(|fd| write_all(fd, &bytes[written..])));
    match slow.await {
        Ok(result) => result.map_err(Failure::from),
        Err(error) => Err(Failure::message(format!("writing output: {error}"))),
    }
}

/// A file has no reader that could be slow.
fn is_file(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

fn is_writable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&now)), Ok(ready) if ready > 0)
}

/// Writes everything, also to a descriptor that someone else made non-blocking.
fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
                match poll(&mut fds, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
