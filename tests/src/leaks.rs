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

/// How deep cgroups are looked for: a caller's own may be nested, and what it delegates, too.
const DEPTH: u32 = 16;

/// Every cgroup folder, at any depth, whose name has this prefix and that is not below another one.
fn cgroups(prefix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    search(Path::new("/sys/fs/cgroup"), prefix, DEPTH, &mut found);
    found
}

fn search(folder: &Path, prefix: &str, depth: u32, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        match entry.file_name().to_string_lossy().starts_with(prefix) {
            true => found.push(entry.path()),
            false if depth > 0 => search(&entry.path(), prefix, depth - 1, found),
            false => {}
        }
    }
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
    lines.extend(held_namespaces());
    for group in cgroups(PREFIX) {
        lines.insert(format!("cgroup {}", group.display()));
    }
    for entry in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        lines.insert(format!("interface {}", entry.file_name().to_string_lossy()));
    }
    lines.extend(tables());
    let me = std::process::id();
    let own_mounts = fs::read_link("/proc/self/ns/mnt").ok();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()).filter(|pid| *pid != me)
        else {
            continue;
        };
        if let Some(why) = is_ours(&entry.path(), own_mounts.as_deref()) {
            let program = fs::read_link(entry.path().join("exe")).unwrap_or_default();
            lines.insert(format!("process {pid} {} ({why})", program.display()));
        }
    }
    lines
}

/// By what a process is a test's: a container's has neither the environment nor the program of the one that started it.
fn is_ours(process: &Path, own_mounts: Option<&Path>) -> Option<&'static str> {
    let link = |name: &str| fs::read_link(process.join(name)).unwrap_or_default();
    let of_tests = |path: &Path| path.to_string_lossy().contains(PREFIX);
    let text_of_tests =
        |name: &str| fs::read_to_string(process.join(name)).is_ok_and(|text| text.contains(PREFIX));
    let environment = fs::read(process.join("environ")).unwrap_or_default();
    if environment.split(|byte| *byte == 0).any(|pair| pair.starts_with(MARK.as_bytes())) {
        return Some("environment");
    }
    if link("exe").to_string_lossy().contains("containerd-shim-longshore") {
        return Some("program");
    }
    if of_tests(&link("cwd")) {
        return Some("working directory");
    }
    if of_tests(&link("root")) {
        return Some("root");
    }
    if text_of_tests("cgroup") {
        return Some("cgroup");
    }
    // Those who share our mounts see the mounts of every test.
    let mounts = link("ns/mnt");
    let elsewhere = !mounts.as_os_str().is_empty() && own_mounts.is_some_and(|own| own != mounts);
    (elsewhere && text_of_tests("mountinfo")).then_some("mounts")
}

/// Namespaces that a mount keeps: `ip netns`, and those of other engines' containers.
fn held_namespaces() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let held = table.lines().filter(|line| line.contains(" - nsfs "));
    held.filter_map(|line| line.split(' ').nth(4)).map(|point| format!("namespace {point}")).collect()
}

/// The packet filter's tables of this network namespace, if there is a program to ask.
fn tables() -> Vec<String> {
    let listed = std::process::Command::new("nft").args(["list", "tables"]).output();
    let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().map(|line| format!("nft {line}")).collect()
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

    fn sleeper(folder: &Path) -> Sleeper {
        Sleeper(Command::new("/bin/sleep").arg("60").env_clear().current_dir(folder).spawn().unwrap())
    }

    fn listed(kind: &str, what: &str) -> bool {
        inventory().iter().any(|line| line.starts_with(kind) && line.contains(what))
    }

    #[test]
    fn a_process_is_found_by_its_working_directory() {
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir().unwrap();
        let sleeper = sleeper(folder.path());
        let line = format!("process {} ", sleeper.0.id());
        assert!(listed(&line, "working directory"), "{:?}", inventory());
    }

    #[test]
    fn a_cgroup_and_its_processes_are_found_at_any_depth() {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.split_once(":pids:").map(|(_, path)| path.to_owned()));
        // On a pure v2 host a cgroup with processes has none below it to test with.
        let Some(own) = own else { return };
        let outer =
            Path::new("/sys/fs/cgroup/pids").join(own.trim_start_matches('/')).join("longshore-leaks-outer");
        let inner = outer.join("middle").join(format!("{PREFIX}leaks-{}", std::process::id()));
        fs::create_dir_all(&inner).unwrap();
        let sleeper = sleeper(Path::new("/"));
        fs::write(inner.join("cgroup.procs"), sleeper.0.id().to_string()).unwrap();
        let (process, group) = (
            listed(&format!("process {} ", sleeper.0.id()), "cgroup"),
            listed("cgroup", inner.to_str().unwrap()),
        );
        drop(sleeper);
        let mut groups = Vec::new();
        descend(&outer, &mut groups);
        for group in groups {
            let deadline = Instant::now() + Duration::from_secs(5);
            while fs::remove_dir(&group).is_err() && group.exists() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        assert!(process && group, "process {process}, cgroup {group}");
    }
}
