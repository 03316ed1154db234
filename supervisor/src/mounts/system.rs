//! One mount in containerd's form, made with mount(8)'s options.
//!
//! What always holds: a file system is made detached, and is seen by others only when it is complete.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount as mount_call};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::loopback::{self, Access};
use crate::error::{Error, Result};
use crate::snapshots::Mount;

/// mount(2) takes no longer options, with the byte at their end.
const MAX_DATA: usize = 4096;

/// The options, sorted by who understands them.
struct Options<'a> {
    attributes: MountAttrFlags,
    propagation: MsFlags,
    recursive: bool,
    looped: bool,
    /// For the file system.
    data: Vec<&'a str>,
}

fn parse(mount: &Mount) -> Result<Options<'_>> {
    let mut options = Options {
        attributes: MountAttrFlags::empty(),
        propagation: MsFlags::empty(),
        recursive: false,
        looped: false,
        data: Vec::new(),
    };
    for option in &mount.options {
        let attribute = match option.as_str() {
            "ro" => MountAttrFlags::MOUNT_ATTR_RDONLY,
            "nosuid" => MountAttrFlags::MOUNT_ATTR_NOSUID,
            "nodev" => MountAttrFlags::MOUNT_ATTR_NODEV,
            "noexec" => MountAttrFlags::MOUNT_ATTR_NOEXEC,
            "noatime" => MountAttrFlags::MOUNT_ATTR_NOATIME,
            "strictatime" => MountAttrFlags::MOUNT_ATTR_STRICTATIME,
            "nodiratime" => MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            // What is so anyway.
            "rw" | "suid" | "dev" | "exec" | "atime" | "diratime" | "relatime" | "norelatime" | "async"
            | "nostrictatime" | "defaults" | "loud" | "bind" | "" => continue,
            "rbind" => {
                options.recursive = true;
                continue;
            }
            "loop" => {
                options.looped = true;
                continue;
            }
            "private" | "slave" | "shared" | "unbindable" | "rprivate" | "rslave" | "rshared"
            | "runbindable" => {
                options.propagation = propagation(option);
                continue;
            }
            other if ["remount", "move"].contains(&other) || shifts_owners(other) => {
                let what = format!("the option {other:?} of a mount of type {:?}", mount.kind);
                return Err(Error::Unimplemented { what });
            }
            other => {
                options.data.push(other);
                continue;
            }
        };
        options.attributes |= attribute;
    }
    Ok(options)
}

/// Whether an option maps owners, which is the runtime's to do.
pub fn shifts_owners(option: &str) -> bool {
    option.starts_with("uidmap=") || option.starts_with("gidmap=")
}

fn propagation(option: &str) -> MsFlags {
    let (name, recursive) = match option.strip_prefix('r') {
        Some(name) => (name, MsFlags::MS_REC),
        None => (option, MsFlags::empty()),
    };
    recursive
        | match name {
            "private" => MsFlags::MS_PRIVATE,
            "slave" => MsFlags::MS_SLAVE,
            "unbindable" => MsFlags::MS_UNBINDABLE,
            _ => MsFlags::MS_SHARED,
        }
}

/// Mounts at `point`, a directory that is there.
pub fn mount(mount: &Mount, point: &Path) -> Result<()> {
    if !mount.target.is_empty() {
        let why = format!("goes to {:?} within another, which is the runtime's to do", mount.target);
        return Err(Error::invalid(shown(mount), why));
    }
    let options = parse(mount)?;
    let failed = |errno: nix::Error| Error::io("mounting at", point, errno.into());
    if matches!(mount.kind.as_str(), "bind" | "rbind") {
        bind(mount, &options, point)?;
    } else {
        let made = filesystem(mount, MountAttrFlags::empty())?;
        move_mount(&made, "", CWD, point, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|errno| Error::io("mounting at", point, errno.into()))?;
    }
    if options.propagation.is_empty() {
        return Ok(());
    }
    mount_call(None::<&str>, point, None::<&str>, options.propagation, None::<&str>).map_err(failed)
}

fn bind(mount: &Mount, options: &Options<'_>, point: &Path) -> Result<()> {
    if let Some(option) = options.data.first() {
        return Err(Error::invalid(shown(mount), format!("a bind mount has no option {option:?}")));
    }
    let failed = |errno: nix::Error| Error::io("mounting", &mount.source, errno.into());
    let recursive = options.recursive || mount.kind == "rbind";
    let flags = if recursive { MsFlags::MS_BIND | MsFlags::MS_REC } else { MsFlags::MS_BIND };
    mount_call(Some(mount.source.as_str()), point, None::<&str>, flags, None::<&str>).map_err(failed)?;
    let again = classic_flags(options.attributes);
    if again.is_empty() {
        return Ok(());
    }
    let flags = again | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    mount_call(None::<&str>, point, None::<&str>, flags, None::<&str>).map_err(|errno| {
        // A mount that is not as it was asked to be is none.
        let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
        failed(errno)
    })
}

/// Makes the file system of a mount, seen through the descriptor alone and gone with it. `more` are attributes besides those of the
/// options.
pub fn filesystem(mount: &Mount, more: MountAttrFlags) -> Result<OwnedFd> {
    let options = parse(mount)?;
    let read_only = options.attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY);
    // Released when it is mounted: the mount holds it from then on.
    let device = if options.looped {
        let access = if read_only { Access::ReadOnly } else { Access::ReadWrite };
        Some(loopback::attach(&mount.source, access)?)
    } else {
        None
    };
    let source = device.as_ref().map_or(Path::new(&mount.source), |device| &device.path);
    let context = match fsopen(mount.kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(context) => context,
        Err(Errno::NODEV) => {
            let what = format!("a mount of type {:?}, which this kernel does not know", mount.kind);
            return Err(Error::Unimplemented { what });
        }
        Err(errno) => return Err(failed(mount, "", errno)),
    };
    let set = |option: &str| match option.split_once('=') {
        // One by one, as the list may be longer than a value can be.
        Some(("lowerdir", list)) if mount.kind == "overlay" => split(list)
            .iter()
            .try_for_each(|folder| fsconfig_set_string(&context, "lowerdir+", folder.as_str())),
        Some((key, value)) => fsconfig_set_string(&context, key, value),
        None => fsconfig_set_flag(&context, option),
    };
    if !mount.source.is_empty() {
        fsconfig_set_string(&context, "source", source).map_err(|errno| failed(mount, "source", errno))?;
    }
    if read_only {
        set("ro").map_err(|errno| failed(mount, "ro", errno))?;
    }
    for option in &options.data {
        match set(option) {
            // Kernels before 6.7 do not know that.
            Err(Errno::INVAL) if mount.kind == "overlay" && option.starts_with("lowerdir=") => {
                return classic(mount, &options, options.attributes | more);
            }
            done => done.map_err(|errno| failed(mount, option, errno))?,
        }
    }
    match fsconfig_create(&context) {
        // Kernels before 6.5 take every option at first, and say only here that they do not know lower folders one by one.
        Err(Errno::INVAL) if mount.kind == "overlay" => {
            return classic(mount, &options, options.attributes | more);
        }
        done => done.map_err(|errno| failed(mount, "", errno))?,
    }
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, options.attributes | more)
        .map_err(|errno| failed(mount, "", errno))
}

/// Attributes as mount(2) has them.
fn classic_flags(attributes: MountAttrFlags) -> MsFlags {
    let known = [
        (MountAttrFlags::MOUNT_ATTR_RDONLY, MsFlags::MS_RDONLY),
        (MountAttrFlags::MOUNT_ATTR_NOSUID, MsFlags::MS_NOSUID),
        (MountAttrFlags::MOUNT_ATTR_NODEV, MsFlags::MS_NODEV),
        (MountAttrFlags::MOUNT_ATTR_NOEXEC, MsFlags::MS_NOEXEC),
        (MountAttrFlags::MOUNT_ATTR_NODIRATIME, MsFlags::MS_NODIRATIME),
        (MountAttrFlags::MOUNT_ATTR_NOATIME, MsFlags::MS_NOATIME),
    ];
    known.into_iter().filter(|(attribute, _)| attributes.contains(*attribute)).map(|(_, flag)| flag).collect()
}

/// Makes an overlay by mount(2), for kernels whose fsconfig(2) takes no lower folders one by one. It is made in the mount
/// namespace of a thread that ends, and taken out of it.
fn classic(mount: &Mount, options: &Options<'_>, attributes: MountAttrFlags) -> Result<OwnedFd> {
    let lists = options.data.iter().filter_map(|option| option.strip_prefix("lowerdir="));
    // A folder that is there: it is covered for that thread alone.
    let Some(place) = lists.flat_map(split).next() else {
        return Err(Error::invalid(shown(mount), "an overlay without lower folders"));
    };
    let data = options.data.join(",");
    if data.len() >= MAX_DATA {
        let why = format!("its options take {} bytes; kernels before 6.7 take {MAX_DATA}", data.len());
        return Err(Error::invalid(shown(mount), why));
    }
    let make = || -> io::Result<OwnedFd> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount_call(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        let (source, kind) = (Some(mount.source.as_str()), Some(mount.kind.as_str()));
        mount_call(source, place.as_str(), kind, classic_flags(attributes), Some(data.as_str()))?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        Ok(open_tree(CWD, place.as_str(), flags)?)
    };
    let made = std::thread::scope(|scope| scope.spawn(make).join());
    made.map_err(|_| Error::Lost { what: "mounting" })?
        .map_err(|source| Error::io("mounting", shown(mount), source))
}

fn failed(mount: &Mount, option: &str, errno: Errno) -> Error {
    let at = if option.is_empty() { String::new() } else { format!(" (option {option})") };
    let at = PathBuf::from(format!("{}{at}", shown(mount)));
    Error::io("mounting", at, io::Error::from(errno))
}

fn shown(mount: &Mount) -> String {
    format!("{} of type {:?}", mount.source, mount.kind)
}

// At colons, unless they are escaped.
fn split(list: &str) -> Vec<String> {
    let (mut parts, mut escaped) = (vec![String::new()], false);
    for character in list.chars() {
        match character {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            ':' if !escaped => parts.push(String::new()),
            other => {
                if let Some(last) = parts.last_mut() {
                    last.push(other);
                }
            }
        }
        escaped = false;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_split_at_plain_colons() {
        assert_eq!(split("/a:/b\\:c:/d\\\\e"), ["/a", "/b:c", "/d\\e"]);
    }

    #[test]
    fn an_overlay_of_an_older_kernel_is_detached_too() {
        let folder = tempfile::tempdir().unwrap();
        for (name, file) in [("low", "a"), ("high", "b")] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join(file), name).unwrap();
        }
        let path = |name: &str| folder.path().join(name).display().to_string();
        let options = vec![format!("lowerdir={}:{}", path("high"), path("low")), "ro".to_owned()];
        let mount =
            Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options };
        let parsed = parse(&mount).unwrap();
        let root = match classic(&mount, &parsed, parsed.attributes) {
            Ok(root) => root,
            Err(error) => return eprintln!("no overlay here: {error}"),
        };
        for file in ["a", "b"] {
            rustix::fs::statat(&root, file, rustix::fs::AtFlags::empty()).unwrap();
        }
        assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&path("")));
        let long = Mount { options: vec![format!("lowerdir=/{}", "x".repeat(MAX_DATA))], ..mount };
        assert!(classic(&long, &parse(&long).unwrap(), MountAttrFlags::empty()).is_err());
    }

    #[test]
    fn options_go_to_whom_they_concern() {
        let options = ["ro", "loop", "nosuid", "rslave", "size=4k", "sync"].map(str::to_owned).to_vec();
        let mount = Mount { kind: "xfs".into(), source: "/f".into(), target: String::new(), options };
        let parsed = parse(&mount).unwrap();
        assert!(parsed.looped && parsed.attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY));
        assert_eq!(parsed.data, ["size=4k", "sync"]);
        assert_eq!(parsed.propagation, MsFlags::MS_SLAVE | MsFlags::MS_REC);
        let mapped = Mount { options: vec!["uidmap=0:1:2".into()], ..mount };
        assert_eq!(parse(&mapped).err().unwrap().code(), tonic::Code::Unimplemented);
    }
}
