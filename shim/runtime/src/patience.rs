//! Waiting for a process that is being set up.
//!
//! What always holds: nobody who shares its process ids can hold up the runtime by stopping it.

use crate::init::channel::Channel;
use crate::sys::SysResult;
use crate::{Error, Result, record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// How often a silent process is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long a killed process may take to end.
const END: Duration = Duration::from_secs(1);

/// What ended the wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A message, or the end of the channel.
    Something,
    /// The process is gone, and said nothing more.
    Exit,
}

/// How long to wait.
pub(crate) struct Patience {
    limit: Option<Duration>,
    since: Instant,
}

impl Patience {
    /// Counts from now; `None` for as long as the process does something, as it may run hooks.
    pub(crate) fn new(limit: Option<Duration>) -> Patience {
        Patience { limit, since: Instant::now() }
    }

    /// Waits until the process has something to say or is gone.
    ///
    /// # Errors
    /// [`Error::Stuck`] if it is stopped, or took too long.
    pub(crate) fn wait(&self, channel: &Channel, process: BorrowedFd<'_>, pid: i32) -> Result<Heard> {
        let system = |errno: Errno| Error::System { doing: "wait for the process", source: errno.into() };
        loop {
            let mut fds = [
                PollFd::from_borrowed_fd(channel.fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(process, PollFlags::IN),
            ];
            match poll_for(&mut fds, LOOK).map_err(system)? {
                0 => self.look_at(pid)?,
                // What it said comes before its end, but the end may have come between the two looks of one poll.
                _ if !fds[0].revents().is_empty()
                    || poll_for(&mut fds[..1], Duration::ZERO).map_err(system)? > 0 =>
                {
                    return Ok(Heard::Something);
                }
                _ => return Ok(Heard::Exit),
            }
        }
    }

    fn look_at(&self, pid: i32) -> Result<()> {
        let stuck = |why: String| Err(Error::Stuck { why });
        match record::moment_and_state(pid) {
            Some((_, b'T')) => stuck("was stopped by a signal from within the container".into()),
            _ => match self.limit {
                Some(limit) if self.since.elapsed() >= limit => {
                    stuck(format!("took longer than {} s", limit.as_secs()))
                }
                _ => Ok(()),
            },
        }
    }
}

/// Whether a killed process ends soon.
pub(crate) fn ends_soon(process: BorrowedFd<'_>) -> bool {
    ends_within(process, END)
}

/// Whether all threads of a process have ended: one whose first thread has ended alone is a zombie in /proc, and lives.
pub(crate) fn has_ended(process: BorrowedFd<'_>) -> bool {
    ends_within(process, Duration::ZERO)
}

/// Waits until all threads of the process behind a pidfd have ended, reaped or not, and answers whether they have in this
/// time.
pub fn ends_within(process: BorrowedFd<'_>, time: Duration) -> bool {
    poll_for(&mut [PollFd::from_borrowed_fd(process, PollFlags::IN)], time).is_ok_and(|ready| ready > 0)
}

/// Waits until one of the descriptors is ready, no longer than this; how many are. Allocates nothing.
pub(crate) fn poll_for(fds: &mut [PollFd<'_>], time: Duration) -> SysResult<usize> {
    // One that the clock cannot express never passes.
    let deadline = Instant::now().checked_add(time);
    loop {
        let left = deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
        match poll(fds, left.as_ref()) {
            Err(Errno::INTR) => continue,
            other => return other,
        }
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}
