//! Mounts that a shim left in its bundle.
//!
//! What always holds: a bundle is removed only when nothing is mounted in it any more, so that a removal never descends into
//! a container's root.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

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
    let table = fs::read("/proc/self/mountinfo")?;
    let points =
        table.split(|&byte| byte == b'\n').filter_map(|line| line.split(|&byte| byte == b' ').nth(4));
    Ok(points
        .map(|point| PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(point))))
        .filter(|point| point.starts_with(&folder) && *point != folder)
        .collect())
}

/// Space, tab, newline and backslash are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits =
            after.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_list_of_mounts_are_read() {
        assert_eq!(unescape(b"/a\\040b\\134c"), b"/a b\\c");
        assert_eq!(unescape(b"/a\\0"), b"/a\\0");
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
