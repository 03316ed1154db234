//! Removes a tree of any depth with at most [`MAX_OPEN`] open directories.
//!
//! Directories deeper than that are first moved up into the topmost one, where a further round finds them.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, RenameFlags, openat, renameat_with, unlinkat};
use rustix::io::{Errno, Result};

use super::{is_dot, open_dir};

const MAX_OPEN: usize = 64;

struct Frame {
    fd: OwnedFd,
    dir: Dir,
    name: CString,
}

impl Frame {
    fn open(parent: impl AsFd, name: &CStr) -> Result<Self> {
        let fd = open_dir(parent, name)?;
        let dir = Dir::read_from(&fd)?;
        Ok(Self { fd, dir, name: name.to_owned() })
    }
}

struct Removal {
    stack: Vec<Frame>,
    /// Names given out to directories that were moved up.
    moved: u64,
    /// Whether anything went away since the last directory that was found filled again.
    progress: bool,
}

/// Removes `name` in `parent` with all that is in it. Nothing there is fine.
pub(crate) fn remove(parent: impl AsFd, name: &CStr) -> Result<()> {
    let parent = parent.as_fd();
    let top = match Frame::open(parent, name) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return gone(unlinkat(parent, name, AtFlags::empty())),
        Err(e) => return Err(e),
    };
    let mut removal = Removal { stack: vec![top], moved: 0, progress: false };
    while !removal.stack.is_empty() {
        removal.step(parent)?;
    }
    Ok(())
}

impl Removal {
    /// Handles one entry of the deepest open directory, or its end.
    fn step(&mut self, parent: BorrowedFd<'_>) -> Result<()> {
        let depth = self.stack.len();
        let Some(frame) = self.stack.last_mut() else { return Ok(()) };
        let Some(entry) = frame.dir.read() else { return self.leave(parent) };
        let entry = entry?;
        let name = entry.file_name();
        if is_dot(name) {
            return Ok(());
        }
        if entry.file_type() != FileType::Directory {
            match unlinkat(&frame.fd, name, AtFlags::empty()) {
                Err(Errno::ISDIR) => {} // the file system does not tell types
                outcome => {
                    self.progress = true;
                    return gone(outcome);
                }
            }
        }
        if depth < MAX_OPEN {
            let child = Frame::open(&frame.fd, name)?;
            self.stack.push(child);
            return Ok(());
        }
        let name = name.to_owned();
        self.move_up(&name)
    }

    /// The deepest open directory has been read to its end: it should be empty.
    fn leave(&mut self, parent: BorrowedFd<'_>) -> Result<()> {
        let Some(mut frame) = self.stack.pop() else { return Ok(()) };
        let outer = self.stack.last().map_or(parent, |f| f.fd.as_fd());
        match unlinkat(outer, &*frame.name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) if self.progress => {
                self.progress = false;
                frame.dir = Dir::read_from(openat(
                    &frame.fd,
                    c".",
                    rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
                    rustix::fs::Mode::empty(),
                )?)?;
                self.stack.push(frame);
                Ok(())
            }
            outcome => {
                self.progress = true;
                gone(outcome)
            }
        }
    }

    /// Moves a directory that is too deep to be entered to the top.
    fn move_up(&mut self, name: &CStr) -> Result<()> {
        let (Some(top), Some(deepest)) = (self.stack.first(), self.stack.last()) else { return Ok(()) };
        loop {
            self.moved += 1;
            let new = format!("deep.{}", self.moved);
            match renameat_with(&deepest.fd, name, &top.fd, new.as_str(), RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => continue,
                outcome => {
                    self.progress = true;
                    return outcome;
                }
            }
        }
    }
}

fn gone(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(Errno::NOENT) => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, OFlags, mkdirat};

    #[test]
    fn a_tree_deeper_than_any_path_or_descriptor_limit_goes_away() {
        // In memory if possible: on a busy disk tens of thousands of renames take a minute.
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = openat(CWD, root.path(), flags, Mode::empty()).unwrap();
        mkdirat(&top, "x", Mode::RWXU).unwrap();
        let mut at = open_dir(&top, c"x").unwrap();
        for _ in 0..30_000 {
            mkdirat(&at, "deep.1", Mode::RWXU).unwrap();
            at = open_dir(&at, c"deep.1").unwrap();
        }
        std::os::unix::fs::symlink("/etc", root.path().join("x/link")).unwrap();
        remove(&top, c"x").unwrap();
        assert!(!root.path().join("x").exists());
        assert!(std::path::Path::new("/etc/passwd").exists());
    }
}
