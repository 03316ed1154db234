//! Ending everything in a cgroup, and removing it.

use super::{CgroupPaths, read, write_at};
use crate::sys::process::pidfd_send_signal;
use crate::{Error, Result};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::AtFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often the processes are listed and killed again when some forked meanwhile.
const KILL_ROUNDS: u32 = 100;
/// How many processes are held by descriptors at a time.
const PIDFDS_MAX: usize = 128;
/// How long removal waits for processes that are about to vanish, and how long between two tries at most.
const REMOVE_PATIENCE: Duration = Duration::from_secs(10);
const REMOVE_PAUSE_MAX: Duration = Duration::from_millis(20);

impl CgroupPaths {
    /// Sends a signal to every process in them; with `SIGKILL` also to those that fork meanwhile.
    pub fn kill_all(&self, signal: i32) -> Result<()> {
        if signal != libc::SIGKILL {
            return self.signal_each(signal);
        }
        match self.kill_once()? {
            true => Ok(()),
            false => self.kill_until_gone(),
        }
    }

    /// Sends `SIGKILL` to every process in them and waits for nothing; answers whether there was none.
    pub fn kill_once(&self) -> Result<bool> {
        if self.v2().is_some_and(|group| write_at(group, "cgroup.kill", "1").is_ok()) {
            // A frozen v1 process does not die before it is thawed.
            let _ = self.thaw_v1();
        }
        // Also after cgroup.kill, which passes over a process whose first thread has ended.
        let pids = self.pids()?;
        if pids.is_empty() {
            return Ok(true);
        }
        self.signal_listed(&pids, libc::SIGKILL)?;
        let _ = self.thaw_v1();
        Ok(false)
    }

    /// Goes on after [`CgroupPaths::kill_once`] until nothing is left, or nothing more can be done, which takes seconds.
    pub fn kill_until_gone(&self) -> Result<()> {
        for round in 0..KILL_ROUNDS {
            std::thread::sleep(Duration::from_micros(200 << round.min(7)));
            if self.pids()?.is_empty() {
                break;
            }
            // There may be one that forks as fast as we kill: hold it still.
            let frozen = self.freeze_v1_now().is_ok();
            self.signal_each(libc::SIGKILL)?;
            if frozen {
                let _ = self.thaw_v1();
            }
        }
        Ok(())
    }

    fn signal_each(&self, signal: i32) -> Result<()> {
        self.signal_listed(&self.pids()?, signal)
    }

    /// Signals those of a list that are in the cgroups: by now an id may be another process's.
    fn signal_listed(&self, pids: &[i32], signal: i32) -> Result<()> {
        let open = |pid: i32| {
            let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            Some((pid, pidfd))
        };
        // A few at a time, as each takes a descriptor.
        for pids in pids.chunks(PIDFDS_MAX) {
            let held: Vec<_> = pids.iter().copied().filter_map(open).collect();
            // Listed again: an id that was given to another process meanwhile is not in the cgroup any more.
            let still = self.pids()?;
            let still = held.iter().filter(|(pid, _)| still.binary_search(pid).is_ok());
            signal_all(still.map(|(_, pidfd)| pidfd.as_fd()), signal)?;
        }
        Ok(())
    }
}

fn signal_all<'a>(processes: impl Iterator<Item = BorrowedFd<'a>>, signal: i32) -> Result<()> {
    for pidfd in processes {
        match pidfd_send_signal(pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => {
                return Err(Error::System {
                    doing: "signal a process of the container",
                    source: errno.into(),
                });
            }
        }
    }
    Ok(())
}

/// Removes a cgroup with those below it; gone already is success.
pub(super) fn remove_tree(dir: BorrowedFd<'_>, path: &Path, deadline: Instant) -> Result<(), Errno> {
    remove_children(dir, read::DEPTH_MAX, deadline)?;
    retry(deadline, || rustix::fs::rmdir(path))
}

/// When everything must have left the cgroups of one container.
pub(super) fn removal_deadline() -> Instant {
    Instant::now() + REMOVE_PATIENCE
}

fn remove_children(dir: BorrowedFd<'_>, depth: u32, deadline: Instant) -> Result<(), Errno> {
    for name in read::children(dir)? {
        let depth = depth.checked_sub(1).ok_or(Errno::LOOP)?;
        if let Some(child) = read::child(dir, &name)? {
            remove_children(child.as_fd(), depth, deadline)?;
        }
        retry(deadline, || rustix::fs::unlinkat(dir, name.as_c_str(), AtFlags::REMOVEDIR))?;
    }
    Ok(())
}

/// A process that was killed leaves its cgroup a moment later, one with much memory several moments.
fn retry(deadline: Instant, remove: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
    let mut pause = Duration::from_micros(50);
    loop {
        match remove() {
            Err(Errno::BUSY) if Instant::now() < deadline => std::thread::sleep(pause),
            Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
            other => return other,
        }
        pause = (pause * 2).min(REMOVE_PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// Ended whatever becomes of the test.
    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn an_id_that_went_to_another_process_is_not_signalled() {
        let name = format!("longshore-test-kill-{}", std::process::id());
        let host = crate::cgroups::host::detect().unwrap();
        let folders: Vec<_> = host.hierarchies.iter().map(|hierarchy| hierarchy.root.join(&name)).collect();
        let Some(Ok(())) = folders.iter().map(std::fs::create_dir).reduce(Result::and) else {
            eprintln!("skipped: no cgroups may be made here");
            return;
        };
        let cgroups = CgroupPaths::open(&format!("/{name}")).unwrap();
        let mut sleeper = Sleeper(Command::new("sleep").arg("60").spawn().unwrap());
        let listed = [sleeper.0.id() as i32];
        cgroups.signal_listed(&listed, libc::SIGKILL).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let spared = sleeper.0.try_wait().unwrap().is_none();
        for folder in &folders {
            let _ = std::fs::write(folder.join("cgroup.procs"), listed[0].to_string());
        }
        cgroups.signal_listed(&listed, libc::SIGKILL).unwrap();
        let ended = sleeper.0.wait().is_ok();
        drop(sleeper);
        cgroups.remove().unwrap();
        assert!(spared && ended, "spared {spared}, ended {ended}");
    }
}
