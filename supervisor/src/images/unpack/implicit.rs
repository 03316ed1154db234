//! Directories that a layer needed but did not describe: in its place on top of the others they must look as they do below.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::error::{EntryName, UnpackError};

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const MAX_XATTRS: usize = 64 * 1024;

/// Copies owner, mode, extended attributes and times of each directory in `paths` from `below` to `upper`. Where `below` has
/// something else at the path (a link to a directory above all), the layer must be applied on top of its parent:
/// [`UnpackError::NeedsParent`].
pub fn inherit(upper: BorrowedFd<'_>, below: BorrowedFd<'_>, paths: &[Vec<u8>]) -> Result<(), UnpackError> {
    for path in paths {
        let failed = |errno| UnpackError::write("give the parent's attributes to", path, errno);
        let Some(target) = open(upper, path).map_err(failed)? else { continue };
        match open(below, path) {
            Ok(Some(source)) => copy(&source, &target).map_err(failed)?,
            Ok(None) => {}
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(UnpackError::NeedsParent { entry: EntryName::new(path) });
            }
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(())
}

fn open(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match fs::openat2(root, path, DIRECTORY, Mode::empty(), beneath) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn copy(source: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let stat = fs::statat(source, "", AtFlags::EMPTY_PATH)?;
    fs::fchown(target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    let mut names = vec![0; MAX_XATTRS];
    let length = match fs::flistxattr(source, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno),
    };
    for name in names[..length].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let mut value = vec![0; MAX_XATTRS];
        let length = fs::fgetxattr(source, name, &mut value[..])?;
        fs::fsetxattr(target.as_fd(), name, &value[..length], XattrFlags::empty())?;
    }
    fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: nanos as _ };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    fs::futimens(target, &times)
}
