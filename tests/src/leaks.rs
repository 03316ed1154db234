//! What of ours may still be on the host: processes, mounts, cgroups, interfaces, network namespaces.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Set in the environment of every process that a test starts, and inherited by their children.
pub const MARK: &str = "LONGSHORE_TEST";

/// Prefix of every cgroup and temporary folder that a test makes.
pub const PREFIX: &str = "longshore-test-";

fn mount_points() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

/// Every cgroup folder at most two levels below a hierarchy whose name has this prefix.
fn cgroups(prefix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(hierarchies) = fs::read_dir("/sys/fs/cgroup") else { return found };
    for hierarchy in hierarchies.flatten().filter(|entry| entry.path().is_dir()) {
        if hierarchy.file_name().to_string_lossy().starts_with(prefix) {
            found.push(hierarchy.path());
        }
        let Ok(groups) = fs::read_dir(hierarchy.path()) else { continue };
        found.extend(
            groups
                .flatten()
                .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
                .map(|entry| entry.path()),
        );
    }
    found
}

fn descend(folder: &Path, depth_first: &mut Vec<PathBuf>) {
    if let Ok(entries) = fs::read_dir(folder) {
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            descend(&entry.path(), depth_first);
        }
    }
    depth_first.push(folder.to_owned());
}

fn end(pid: i32, left: &mut Vec<String>) {
    if kill(Pid::from_raw(pid), None).is_ok() {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        left.push(format!("process {pid} ({})", name.trim()));
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Removes what a daemon with this folder and cgroup parent left, and says what that was.
pub fn sweep(folder: &Path, cgroup_parent: &str, shims: &[i32]) -> Vec<String> {
    let mut left = Vec::new();
    for shim in shims {
        end(*shim, &mut left);
    }
    for parent in cgroups(cgroup_parent) {
        let mut folders = Vec::new();
        descend(&parent, &mut folders);
        for group in folders {
            for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
                if let Ok(pid) = pid.parse() {
                    end(pid, &mut left);
                }
            }
            let deadline = Instant::now() + Duration::from_secs(5);
            while fs::remove_dir(&group).is_err() && group.exists() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            // The parent is the daemon's to keep; a container's own cgroup is not.
            if group != parent {
                left.push(format!("cgroup {}", group.display()));
            }
        }
    }
    let mut mounts: Vec<_> =
        mount_points().into_iter().filter(|point| point.starts_with(folder) && point != folder).collect();
    mounts.sort();
    for point in mounts.into_iter().rev() {
        left.push(format!("mount {}", point.display()));
        let _ = nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH);
    }
    left
}

/// Removes interfaces of these names and those that are part of them, and says which were there.
pub fn sweep_interfaces(names: &[String]) -> Vec<String> {
    let mut left = Vec::new();
    for name in names {
        let folder = Path::new("/sys/class/net").join(name);
        let ports = fs::read_dir(folder.join("brif")).into_iter().flatten().flatten();
        let ports = ports.map(|port| port.file_name().to_string_lossy().into_owned());
        let all: Vec<String> = ports.chain(folder.exists().then(|| name.clone())).collect();
        for one in all {
            let _ = std::process::Command::new("ip").args(["link", "delete", &one]).status();
            left.push(format!("interface {one}"));
        }
    }
    left
}

/// Removes an empty group below a cgroup parent: BuildKit leaves the one that the groups of its steps were in.
pub fn remove_group(parent: &str, name: &str) {
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let _ = fs::remove_dir(hierarchy.path().join(parent).join(name));
    }
}

/// Everything on the host that could be ours, as lines that can be compared between two moments.
pub fn inventory() -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for point in mount_points().into_iter().filter(|point| point.to_string_lossy().contains(PREFIX)) {
        lines.insert(format!("mount {}", point.display()));
    }
    for group in cgroups(PREFIX) {
        lines.insert(format!("cgroup {}", group.display()));
    }
    for entry in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        lines.insert(format!("interface {}", entry.file_name().to_string_lossy()));
    }
    let me = std::process::id();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()).filter(|pid| *pid != me)
        else {
            continue;
        };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let program = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        let ours = environment.split(|byte| *byte == 0).any(|pair| pair.starts_with(MARK.as_bytes()))
            || program.to_string_lossy().contains("containerd-shim-longshore");
        if ours {
            lines.insert(format!("process {pid} {}", program.display()));
        }
    }
    lines
}
