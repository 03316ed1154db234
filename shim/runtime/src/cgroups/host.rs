//! How this host arranges its cgroups: which hierarchies there are and where they are mounted.

use super::Mode;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Where hierarchies are mounted by convention.
const ROOT: &str = "/sys/fs/cgroup";
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
const CGROUP_SUPER_MAGIC: u64 = 0x27_e0eb;

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostHierarchy {
    /// As in `/proc/self/cgroup`: `cpu,cpuacct`, `name=systemd`, and empty for v2.
    pub(crate) controllers: String,
    pub(crate) root: PathBuf,
}

impl HostHierarchy {
    pub(crate) fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }
}

/// The host's hierarchies.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) mode: Mode,
    pub(crate) hierarchies: Vec<HostHierarchy>,
}

/// Looks at the host; a few microseconds.
pub(crate) fn detect() -> Result<Host> {
    let root = Path::new(ROOT);
    if magic(root) == Some(CGROUP2_SUPER_MAGIC) {
        let unified = HostHierarchy { controllers: String::new(), root: root.into() };
        return Ok(Host { mode: Mode::V2, hierarchies: vec![unified] });
    }
    let list = std::fs::read_to_string("/proc/self/cgroup").map_err(|source| Error::Io {
        doing: "read the list of cgroup hierarchies",
        path: "/proc/self/cgroup".into(),
        source,
    })?;
    let mut hierarchies: Vec<HostHierarchy> = Vec::new();
    for line in list.lines() {
        let Some(controllers) = line.split(':').nth(1) else { continue };
        if let Some(root) = mountpoint(controllers) {
            hierarchies.push(HostHierarchy { controllers: controllers.into(), root });
        }
    }
    let mode = match hierarchies.iter().filter(|h| h.is_v2()).count() {
        0 => Mode::V1,
        n if n == hierarchies.len() => Mode::V2,
        _ => Mode::Hybrid,
    };
    Ok(Host { mode, hierarchies })
}

/// Where a hierarchy is mounted: by its name as everybody does it, or else wherever the mount table says.
fn mountpoint(controllers: &str) -> Option<PathBuf> {
    let wanted = if controllers.is_empty() { CGROUP2_SUPER_MAGIC } else { CGROUP_SUPER_MAGIC };
    let name = match controllers {
        "" => "unified",
        named => named.strip_prefix("name=").unwrap_or(named),
    };
    let usual = Path::new(ROOT).join(name);
    if magic(&usual) == Some(wanted) {
        return Some(usual);
    }
    from_mount_table(&std::fs::read_to_string("/proc/self/mountinfo").ok()?, controllers)
}

fn magic(path: &Path) -> Option<u64> {
    rustix::fs::statfs(path).ok().map(|fs| fs.f_type as u64)
}

/// Finds the mount point of a hierarchy in the text of a mountinfo file.
fn from_mount_table(table: &str, controllers: &str) -> Option<PathBuf> {
    let matches = |kind: &str, options: &str| match controllers {
        "" => kind == "cgroup2",
        wanted => kind == "cgroup" && wanted.split(',').all(|c| options.split(',').any(|o| o == c)),
    };
    table.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let mut before = before.split(' ');
        let (root, target) = (before.nth(3)?, before.next()?);
        (root == "/" && matches(kind, options)).then(|| PathBuf::from(target.replace("\\040", " ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_hierarchies_in_unusual_places() {
        let table = "31 23 0:28 / /cg/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                     32 23 0:29 / /cg/two rw - cgroup2 none rw\n";
        assert_eq!(from_mount_table(table, "cpu,cpuacct").unwrap(), Path::new("/cg/cpu,cpuacct"));
        assert_eq!(from_mount_table(table, "").unwrap(), Path::new("/cg/two"));
        assert!(from_mount_table(table, "memory").is_none());
    }
}
