//! The nodes and links of a container's `/dev`.

use crate::init::{Existing, Mount, Source, Start, Step};
use crate::mounts::{self, in_root, open_bind, plan_link};
use crate::paths::{Kind, Links};
use crate::sys::mount::MountAttr;
use crate::{Error, Result};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount as MountSpec};
use std::path::Path;

/// What every container has: name, major, minor.
const DEFAULT: &[(&str, u32, u32)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// How nodes come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Making {
    /// By mknod.
    Nodes,
    /// By binding the host's: a user namespace cannot make usable nodes.
    Binds,
}

/// Adds the steps that fill `/dev`. A `/dev` that is bound from the host is left as it is.
pub(crate) fn plan(
    mounts: &[MountSpec],
    devices: &[LinuxDevice],
    making: Making,
    steps: &mut Vec<Step>,
) -> Result<()> {
    if is_bound(mounts)? {
        return Ok(());
    }
    for (name, major, minor) in DEFAULT {
        let path = format!("/dev/{name}");
        if !devices.iter().any(|device| device.path() == Path::new(&path)) {
            let mode = libc::S_IFCHR | 0o666;
            node(Path::new(&path), mode, rustix::fs::makedev(*major, *minor), (0, 0), making, steps)?;
        }
    }
    for device in devices {
        plan_device(device, making, steps)?;
    }
    plan_link("/dev/fd", "/proc/self/fd", Existing::Keep, steps)?;
    plan_link("/dev/stdin", "/proc/self/fd/0", Existing::Keep, steps)?;
    plan_link("/dev/stdout", "/proc/self/fd/1", Existing::Keep, steps)?;
    plan_link("/dev/stderr", "/proc/self/fd/2", Existing::Keep, steps)?;
    plan_link("/dev/ptmx", "pts/ptmx", Existing::Replace, steps)
}

fn is_bound(mounts: &[MountSpec]) -> Result<bool> {
    for mount in mounts {
        if crate::paths::clean(&mount.destination().to_string_lossy()) == "dev" {
            let options = mounts::parse(mount.options().as_deref().unwrap_or_default());
            return Ok(options.bind.is_some() || mount.typ().as_deref() == Some("bind"));
        }
    }
    Ok(false)
}

fn plan_device(device: &LinuxDevice, making: Making, steps: &mut Vec<Step>) -> Result<()> {
    let kind = match device.typ() {
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => {
            let why = format!("{:?} must be of type b, c, u or p", device.path());
            return Err(Error::InvalidSpec { field: "linux.devices".into(), why });
        }
    };
    let dev = match kind {
        libc::S_IFIFO => 0,
        _ => {
            let number = |n: i64| {
                u32::try_from(n).map_err(|_| Error::InvalidSpec {
                    field: "linux.devices".into(),
                    why: format!("{:?}: {n} is no device number", device.path()),
                })
            };
            rustix::fs::makedev(number(device.major())?, number(device.minor())?)
        }
    };
    let mode = kind | device.file_mode().unwrap_or(0o666) & 0o7777;
    node(device.path(), mode, dev, (device.uid().unwrap_or(0), device.gid().unwrap_or(0)), making, steps)
}

fn node(
    path: &Path,
    mode: u32,
    dev: u64,
    (uid, gid): (u32, u32),
    making: Making,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let invalid =
        |why: &str| Error::InvalidSpec { field: format!("linux.devices: {path:?}"), why: why.into() };
    let text = path.to_str().ok_or_else(|| invalid("is not UTF-8"))?;
    if !text.starts_with('/') {
        return Err(invalid("must be an absolute path"));
    }
    let target = in_root(text)?;
    if making == Making::Nodes || mode & libc::S_IFMT == libc::S_IFIFO {
        steps.push(Step::Device { path: target, mode, dev, uid, gid });
        return Ok(());
    }
    let (tree, _) = open_bind(path, mounts::Bind::One)?;
    check_node(path, mode, dev)?;
    steps.push(Step::Mount(Mount {
        source: Source::Tree(tree),
        target,
        kind: Kind::File,
        links: Links::Refuse,
        attr: MountAttr { propagation: libc::MS_PRIVATE, ..Default::default() },
        recursive: MountAttr::default(),
        start: Start::Empty,
        shown: format!("device {path:?}"),
    }));
    Ok(())
}

/// The host's node must be what the config says it is.
fn check_node(path: &Path, mode: u32, dev: u64) -> Result<()> {
    let stat = rustix::fs::lstat(path).map_err(|errno| Error::Io {
        doing: "look at the device",
        path: path.into(),
        source: errno.into(),
    })?;
    if stat.st_rdev == dev && stat.st_mode & libc::S_IFMT == mode & libc::S_IFMT {
        return Ok(());
    }
    let why = "in a user namespace the host's node is used, and it has another type or number".into();
    Err(Error::InvalidSpec { field: format!("linux.devices: {path:?}"), why })
}
