//! Device nodes and the cgroup's device rules. The runtime makes the seven standard nodes itself; what is listed
//! here is what a container may open: the standard ones, pseudo terminals, and `mknod` of anything. Privileged
//! containers get every node of the host's /dev.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use crate::error::{Error, Result};

/// Most nodes of the host's /dev that a privileged container gets; a host with more is an error that says so.
const MAX_HOST_DEVICES: usize = 16384;

/// Deepest folder of /dev that is looked into.
const MAX_DEPTH: usize = 8;

/// (type, major, minor) that every container may read, write and make.
const STANDARD: [(LinuxDeviceType, i64, Option<i64>); 8] = [
    (LinuxDeviceType::C, 1, Some(3)), // null
    (LinuxDeviceType::C, 1, Some(5)), // zero
    (LinuxDeviceType::C, 1, Some(7)), // full
    (LinuxDeviceType::C, 1, Some(8)), // random
    (LinuxDeviceType::C, 1, Some(9)), // urandom
    (LinuxDeviceType::C, 5, Some(0)), // tty
    (LinuxDeviceType::C, 5, Some(2)), // ptmx
    (LinuxDeviceType::C, 136, None),  // pts
];

/// Rules of a plain container.
pub fn default_rules() -> Result<Vec<LinuxDeviceCgroup>> {
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, None, None, "rwm")?,
        rule(true, LinuxDeviceType::C, None, None, "m")?,
        rule(true, LinuxDeviceType::B, None, None, "m")?,
    ];
    for (kind, major, minor) in STANDARD {
        rules.push(rule(true, kind, Some(major), minor, "rwm")?);
    }
    rules.push(rule(true, LinuxDeviceType::C, Some(5), Some(1), "rwm")?); // console
    rules.push(rule(false, LinuxDeviceType::C, Some(10), Some(229), "rwm")?); // fuse
    Ok(rules)
}

/// Rules of a privileged container: everything.
pub fn privileged_rules() -> Result<Vec<LinuxDeviceCgroup>> {
    Ok(vec![rule(true, LinuxDeviceType::A, None, None, "rwm")?])
}

fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> Result<LinuxDeviceCgroup> {
    let mut rule = LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind).access(access);
    if let Some(major) = major {
        rule = rule.major(major);
    }
    if let Some(minor) = minor {
        rule = rule.minor(minor);
    }
    rule.build().map_err(Error::oci)
}

/// Every device node below `dev`, without those that the container has of its own (pts, shm, mqueue, console).
pub fn host_devices(dev: &Path) -> Result<Vec<LinuxDevice>> {
    let mut found = Vec::new();
    let mut folders = vec![(dev.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            // Folders of /dev come and go with their devices.
            Err(_) if depth > 0 => continue,
            Err(source) => return Err(Error::io("listing the host's devices in", &folder, source)),
        };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            let kind = meta.file_type();
            let path = entry.path();
            if kind.is_dir() {
                if depth < MAX_DEPTH && !is_private(&path, dev) {
                    folders.push((path, depth + 1));
                }
            } else if (kind.is_char_device() || kind.is_block_device()) && path != dev.join("console") {
                found.push(node(path, &meta)?);
            }
            if found.len() > MAX_HOST_DEVICES {
                return Err(Error::invalid(
                    "privileged container",
                    format!("the host's /dev has more than {MAX_HOST_DEVICES} device nodes"),
                ));
            }
        }
    }
    found.sort_by(|a, b| a.path().cmp(b.path()));
    Ok(found)
}

fn is_private(path: &Path, dev: &Path) -> bool {
    ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"].iter().any(|name| path == dev.join(name))
}

fn node(path: PathBuf, meta: &std::fs::Metadata) -> Result<LinuxDevice> {
    let kind = if meta.file_type().is_block_device() { LinuxDeviceType::B } else { LinuxDeviceType::C };
    let rdev = meta.rdev();
    LinuxDeviceBuilder::default()
        .path(path)
        .typ(kind)
        .major(i64::from(rustix::fs::major(rdev)))
        .minor(i64::from(rustix::fs::minor(rdev)))
        .file_mode(meta.mode() & 0o7777)
        .uid(meta.uid())
        .gid(meta.gid())
        .build()
        .map_err(Error::oci)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_denied_before_anything_is_allowed() {
        let rules = default_rules().unwrap();
        assert!(!rules[0].allow());
        assert!(
            rules[1..]
                .iter()
                .filter(|rule| rule.access().as_deref() == Some("rwm"))
                .all(|rule| { rule.major().is_some() })
        );
    }

    #[test]
    fn the_hosts_devices_without_terminals() {
        let found = host_devices(Path::new("/dev")).unwrap();
        assert!(found.iter().any(|device| device.path() == Path::new("/dev/null")));
        assert!(!found.iter().any(|device| device.path().starts_with("/dev/pts")));
    }
}
