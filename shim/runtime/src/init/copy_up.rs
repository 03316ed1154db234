//! `tmpcopyup`: a tmpfs that starts with copies of what it hides. Runs in the child.
//!
//! What always holds: nothing is followed, neither in the source nor in the copy; nothing allocates; folders are entered
//! no deeper than a fixed depth. What a tmpfs may hold is the bound of how much is copied.

use crate::sys::SysResult;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, Uid, openat, statat,
};
use rustix::io::Errno;
use std::ffi::CStr;
use std::mem::MaybeUninit;

/// Deepest nesting that is copied; more is `ENAMETOOLONG`.
const DEPTH_MAX: u32 = 128;
/// Room for directory entries, in bytes; the longest entry takes 280.
const ENTRIES: usize = 2048;
const LINK_MAX: usize = 4096;
/// How much `sendfile` moves at once.
const CHUNK: usize = 1 << 20;

/// Copies what is in one folder to another, empty one.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> SysResult<()> {
    copy_folder(&open_folder(from, c".")?, &open_folder(to, c".")?, 0)
}

fn open_folder(parent: impl AsFd, name: &CStr) -> SysResult<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn copy_folder(from: &OwnedFd, to: &OwnedFd, depth: u32) -> SysResult<()> {
    if depth == DEPTH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let mut buffer = [MaybeUninit::uninit(); ENTRIES];
    let mut entries = RawDir::new(from, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: u32) -> SysResult<()> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::Directory => {
            let source = open_folder(from, name)?;
            rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            copy_folder(&source, &open_folder(to, name)?, depth + 1)?;
        }
        FileType::Symlink => copy_link(from, to, name)?,
        FileType::RegularFile => copy_file(from, to, name)?,
        _ => match rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev) {
            // A user namespace may not make devices: they are left out.
            Err(Errno::PERM) => return Ok(()),
            other => other?,
        },
    }
    give_looks(to, name, kind, &stat)
}

fn copy_link(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> SysResult<()> {
    let mut target = [0u8; LINK_MAX];
    let length = rustix::fs::readlinkat_raw(from, name, &mut target[..LINK_MAX - 1])?;
    if length == LINK_MAX - 1 {
        return Err(Errno::NAMETOOLONG);
    }
    let target = CStr::from_bytes_until_nul(&target).map_err(|_| Errno::NAMETOOLONG)?;
    rustix::fs::symlinkat(target, to, name)
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> SysResult<()> {
    // Not blocking: it may have become a FIFO by now.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = openat(from, name, flags, Mode::empty())?;
    let make = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let copy = openat(to, name, make, Mode::from_raw_mode(0o600))?;
    while rustix::fs::sendfile(&copy, &source, None, CHUNK)? > 0 {}
    Ok(())
}

/// Owner, mode and times, in the order in which none undoes another.
fn give_looks(to: &OwnedFd, name: &CStr, kind: FileType, stat: &Stat) -> SysResult<()> {
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    match rustix::fs::chownat(to, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW) {
        // An owner that the user namespace does not know.
        Err(Errno::INVAL | Errno::PERM) => {}
        other => other?,
    }
    if kind != FileType::Symlink {
        rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    }
    let time = |tv_sec: i64, tv_nsec: u64| Timespec { tv_sec, tv_nsec: tv_nsec as _ };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rustix::fs::utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}
