//! Mounts that nobody else sees: made without a place in any mount namespace, gone when their descriptor is closed.
//!
//! What always holds: whatever happens to the daemon, the kernel takes the mount away with the last descriptor; no path on the
//! host ever leads into it.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use crate::error::{Error, Result};
use crate::snapshots::Mount;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// fsconfig(2) takes no longer values.
const MAX_VALUE: usize = 255;

/// Opens the root of what `mounts` describe: one bind or overlay mount, as snapshotters give them. Blocks.
pub fn open(mounts: &[Mount]) -> Result<OwnedFd> {
    let [mount] = mounts else {
        let what = format!("{} mounts", mounts.len());
        return Err(Error::Unimplemented { what: format!("unpacking onto {what} at once") });
    };
    if !mount.target.is_empty() {
        return Err(Error::Unimplemented { what: format!("unpacking onto a mount at {:?}", mount.target) });
    }
    match mount.kind.as_str() {
        "bind" | "rbind" => fs::open(mount.source.as_str(), DIRECTORY, Mode::empty())
            .map_err(|errno| Error::io("opening the snapshot", &mount.source, errno.into())),
        "overlay" => overlay(&mount.options),
        other => Err(Error::Unimplemented { what: format!("unpacking onto a mount of type {other:?}") }),
    }
}

fn overlay(options: &[String]) -> Result<OwnedFd> {
    let failed =
        |errno: Errno| Error::io("mounting the snapshot", PathBuf::from("overlay"), io::Error::from(errno));
    let fd = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    for option in options {
        match option.split_once('=') {
            Some(("lowerdir", list)) => lower(&fd, list).map_err(failed)?,
            Some((key, value)) => fsconfig_set_string(&fd, key, value).map_err(failed)?,
            None if option == "rw" || option == "ro" => {}
            None => fsconfig_set_flag(&fd, option.as_str()).map_err(failed)?,
        }
    }
    fsconfig_create(&fd).map_err(failed)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(&fd, FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(failed)?;
    // From O_PATH to one that can be listed and synced.
    fs::openat(&mount, ".", DIRECTORY, Mode::empty()).map_err(failed)
}

// One by one, as the list may be longer than a value; kernels before 6.5 know only the list.
fn lower(fd: &OwnedFd, list: &str) -> Result<(), Errno> {
    for (index, directory) in split(list).iter().enumerate() {
        match fsconfig_set_string(fd, "lowerdir+", directory.as_str()) {
            Err(Errno::INVAL) if index == 0 && list.len() <= MAX_VALUE => {
                return fsconfig_set_string(fd, "lowerdir", list);
            }
            result => result?,
        }
    }
    Ok(())
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
    use rustix::fs::AtFlags;

    #[test]
    fn lists_are_split_at_plain_colons() {
        assert_eq!(split("/a:/b\\:c:/d\\\\e"), ["/a", "/b:c", "/d\\e"]);
    }

    #[test]
    fn an_overlay_is_seen_through_its_descriptor_alone() {
        let folder = tempfile::tempdir().unwrap();
        for (name, file) in [("low", "a"), ("high", "b")] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join(file), name).unwrap();
        }
        let path = |name: &str| folder.path().join(name).display().to_string();
        let options = vec!["index=off".to_owned(), format!("lowerdir={}:{}", path("high"), path("low"))];
        let mount =
            Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options };
        let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = match open(&[mount]) {
            Ok(root) => root,
            Err(error) => return eprintln!("no overlay here: {error}"),
        };
        for file in ["a", "b"] {
            fs::statat(&root, file, AtFlags::empty()).unwrap();
        }
        assert_eq!(before, std::fs::read_to_string("/proc/self/mountinfo").unwrap());
    }
}
