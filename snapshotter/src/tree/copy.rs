//! Copies a tree with everything that a container sees of it: owners, modes, times, xattrs, hard links, holes, devices.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
    chmodat, chownat, copy_file_range, fchmod, fchown, fstat, ftruncate, futimens, ioctl_ficlone, lgetxattr,
    linkat, llistxattr, lsetxattr, mkdirat, mknodat, openat, readlinkat, seek, statat, symlinkat, utimensat,
};
use rustix::io::{Errno, Result as IoResult};

use super::{MAX_DEPTH, is_dot, open_dir};
use crate::{Error, Result};

/// Most bytes that are read or written at once.
const CHUNK: usize = 1 << 20;

/// Largest xattr value in Linux, and largest list of names.
const XATTR_MAX: usize = 64 << 10;

struct Frame {
    from: OwnedFd,
    to: OwnedFd,
    dir: Dir,
    /// Length of the path to here, to cut it back.
    path_length: usize,
}

struct Copying {
    stack: Vec<Frame>,
    /// Path of the current directory below the destination.
    path: Vec<u8>,
    /// Where files with several links were first copied to.
    linked: HashMap<(u64, u64), CString>,
    buffer: Vec<u8>,
}

/// Copies the content and the attributes of the directory `from` to the empty directory `to`; `path` names it in errors.
pub(crate) fn copy(from: OwnedFd, to: OwnedFd, path: &Path) -> Result<()> {
    let root = to.try_clone().map_err(Error::io("open", path))?;
    let dir = Dir::read_from(&from).map_err(Error::io("list", path))?;
    let top = Frame { from, to, dir, path_length: 0 };
    let mut copy = Copying { stack: vec![top], path: Vec::new(), linked: HashMap::new(), buffer: Vec::new() };
    while let Some(frame) = copy.stack.last_mut() {
        let Some(entry) = frame.dir.read() else {
            copy.leave().map_err(Error::io("copy attributes of a directory to", path))?;
            continue;
        };
        let entry = entry.map_err(Error::io("list a directory of the parent of", path))?;
        let name = entry.file_name();
        if is_dot(name) {
            continue;
        }
        if copy.stack.len() >= MAX_DEPTH {
            return Err(Error::TooDeep { path: path.to_owned(), limit: MAX_DEPTH });
        }
        copy.entry(&root, name).map_err(Error::io("copy a file of the parent to", path))?;
    }
    Ok(())
}

impl Copying {
    fn entry(&mut self, root: &OwnedFd, name: &CStr) -> IoResult<()> {
        let Some(frame) = self.stack.last() else { return Ok(()) };
        let stat = statat(&frame.from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return self.enter(name);
        }
        let here = self.path_of(name);
        if stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&(stat.st_dev, stat.st_ino)) {
                match linkat(root, &**first, &frame.to, name, AtFlags::empty()) {
                    Err(Errno::NAMETOOLONG | Errno::MLINK) => {} // a copy of its own
                    outcome => return outcome,
                }
            } else if let Ok(here) = CString::new(here) {
                self.linked.insert((stat.st_dev, stat.st_ino), here);
            }
        }
        match kind {
            FileType::RegularFile => copy_file(&frame.from, &frame.to, name, &stat, &mut self.buffer),
            FileType::Symlink => {
                let target = readlinkat(&frame.from, name, Vec::new())?;
                symlinkat(&target, &frame.to, name)?;
                copy_special(frame, name, &stat)
            }
            _ => {
                mknodat(&frame.to, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev)?;
                copy_special(frame, name, &stat)
            }
        }
    }

    fn enter(&mut self, name: &CStr) -> IoResult<()> {
        let here = self.path_of(name);
        let Some(frame) = self.stack.last() else { return Ok(()) };
        let from = open_dir(&frame.from, name)?;
        mkdirat(&frame.to, name, Mode::RWXU)?;
        let to = open_dir(&frame.to, name)?;
        let dir = Dir::read_from(&from)?;
        self.stack.push(Frame { from, to, dir, path_length: self.path.len() });
        self.path = here;
        Ok(())
    }

    /// Attributes of a directory come last: writing into it would change its times.
    fn leave(&mut self) -> IoResult<()> {
        let Some(frame) = self.stack.pop() else { return Ok(()) };
        self.path.truncate(frame.path_length);
        let stat = fstat(&frame.from)?;
        let (source, target) = (path_to(&frame.from, c"."), path_to(&frame.to, c"."));
        copy_attributes(&frame.to, &stat, &source, &target)
    }

    fn path_of(&self, name: &CStr) -> Vec<u8> {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        path
    }
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat, buffer: &mut Vec<u8>) -> IoResult<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = openat(from, name, flags, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(to, name, flags, Mode::from_raw_mode(0o600))?;
    if ioctl_ficlone(&target, &source).is_err() {
        copy_data(&source, &target, stat.st_size as u64, buffer)?;
    }
    copy_attributes(&target, stat, &path_to(from, name), &path_to(to, name))
}

/// Copies the parts of a file that are not holes.
fn copy_data(source: &OwnedFd, target: &OwnedFd, size: u64, buffer: &mut Vec<u8>) -> IoResult<()> {
    ftruncate(target, size)?;
    let mut at = 0;
    while at < size {
        let start = match seek(source, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(()), // nothing but a hole
            Err(Errno::INVAL) => at,
            Err(e) => return Err(e),
        };
        let end = seek(source, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        at = copy_range(source, target, start, end, buffer)?;
    }
    Ok(())
}

fn copy_range(
    source: &OwnedFd,
    target: &OwnedFd,
    start: u64,
    end: u64,
    buffer: &mut Vec<u8>,
) -> IoResult<u64> {
    let (mut input, mut output) = (start, start);
    while input < end {
        let wanted = usize::try_from(end - input).unwrap_or(usize::MAX).min(CHUNK);
        match copy_file_range(source, Some(&mut input), target, Some(&mut output), wanted) {
            Ok(0) => return Ok(end), // shorter than it was
            Ok(_) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                buffer.resize(wanted, 0);
                let count = rustix::io::pread(source, &mut buffer[..], input)?;
                if count == 0 {
                    return Ok(end);
                }
                let mut written = 0;
                while written < count {
                    written += rustix::io::pwrite(target, &buffer[written..count], output + written as u64)?;
                }
                input += count as u64;
                output += count as u64;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(end)
}

/// Owner, xattrs, mode and times of an opened file or directory, in the order in which none undoes another; the paths
/// lead to the same.
fn copy_attributes(to: &OwnedFd, stat: &Stat, source: &[u8], target: &[u8]) -> IoResult<()> {
    let (uid, gid) = owner(stat);
    fchown(to, Some(uid), Some(gid))?;
    copy_xattrs(source, target)?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    futimens(to, &times(stat))
}

/// The same for what cannot be opened: links, devices, pipes, sockets.
fn copy_special(frame: &Frame, name: &CStr, stat: &Stat) -> IoResult<()> {
    let (uid, gid) = owner(stat);
    chownat(&frame.to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    copy_xattrs(&path_to(&frame.from, name), &path_to(&frame.to, name))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        chmodat(&frame.to, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
    }
    utimensat(&frame.to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

/// A short path to an entry of an open directory, for the calls that know no descriptors.
fn path_to(directory: &OwnedFd, name: &CStr) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    path
}

fn copy_xattrs(source: &[u8], target: &[u8]) -> IoResult<()> {
    let mut names = vec![0; XATTR_MAX];
    let length = match llistxattr(source, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(e),
    };
    let mut value = Vec::new();
    for name in names[..length].split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        value.resize(XATTR_MAX, 0);
        let length = lgetxattr(source, name, &mut value[..])?;
        lsetxattr(target, name, &value[..length], XattrFlags::empty())?;
    }
    Ok(())
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime as _, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ },
    }
}
