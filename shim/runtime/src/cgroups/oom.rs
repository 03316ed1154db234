//! Noticing that memory ran out in a container, and telling the kernel's killer from any other `SIGKILL`.

use super::{CgroupPaths, read};
use crate::{Error, Result};
use rustix::event::EventfdFlags;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Becomes readable when memory runs out.
#[derive(Debug)]
pub(crate) struct OomWatch(pub(crate) OwnedFd);

impl CgroupPaths {
    /// Starts watching; `None` without a memory controller.
    pub(crate) fn watch_oom(&self) -> Result<Option<OomWatch>> {
        let system = |errno: Errno| Error::System {
            doing: "watch the cgroup for running out of memory",
            source: errno.into(),
        };
        if let Some(group) = self.v1("memory") {
            let event =
                rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(system)?;
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let control = rustix::fs::openat(group.dir(), c"memory.oom_control", flags, Mode::empty())
                .map_err(system)?;
            let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
            return match super::write_at(group, "cgroup.event_control", &line) {
                Ok(()) => Ok(Some(OomWatch(event))),
                // Kernels without v1 events still count.
                Err(Errno::NOENT | Errno::INVAL | Errno::OPNOTSUPP) => Ok(None),
                Err(errno) => Err(system(errno)),
            };
        }
        let Some(group) = self.v2() else { return Ok(None) };
        match rustix::fs::openat(
            group.dir(),
            c"memory.events",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(events) => Ok(Some(OomWatch(events))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(system(errno)),
        }
    }

    /// How many processes the out-of-memory killer has killed in them so far.
    pub fn oom_kills(&self) -> u64 {
        let (group, file) = match (self.v1("memory"), self.v2()) {
            (Some(group), _) => (group, "memory.oom_control"),
            (None, Some(group)) => (group, "memory.events"),
            (None, None) => return 0,
        };
        read::table_at(group.dir(), file).iter().find(|(name, _)| name == "oom_kill").map_or(0, |(_, n)| *n)
    }
}
