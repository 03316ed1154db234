//! The container's root file system: mounted nowhere at first, then attached in the container's own mount namespace.
//!
//! What always holds: it exists only as a descriptor until the container's init attaches it, so that a failure at any
//! moment, or the end of the container, leaves no mount behind.

use crate::init::{Mount, Source, Start, Step, clone_tree};
use crate::mounts::{self, Bind, Options};
use crate::paths::{Kind, Links};
use crate::sys::mount::{MountAttr, Reach};
use crate::{Error, Result, RootfsMount};
use oci_spec::runtime::Linux;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};
use std::ffi::CString;
use std::path::Path;

/// By these options a snapshotter asks for shifted owners: `CONTAINER:HOST:SIZE`, several with commas between.
const UID_MAP: &str = "uidmap";
const GID_MAP: &str = "gidmap";

/// Longest string that `fsconfig` takes, with its NUL.
const PARAMETER_MAX: usize = 256;

/// Where the root is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At its path, in the container's mount namespace.
    Path,
    /// Nowhere: the container has the host's mount namespace, which is left alone. Its mounts end with its processes.
    Nowhere,
}

/// Adds the steps that set the propagation of the host's mounts and attach the root.
pub(crate) fn plan(
    root: &Path,
    rootfs_mounts: &[RootfsMount],
    linux: &Linux,
    place: Place,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let flags = host_propagation(linux)?;
    let at = match place {
        Place::Path => Some(path_string(root)?),
        Place::Nowhere => None,
    };
    steps.extend(at.is_some().then_some(Step::Propagation { flags }));
    let mut below = Vec::new();
    if rootfs_mounts.is_empty() {
        steps.push(Step::AttachRoot { tree: open_folder(root)?, at: at.clone() });
    }
    for mount in rootfs_mounts {
        let options = options_of(mount)?;
        let tree = open_tree_of(mount, &options)?;
        if crate::paths::clean(&mount.target).is_empty() {
            steps.push(Step::AttachRoot { tree, at: at.clone() });
        } else {
            below.push(Step::Mount(Mount {
                source: Source::Tree(tree),
                target: mounts::in_root(&mount.target)?,
                kind: Kind::Directory,
                links: Links::Refuse,
                attr: MountAttr::default(),
                recursive: MountAttr::default(),
                start: Start::Empty,
                shown: format!("{} {:?} of the rootfs", mount.kind, mount.source),
            }));
        }
    }
    steps.extend(below);
    Ok(())
}

/// Mounts a rootfs at a folder of the host, for runtimes and hooks that look for it there. A failure leaves nothing
/// mounted; what was mounted is the caller's to unmount.
///
/// # Errors
/// A mount that cannot be made, or a target below the rootfs that does not exist in it.
pub fn mount_on_host(mounts: &[RootfsMount], at: &Path) -> Result<()> {
    for (done, mount) in mounts.iter().enumerate() {
        let mounted = mount_one_on_host(mount, at);
        if mounted.is_err() && done > 0 {
            let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
        }
        mounted?;
    }
    Ok(())
}

fn mount_one_on_host(mount: &RootfsMount, at: &Path) -> Result<()> {
    use rustix::fs::ResolveFlags;
    use rustix::mount::MoveMountFlags;
    let options = options_of(mount)?;
    let tree = open_tree_of(mount, &options)?;
    let clean = crate::paths::clean(&mount.target);
    let below = if clean.is_empty() { "." } else { clean.as_str() };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::open(at, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(io("open the rootfs", at))?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let target = rustix::fs::openat2(&root, below, flags, Mode::empty(), resolve)
        .map_err(io("open in the rootfs", Path::new(&mount.target)))?;
    let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", &target, "", how).map_err(io("mount the rootfs at", at))
}

/// The options of a mount of the rootfs; those that have no meaning for one are refused.
fn options_of(mount: &RootfsMount) -> Result<Options> {
    let options = mounts::parse(&mount.options);
    if options.remount || options.copy_up || options.id_map.is_some() {
        return Err(Error::InvalidSpec {
            field: "rootfs mount".into(),
            why: format!("{:?}: remount, tmpcopyup and idmap are for mounts of the config", mount.options),
        });
    }
    Ok(options)
}

fn path_string(path: &Path) -> Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::InvalidSpec { field: "root.path".into(), why: "contains a NUL byte".into() })
}

/// What becomes of the copy of the host's mounts in the container's namespace. Unless asked otherwise nothing that the
/// container does shows on the host, while mounts that the host makes below a shared bind mount show in the container.
fn host_propagation(linux: &Linux) -> Result<u64> {
    match linux.rootfs_propagation().as_deref().unwrap_or_default() {
        "" | "slave" | "rslave" => Ok(libc::MS_SLAVE | libc::MS_REC),
        "private" | "rprivate" => Ok(libc::MS_PRIVATE | libc::MS_REC),
        "unbindable" | "runbindable" => Ok(libc::MS_PRIVATE | libc::MS_REC),
        // The mounts of the container are cut from the host's by themselves; see `mounts`.
        "shared" | "rshared" => Ok(libc::MS_SLAVE | libc::MS_REC),
        other => Err(Error::InvalidSpec {
            field: "linux.rootfsPropagation".into(),
            why: format!("{other:?} is none of private, slave, shared, unbindable and their recursive forms"),
        }),
    }
}

/// The propagation that the root itself has in the end, if it is not private.
pub(crate) fn final_propagation(linux: &Linux) -> Option<MountAttr> {
    let propagation = match linux.rootfs_propagation().as_deref().unwrap_or_default() {
        "shared" | "rshared" => libc::MS_SHARED,
        "unbindable" | "runbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    };
    Some(MountAttr { propagation, ..Default::default() })
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Io { doing, path: path.into(), source: errno.into() }
}

/// A folder of the host as root. A link in its place is refused (CVE-2019-18837).
fn open_folder(root: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(root, flags, Mode::empty()).map_err(io("open the rootfs", root))?;
    let tree = clone_tree(folder.as_fd(), Reach::Recursive).map_err(io("open the rootfs", root))?;
    let attr = MountAttr { propagation: libc::MS_SLAVE, ..Default::default() };
    crate::sys::mount::set_attributes(tree.as_fd(), Reach::Recursive, &attr)
        .map_err(io("open the rootfs", root))?;
    Ok(tree)
}

/// The owners that a snapshotter asks for, as a user namespace with these maps.
fn id_map_of(options: &Options) -> Result<Option<OwnedFd>> {
    let find = |name| options.data.iter().find(|(key, _)| key == name).and_then(|(_, map)| map.as_deref());
    match (find(UID_MAP), find(GID_MAP)) {
        (None, None) => Ok(None),
        (Some(uids), Some(gids)) => crate::idmapped::of_options(uids, gids).map(Some),
        _ => Err(Error::InvalidSpec {
            field: "rootfs mount".into(),
            why: format!("{UID_MAP} and {GID_MAP} must be given together"),
        }),
    }
}

/// Lets the owners of a detached tree appear as in a user namespace.
fn map_owners(tree: &OwnedFd, reach: Reach, map: &OwnedFd, shown: &str) -> Result<()> {
    use std::os::fd::AsRawFd;
    let attr =
        MountAttr { set: libc::MOUNT_ATTR_IDMAP, userns_fd: map.as_raw_fd() as u64, ..MountAttr::default() };
    crate::sys::mount::set_attributes(tree.as_fd(), reach, &attr)
        .map_err(io("map the owners of the rootfs", Path::new(shown)))
}

/// A snapshotter's mount, detached.
fn open_tree_of(mount: &RootfsMount, options: &Options) -> Result<OwnedFd> {
    let map = id_map_of(options)?;
    if options.bind.is_some() || mount.kind == "bind" {
        let source = Path::new(&mount.source);
        let (tree, _) = mounts::open_bind(source, options.bind.unwrap_or(Bind::Recursive))?;
        let attr = MountAttr { propagation: libc::MS_SLAVE, ..options.attr };
        crate::sys::mount::set_attributes(tree.as_fd(), Reach::Recursive, &attr)
            .map_err(io("set the attributes of the rootfs", source))?;
        if let Some(map) = &map {
            map_owners(&tree, Reach::Recursive, map, &mount.source)?;
        }
        return Ok(tree);
    }
    match new_file_system(mount, options, map.as_ref()) {
        Err(Refusal::Parameter) if map.is_some() => Err(Error::NotBuilt {
            feature: format!("{UID_MAP} in a rootfs mount, before Linux 6.15 or with very long paths,"),
        }),
        Err(Refusal::Owners(error)) => Err(error),
        Err(Refusal::Parameter) => crate::legacy_mount::mount(mount, options),
        Err(Refusal::Errno(errno, log)) => Err(Error::Io {
            doing: "mount the rootfs from",
            path: Path::new(&mount.source).into(),
            source: match log.is_empty() {
                true => errno.into(),
                false => std::io::Error::other(format!(
                    "{}: {log}",
                    crate::error::errno_text(errno.raw_os_error())
                )),
            },
        }),
        Ok(tree) => Ok(tree),
    }
}

/// Why the mount API did not make a file system.
enum Refusal {
    /// It cannot be told all parameters on this kernel.
    Parameter,
    /// The owners of a layer cannot be mapped.
    Owners(Error),
    Errno(Errno, String),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Refusal {
        Refusal::Errno(errno, String::new())
    }
}

fn new_file_system(
    mount: &RootfsMount,
    options: &Options,
    map: Option<&OwnedFd>,
) -> Result<OwnedFd, Refusal> {
    let context = fsopen(mount.kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    let mut mapped = Vec::new();
    let set = |key: &str, value: Option<&str>| match value {
        Some(value) if value.len() >= PARAMETER_MAX => Err(Refusal::Parameter),
        Some(value) => fsconfig_set_string(&context, key, value).map_err(Refusal::from),
        None => fsconfig_set_flag(&context, key).map_err(Refusal::from),
    };
    if !mount.source.is_empty() {
        set("source", Some(&mount.source))?;
    }
    if options.read_only && mount.kind != "overlay" {
        set("ro", None)?;
    }
    for flag in &options.flags {
        set(flag, None)?;
    }
    for (key, value) in &options.data {
        match (key.as_str(), value) {
            (UID_MAP | GID_MAP, _) if map.is_some() => {}
            ("lowerdir", Some(value)) if mount.kind == "overlay" && map.is_some() => {
                // Overlay itself cannot be so mounted; its layers can, and what is new is written by the right owners.
                let layers = layers(value).ok_or(Refusal::Parameter)?;
                mapped = add_mapped_layers(&context, &layers, map)?;
            }
            ("lowerdir", Some(value)) if mount.kind == "overlay" => {
                for layer in layers(value).ok_or(Refusal::Parameter)? {
                    // Not known before Linux 6.5.
                    match set("lowerdir+", Some(&layer)) {
                        Err(Refusal::Errno(Errno::INVAL, _)) => return Err(Refusal::Parameter),
                        other => other?,
                    }
                }
            }
            (key, value) => match set(key, value.as_deref()) {
                Err(Refusal::Errno(errno, _)) => return Err(Refusal::Errno(errno, log_of(&context))),
                other => other?,
            },
        }
    }
    fsconfig_create(&context).map_err(|errno| match log_of(&context) {
        // Before Linux 6.5 overlay takes any parameter and finds out now, without a word.
        log if errno == Errno::INVAL && mount.kind == "overlay" && log.is_empty() => Refusal::Parameter,
        log => Refusal::Errno(errno, log),
    })?;
    drop(mapped);
    let attributes = MountAttrFlags::from_bits_retain(options.attr.set as u32);
    let tree = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    if let Some(map) = map.filter(|_| mount.kind != "overlay") {
        map_owners(&tree, Reach::One, map, &mount.source).map_err(Refusal::Owners)?;
    }
    Ok(tree)
}

/// Gives back the layers: a detached mount is gone with its last descriptor, and overlay takes them only when it is created.
fn add_mapped_layers(
    context: &OwnedFd,
    layers: &[String],
    map: Option<&OwnedFd>,
) -> Result<Vec<OwnedFd>, Refusal> {
    let mut mapped = Vec::with_capacity(layers.len());
    for layer in layers {
        let (tree, _) = mounts::open_bind(Path::new(layer), Bind::One).map_err(Refusal::Owners)?;
        if let Some(map) = map {
            map_owners(&tree, Reach::One, map, layer).map_err(Refusal::Owners)?;
        }
        match rustix::mount::fsconfig_set_fd(context, "lowerdir+", &tree) {
            // Not known before Linux 6.13, and what is attached nowhere is no layer before 6.15.
            Err(Errno::INVAL) => return Err(Refusal::Parameter),
            other => other?,
        }
        mapped.push(tree);
    }
    Ok(mapped)
}

/// What the file system has to say about a failure.
fn log_of(context: &OwnedFd) -> String {
    let mut lines = Vec::new();
    let mut line = [0u8; 1024];
    while let Ok(length) = rustix::io::read(context, &mut line) {
        let text = String::from_utf8_lossy(&line[..length]).trim().to_owned();
        // Lines start with their severity: `e `, `w `, `i `.
        lines.push(text.get(2..).unwrap_or_default().to_owned());
    }
    lines.join("; ")
}

/// The layers of a `lowerdir` option, unescaped; `None` for forms that only the option itself can express.
fn layers(value: &str) -> Option<Vec<String>> {
    let mut layers = vec![String::new()];
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => layers.last_mut()?.push(chars.next()?),
            ':' => layers.push(String::new()),
            c => layers.last_mut()?.push(c),
        }
    }
    layers.iter().all(|layer| !layer.is_empty()).then_some(layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_unescaped() {
        assert_eq!(layers("/a:/b\\:c:/d").unwrap(), ["/a", "/b:c", "/d"]);
        assert!(layers("/a::/data").is_none());
    }
}
