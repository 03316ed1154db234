//! Mounts that a shim left in its bundle.
//!
//! What always holds: a bundle is removed only when nothing is mounted in it any more, so that a removal never descends into
//! a container's root.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

use crate::mounts::table;

/// How often the list of mounts is gone through: mounts may be stacked.
const ROUNDS: usize = 8;

/// Unmounts whatever is mounted below `folder`.
///
/// # Errors
/// Something remains.
pub fn unmount_below(folder: &Path) -> io::Result<()> {
    for _ in 0..ROUNDS {
        let points = below(folder)?;
        if points.is_empty() {
            return Ok(());
        }
        for point in points.iter().rev() {
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            if let Err(error) = unmount(point, flags) {
                tracing::debug!(mount = %point.display(), %error, "cannot unmount what a shim left");
            }
        }
    }
    match below(folder)?.first() {
        None => Ok(()),
        Some(point) => Err(io::Error::other(format!("{} cannot be unmounted", point.display()))),
    }
}

/// Removes a folder and all that is in it, after unmounting what is mounted there.
///
/// # Errors
/// Something stays mounted, or cannot be removed.
pub fn remove_folder(folder: &Path) -> io::Result<()> {
    unmount_below(folder)?;
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where something is mounted strictly below `folder`, in the order of mounting.
fn below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = fs::canonicalize(folder).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(folder.to_owned()),
        _ => Err(error),
    })?;
    let mounts = fs::read("/proc/self/mountinfo")?;
    let points =
        mounts.split(|&byte| byte == b'\n').filter_map(|line| line.split(|&byte| byte == b' ').nth(4));
    Ok(points.map(table::path).filter(|point| point.starts_with(&folder) && *point != folder).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_list_of_mounts_are_read() {
        assert_eq!(table::path(b"/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(table::path(b"/a\\0"), Path::new("/a\\0"));
    }

    #[test]
    fn a_folder_goes_with_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path().join("bundle");
        fs::create_dir_all(bundle.join("rootfs/etc")).unwrap();
        remove_folder(&bundle).unwrap();
        remove_folder(&bundle).unwrap();
        assert!(!bundle.exists());
    }
}
