//! Counts what a tree takes on the disk.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Stat, fstat, statat};
use rustix::io::Errno;

use super::{MAX_DEPTH, is_dot, open_dir};
use crate::{Error, Result, Usage};

/// Counts the directory `top` and all in it; `path` names it in errors. What vanishes meanwhile is not counted.
pub(crate) fn count(top: OwnedFd, path: &Path) -> Result<Usage> {
    let mut count = Count::default();
    count.add(&fstat(&top).map_err(Error::io("stat", path))?);
    let mut stack = vec![top];
    let mut dirs = vec![Dir::read_from(&stack[0]).map_err(Error::io("list", path))?];
    while let (Some(dir), Some(fd)) = (dirs.last_mut(), stack.last()) {
        let Some(entry) = dir.read() else {
            dirs.pop();
            stack.pop();
            continue;
        };
        let entry = entry.map_err(Error::io("list a directory in", path))?;
        if is_dot(entry.file_name()) {
            continue;
        }
        let child = match visit(fd, entry.file_name(), &mut count) {
            Ok(child) => child,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(e) => return Err(Error::io("count the files of", path)(e)),
        };
        let Some(child) = child else { continue };
        if stack.len() >= MAX_DEPTH {
            return Err(Error::TooDeep { path: path.to_owned(), limit: MAX_DEPTH });
        }
        dirs.push(Dir::read_from(&child).map_err(Error::io("list a directory in", path))?);
        stack.push(child);
    }
    Ok(count.usage)
}

/// Counts one entry; returns it opened if it is a directory.
fn visit(parent: impl AsFd, name: &std::ffi::CStr, count: &mut Count) -> rustix::io::Result<Option<OwnedFd>> {
    let stat = statat(parent.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
    count.add(&stat);
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(None);
    }
    open_dir(parent, name).map(Some)
}

#[derive(Default)]
struct Count {
    usage: Usage,
    /// Inodes with several links that were counted.
    linked: HashSet<(u64, u64)>,
}

impl Count {
    fn add(&mut self, stat: &Stat) {
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if !directory && stat.st_nlink > 1 && !self.linked.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        self.usage.inodes += 1;
        self.usage.size += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
    }
}
