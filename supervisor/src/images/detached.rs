//! Mounts that nobody else sees: made without a place in any mount namespace, gone when their descriptor is closed.
//!
//! What always holds: whatever happens to the daemon, the kernel takes the mount away with the last descriptor; no path on the
//! host ever leads into it.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use rustix::fs::{self, Mode, OFlags};
use rustix::mount::MountAttrFlags;

use crate::error::{Error, Result};
use crate::mounts;
use crate::snapshots::Mount;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens the root of what `mounts` describe: a bind mount or a file system of any type. Of several on top of each other the last is
/// what is seen. Blocks.
pub fn open(mounts: &[Mount]) -> Result<OwnedFd> {
    let [_earlier @ .., mount] = mounts else {
        return Err(Error::invalid("mounts", "are missing: there is nothing to work on"));
    };
    if let Some(inner) = mounts.iter().find(|mount| !mount.target.is_empty()) {
        let what = format!("working on a mount within another, at {:?}", inner.target);
        return Err(Error::Unimplemented { what });
    }
    if matches!(mount.kind.as_str(), "bind" | "rbind") {
        return fs::open(mount.source.as_str(), DIRECTORY, Mode::empty())
            .map_err(|errno| Error::io("opening the snapshot", &mount.source, errno.into()));
    }
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let made = mounts::filesystem(mount, attributes)?;
    // From O_PATH to one that can be listed and synced.
    fs::openat(&made, ".", DIRECTORY, Mode::empty())
        .map_err(|errno| Error::io("opening the snapshot", &mount.source, errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::AtFlags;

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
