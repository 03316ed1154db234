//! The files of /etc that a pod's containers share. They can be written to from within, so they are on a small file system of their
//! own: what a container writes there takes nothing from the host.

use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::error::{Error, Result};

/// Bytes and files that there is room for.
const BOUNDS: &std::ffi::CStr = c"mode=0755,size=1m,nr_inodes=64";

/// Mounts the file system at the pod's folder for it. Blocks.
pub(super) fn mount_at(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io("making the folder", folder, error))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("etc", folder, "tmpfs", flags, BOUNDS)
        .map_err(|error| Error::io("mounting a file system in memory at", folder, error.into()))
}

/// Takes it away; containers that have its files keep them. Blocks.
pub(super) fn release(folder: &Path) {
    // Not mounted is as good.
    let _ = unmount(folder, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
}
