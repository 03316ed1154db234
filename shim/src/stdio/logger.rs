//! The program that a `binary://` URI names: it gets both output streams and keeps them where it likes.
//!
//! What always holds: it is started before the container and has said that it is ready, for which the loop does not wait; it
//! reads end of file when both streams have ended; it is reaped, and killed if it does not leave.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};

use super::uri::LoggerTarget;
use crate::error::{Error, Result};
use crate::{files, limits, sys};

/// Which container a process's stdio belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    pub id: &'a str,
    pub namespace: &'a str,
}

/// A logging program that runs.
pub struct Logger {
    pub pid: i32,
    /// Whether it was told to end.
    told: bool,
}

impl Logger {
    /// Starts it; gives back its beginning, which must be waited for, and where stdout and stderr go.
    pub fn start(
        target: &LoggerTarget,
        identity: &Identity<'_>,
    ) -> Result<(Self, LoggerStart, [OwnedFd; 2])> {
        let failed = |source: io::Error| Error::Io {
            doing: "start the logging program",
            path: target.program.clone(),
            source,
        };
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()));
        let ((out, to_out), (err, to_err), (ready, say_ready)) = (pipe()?, pipe()?, pipe()?);
        let mut command = Command::new(&target.program);
        command.args(&target.args).env_clear();
        command.env("CONTAINER_ID", identity.id).env("CONTAINER_NAMESPACE", identity.namespace);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.process_group(0);
        sys::hand_over(&mut command, [out.as_raw_fd(), err.as_raw_fd(), say_ready.as_raw_fd()]);
        sys::limit_files(&mut command, files::inherited().and_then(|limit| limit.current));
        let child = command.spawn().map_err(failed)?;
        drop((out, err, say_ready));
        let logger = Self { pid: i32::try_from(child.id()).unwrap_or(0), told: false };
        for end in [&to_out, &to_err] {
            if let Err(error) = super::set_nonblocking(end) {
                signal(logger.pid, Signal::KILL);
                return Err(error);
            }
        }
        let start = LoggerStart { pid: logger.pid, program: target.program.clone(), ready };
        Ok((logger, start, [to_out, to_err]))
    }

    /// Tells it to end; again, and it is killed.
    pub fn end(&mut self) {
        signal(self.pid, if self.told { Signal::KILL } else { Signal::TERM });
        self.told = true;
    }
}

/// It is not reaped yet, so the number is still its.
fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// A logging program that has not said yet that it is ready.
pub struct LoggerStart {
    pid: i32,
    program: PathBuf,
    ready: OwnedFd,
}

impl LoggerStart {
    /// Waits until it is ready, which is not for the loop to do; one that does not get there is killed. Nobody may reap meanwhile.
    pub fn wait(self) -> Result<()> {
        await_ready(&self.ready).map_err(|source| {
            signal(self.pid, Signal::KILL);
            Error::Io { doing: "start the logging program", path: self.program, source }
        })
    }
}

/// It writes a byte, or closes the descriptor.
fn await_ready(ready: &OwnedFd) -> io::Result<()> {
    let limit = Timespec { tv_sec: limits::LOGGER_READY.as_secs() as i64, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(ready, PollFlags::IN)], Some(&limit)) {
            Ok(0) => {
                let limit = limits::LOGGER_READY.as_secs();
                return Err(io::Error::other(format!(
                    "it did not close or write descriptor 5 within {limit} s"
                )));
            }
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
