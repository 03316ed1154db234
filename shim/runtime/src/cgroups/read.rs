//! Reading control files and the tables in them.

use super::{CgroupPaths, Group, io};
use crate::Result;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Largest control file that is read; `cgroup.procs` of a full container stays below.
const FILE_MAX: usize = 16 << 20;
/// How deep cgroups below a container's are followed.
pub(super) const DEPTH_MAX: u32 = 64;

/// The text of a control file.
pub(super) fn text_at(dir: BorrowedFd<'_>, file: &str) -> Result<String, Errno> {
    let fd = rustix::fs::openat(dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        match rustix::io::read(&fd, &mut chunk)? {
            0 => break,
            n => bytes.extend_from_slice(&chunk[..n]),
        }
        if bytes.len() > FILE_MAX {
            return Err(Errno::FBIG);
        }
    }
    String::from_utf8(bytes).map_err(|_| Errno::ILSEQ)
}

/// One number; `max` is the largest. Missing files and odd contents are `None`.
pub(super) fn number_at(dir: BorrowedFd<'_>, file: &str) -> Option<u64> {
    match text_at(dir, file).ok()?.trim() {
        "max" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Lines of `name value`.
pub(super) fn table_at(dir: BorrowedFd<'_>, file: &str) -> Vec<(String, u64)> {
    let Ok(text) = text_at(dir, file) else { return Vec::new() };
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// Process ids in a cgroup and in those below it.
pub(super) fn pids_of(dir: BorrowedFd<'_>) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    collect(dir, &mut pids, DEPTH_MAX)
        .map_err(|errno| io("list the processes of the cgroup", "cgroup.procs".into(), errno))?;
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

fn collect(dir: BorrowedFd<'_>, pids: &mut Vec<i32>, depth: u32) -> Result<(), Errno> {
    match text_at(dir, "cgroup.procs") {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        // Removed meanwhile, or a threaded v2 cgroup, whose domain lists its processes.
        Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    for name in children(dir)? {
        let depth = depth.checked_sub(1).ok_or(Errno::LOOP)?;
        if let Some(child) = child(dir, &name)? {
            collect(child.as_fd(), pids, depth)?;
        }
    }
    Ok(())
}

/// The names of the cgroups right below one; as many as there are, so they are opened one at a time.
pub(super) fn children(dir: BorrowedFd<'_>) -> Result<Vec<std::ffi::CString>, Errno> {
    // Two links are a folder without folders in it, on kernfs too: the usual container needs no listing.
    match rustix::fs::fstat(dir) {
        Ok(stat) if stat.st_nlink <= 2 => return Ok(Vec::new()),
        _ => {}
    }
    let folder =
        rustix::fs::openat(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let folder = match folder {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in Dir::new(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() != FileType::Directory || name == c"." || name == c".." {
            continue;
        }
        found.push(name.to_owned());
    }
    Ok(found)
}

/// One of them; `None` if it is gone.
pub(super) fn child(dir: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

impl CgroupPaths {
    /// Process ids in them and in cgroups below. On v1 hosts every hierarchy has the same; the first that exists is read.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let best = ["freezer", "pids", "memory", "cpu"].iter().find_map(|controller| self.v1(controller));
        match best.or_else(|| self.v2()).or_else(|| self.groups().first()) {
            Some(group) => pids_of(group.dir()),
            None => Ok(Vec::new()),
        }
    }
}

/// Whether a control file exists.
pub(super) fn exists(group: &Group, file: &str) -> bool {
    rustix::fs::statat(group.dir(), file, rustix::fs::AtFlags::empty()).is_ok()
}
