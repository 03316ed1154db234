//! Device nodes and the cgroup's device rules. The runtime makes the seven standard nodes itself; what is listed
//! here is what a container may open: the standard ones, pseudo terminals, and `mknod` of anything. Privileged
//! containers get every node of the host's /dev.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use crate::engine::config::Device;
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

/// The nodes and rules of one `--device`: a node of the host's, or every node below a folder of it.
pub fn of_host(device: &Device) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>)> {
    let host = Path::new(&device.host_path);
    let failed = |why: String| {
        Error::invalid(
            format!("error gathering device information while adding custom device \"{}\"", device.host_path),
            why,
        )
    };
    let inside = match device.container_path.as_str() {
        "" => host,
        path => Path::new(path),
    };
    let sound = inside.is_absolute() && !inside.components().any(|part| part.as_os_str() == "..");
    if !sound || device.container_path.contains('\0') {
        return Err(failed(format!("{} is no place for a device in the container", inside.display())));
    }
    let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
    if !access.bytes().all(|byte| b"rwm".contains(&byte)) {
        return Err(failed(format!("{access:?} is not made of r, w and m")));
    }
    // The host's own path may be a link to the node, as /dev/cdrom is.
    let real = host.canonicalize().map_err(|error| failed(errno_words(&error)))?;
    let meta = real.metadata().map_err(|error| failed(errno_words(&error)))?;
    let mut nodes = Vec::new();
    if meta.is_dir() {
        for mut found in host_devices(&real)? {
            let below = found.path().strip_prefix(&real).map(Path::to_owned).unwrap_or_default();
            found.set_path(inside.join(below));
            nodes.push(found);
        }
    } else if is_device(&meta) {
        nodes.push(node(inside.to_owned(), &meta)?);
    }
    if nodes.is_empty() {
        return Err(failed("not a device node".into()));
    }
    let rules = nodes
        .iter()
        .map(|node| rule(true, node.typ(), Some(node.major()), Some(node.minor()), access))
        .collect::<Result<_>>()?;
    Ok((nodes, rules))
}

/// A node that is told by its numbers, and its rule. A pipe has neither numbers nor a rule.
pub fn described(
    path: &str,
    kind: &str,
    (major, minor): (i64, i64),
    permissions: &str,
) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>)> {
    let failed = |why: String| Error::invalid(format!("device node {path:?}"), why);
    let kind = match kind {
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        "u" => LinuxDeviceType::U,
        "p" => LinuxDeviceType::P,
        other => return Err(failed(format!("its type {other:?} is none of b, c, u and p"))),
    };
    let access = if permissions.is_empty() { "rwm" } else { permissions };
    if !access.bytes().all(|byte| b"rwm".contains(&byte)) {
        return Err(failed(format!("{access:?} is not made of r, w and m")));
    }
    let pipe = kind == LinuxDeviceType::P;
    let node = LinuxDeviceBuilder::default().path(path).typ(kind).major(major).minor(minor);
    // Character devices all, to the cgroup.
    let ruled = if kind == LinuxDeviceType::U { LinuxDeviceType::C } else { kind };
    let rules = if pipe { Vec::new() } else { vec![rule(true, ruled, Some(major), Some(minor), access)?] };
    Ok((vec![node.build().map_err(Error::oci)?], rules))
}

/// `c 1:3 rwm` as a rule.
pub fn parse_rule(text: &str) -> Result<LinuxDeviceCgroup> {
    let invalid =
        || Error::invalid(format!("invalid device cgroup rule format: '{text}'"), "write c 1:3 rwm");
    let mut words = text.split(' ');
    let kind = match words.next() {
        Some("a") => LinuxDeviceType::A,
        Some("b") => LinuxDeviceType::B,
        Some("c") => LinuxDeviceType::C,
        _ => return Err(invalid()),
    };
    let (major, minor) = words.next().and_then(|numbers| numbers.split_once(':')).ok_or_else(invalid)?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        text => text.parse::<u32>().map(|number| Some(i64::from(number))).map_err(|_| invalid()),
    };
    let access = words.next().filter(|access| {
        (1..=3).contains(&access.len()) && access.bytes().all(|byte| b"rwm".contains(&byte))
    });
    match (access, words.next()) {
        (Some(access), None) => rule(true, kind, number(major)?, number(minor)?, access),
        _ => Err(invalid()),
    }
}

/// Major and minor number of the device at this path.
pub fn numbers_of(path: &str) -> Result<(i64, i64)> {
    let meta = std::fs::metadata(path)
        .map_err(|error| Error::invalid(format!("device {path}"), errno_words(&error)))?;
    if !is_device(&meta) {
        return Err(Error::invalid(format!("device {path}"), "not a device node"));
    }
    Ok((i64::from(rustix::fs::major(meta.rdev())), i64::from(rustix::fs::minor(meta.rdev()))))
}

fn is_device(meta: &std::fs::Metadata) -> bool {
    meta.file_type().is_char_device() || meta.file_type().is_block_device()
}

/// An error number's words in Go's small letters, without Rust's number.
fn errno_words(error: &std::io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_lowercase()
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
    fn a_users_devices() {
        let device = |host: &str, inside: &str, permissions: &str| Device {
            host_path: host.into(),
            container_path: inside.into(),
            permissions: permissions.into(),
        };
        let (nodes, rules) = of_host(&device("/dev/null", "/dev/hole", "r")).unwrap();
        assert_eq!((nodes[0].path().as_path(), nodes[0].major()), (Path::new("/dev/hole"), 1));
        assert_eq!((rules[0].minor(), rules[0].access().as_deref()), (Some(3), Some("r")));
        for (host, inside, words) in [
            ("/dev/no-such", "", "no such file or directory"),
            ("/etc/passwd", "", "not a device node"),
            ("/dev/null", "/dev/../x", "is no place for a device"),
        ] {
            let said = of_host(&device(host, inside, "")).unwrap_err().for_people();
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn rules_of_a_users() {
        let rule = parse_rule("b 8:* rw").unwrap();
        assert_eq!((rule.typ(), rule.major(), rule.minor()), (Some(LinuxDeviceType::B), Some(8), None));
        for wrong in ["", "x 1:2 r", "c 1 r", "c 1:2", "c 1:2 rx", "c 1:2 r r"] {
            assert!(parse_rule(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_hosts_devices_without_terminals() {
        let found = host_devices(Path::new("/dev")).unwrap();
        assert!(found.iter().any(|device| device.path() == Path::new("/dev/null")));
        assert!(!found.iter().any(|device| device.path().starts_with("/dev/pts")));
    }
}
