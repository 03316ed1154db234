//! A shim as a process: watched, killed and reaped through a pidfd, so never mistaken for another one.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::io::unix::AsyncFd;

use super::sys::watch_readable;

/// A shim's process. It is a child of this daemon, or of one before it.
pub struct ShimProcess {
    pid: i32,
    pidfd: AsyncFd<OwnedFd>,
}

impl ShimProcess {
    /// Takes hold of the process. The caller knows that the pid is still the shim's: it is an unreaped child,
    /// or it answered on its socket after this call.
    ///
    /// # Errors
    /// There is no such process, or no descriptor is left.
    pub fn open(pid: i32) -> io::Result<Self> {
        let number = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = rustix::process::pidfd_open(number, PidfdFlags::NONBLOCK)?;
        Ok(Self { pid, pidfd: watch_readable(pidfd)? })
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns when the process has ended, and reaps it if it is a child. Cancel safe.
    pub async fn ended(&self) {
        // An error means that the event loop is going away, and the daemon with it.
        let _ = self.pidfd.readable().await;
        self.reap();
    }

    /// [`ShimProcess::ended`], for at most `limit`: whether it ended.
    pub async fn ended_within(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.ended()).await.is_ok()
    }

    /// Whether it ended already; reaps it if it is a child.
    pub fn has_ended(&self) -> bool {
        let mut fds = [rustix::event::PollFd::new(self.pidfd.get_ref(), rustix::event::PollFlags::IN)];
        let zero = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let ended = rustix::event::poll(&mut fds, Some(&zero)).is_ok_and(|ready| ready > 0);
        if ended {
            self.reap();
        }
        ended
    }

    /// SIGKILL; a process that is gone already is no error.
    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL);
    }

    /// SIGKILL, and waits until it is gone and reaped.
    pub async fn kill_and_wait(&self, limit: Duration) -> bool {
        self.kill();
        self.ended_within(limit).await
    }

    fn reap(&self) {
        // ECHILD: the daemon before this one started it, so init reaps it.
        let _ = rustix::process::waitid(
            WaitId::PidFd(self.pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
    }
}

/// When a process was started, in clock ticks since boot: with the pid it names a process for ever. `None` if
/// there is no such process, or only what is left of it until it is reaped, which may take its parent seconds.
pub fn started_at(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so count from its end: field 22 is the 20th after it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let is_dead = matches!(fields.next()?, "Z" | "X");
    fields.nth(18)?.parse().ok().filter(|_| !is_dead)
}

#[cfg(test)]
mod tests {
    use super::started_at;

    #[test]
    fn a_process_that_has_ended_is_none() {
        assert!(started_at(i32::try_from(std::process::id()).unwrap()).is_some_and(|ticks| ticks > 0));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let is_zombie = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z ");
        while !is_zombie() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(started_at(pid), None);
        child.wait().unwrap();
    }
}
