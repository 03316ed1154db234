//! What processes take: resident, proportional and private memory, and which processes belong to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::arena;

/// In KiB, from smaps_rollup; pages shared by several processes count by their share in `pss`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub rss: f64,
    pub pss: f64,
    pub private_dirty: f64,
}

impl Memory {
    /// Of one process; nothing if it is gone.
    pub fn of(pid: i32) -> Self {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0.0)
        };
        Self { rss: field("Rss:"), pss: field("Pss:"), private_dirty: field("Private_Dirty:") }
    }

    /// Of several processes together.
    pub fn sum<'a>(pids: impl IntoIterator<Item = &'a i32>) -> Self {
        pids.into_iter().map(|pid| Self::of(*pid)).fold(Self::default(), |a, b| Self {
            rss: a.rss + b.rss,
            pss: a.pss + b.pss,
            private_dirty: a.private_dirty + b.private_dirty,
        })
    }
}

/// The command's name of a process.
pub fn name(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// Processes that `owner` answers for: started with its mark, below such a process, or in a cgroup below one of `cgroups`.
pub fn processes(owner: &str, cgroups: &[String]) -> BTreeSet<i32> {
    let mut parents = BTreeMap::new();
    let mut found = BTreeSet::new();
    let pair = format!("{}={owner}", arena::OWNER);
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)) {
            parents.insert(pid, parent.parse::<i32>().unwrap_or(0));
        }
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|entry| entry == pair.as_bytes()) {
            found.insert(pid);
        }
    }
    for cgroup in cgroups {
        found.extend(in_cgroups(cgroup));
    }
    loop {
        let more: Vec<i32> = parents
            .iter()
            .filter(|(pid, parent)| found.contains(parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// Processes in the cgroup of that name, in any hierarchy, and below it.
pub fn in_cgroups(name: &str) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut todo: Vec<_> = arena::cgroup_folders(name);
    while let Some(folder) = todo.pop() {
        collect(&folder, &mut found);
        let below = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        todo.extend(below.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    found
}

fn collect(folder: &Path, found: &mut BTreeSet<i32>) {
    let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
}
