//! Pausing and resuming everything in a cgroup.

use super::{CgroupPaths, read, write_at};
use crate::{Error, Result};
use std::time::{Duration, Instant};

/// How long a pause may take before it is undone and reported.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);

impl CgroupPaths {
    /// Freezes every process in them and waits until they are frozen. A process that cannot be frozen in time (stuck in
    /// the kernel) makes this fail, with everything thawed again.
    pub fn freeze(&self) -> Result<()> {
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        let mut pause = Duration::from_micros(20);
        while !self.try_freeze()? {
            if Instant::now() > deadline {
                self.thaw()?;
                let source = std::io::Error::from_raw_os_error(libc::ETIMEDOUT);
                return Err(Error::System {
                    doing: "freeze the container's processes (one is stuck in the kernel)",
                    source,
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Asks for the freeze and answers whether it is complete.
    fn try_freeze(&self) -> Result<bool> {
        if let Some(group) = self.v1("freezer") {
            self.freeze_v1_now()?;
            let state = read::text_at(group.dir(), "freezer.state").unwrap_or_default();
            return Ok(state.trim() == "FROZEN");
        }
        let group = self.v2().ok_or_else(no_freezer)?;
        write_at(group, "cgroup.freeze", "1").map_err(system)?;
        Ok(read::table_at(group.dir(), "cgroup.events")
            .iter()
            .any(|(name, value)| name == "frozen" && *value == 1))
    }

    pub(super) fn freeze_v1_now(&self) -> Result<()> {
        write_at(self.v1("freezer").ok_or_else(no_freezer)?, "freezer.state", "FROZEN").map_err(system)
    }

    /// Undoes [`CgroupPaths::freeze`].
    pub fn thaw(&self) -> Result<()> {
        match (self.v1("freezer"), self.v2()) {
            (Some(_), _) => self.thaw_v1(),
            (None, Some(group)) => write_at(group, "cgroup.freeze", "0").map_err(system),
            (None, None) => Err(no_freezer()),
        }
    }

    pub(super) fn thaw_v1(&self) -> Result<()> {
        write_at(self.v1("freezer").ok_or_else(no_freezer)?, "freezer.state", "THAWED").map_err(system)
    }

    /// Whether they are frozen now.
    pub fn is_frozen(&self) -> bool {
        match (self.v1("freezer"), self.v2()) {
            (Some(group), _) => {
                read::text_at(group.dir(), "freezer.state").is_ok_and(|state| state.trim() != "THAWED")
            }
            (None, Some(group)) => read::number_at(group.dir(), "cgroup.freeze") == Some(1),
            (None, None) => false,
        }
    }
}

fn no_freezer() -> Error {
    Error::NoController { field: "pause".into(), controller: "freezer" }
}

fn system(errno: rustix::io::Errno) -> Error {
    Error::System { doing: "freeze or thaw the container's processes", source: errno.into() }
}
