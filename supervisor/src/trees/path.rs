//! Where a path leads below a root: links are read here and resolved against the root, and every component is opened by itself, so
//! that a tree that changes meanwhile may hide what is looked for, but not lead out of the root.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Links followed in one path, as in the kernel.
const MAX_LINKS: usize = 40;
/// Components of one path, those of its links included.
const MAX_COMPONENTS: usize = 4096;

/// What is to be done with a link at the path's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    Followed,
    Itself,
}

/// Something that is there.
#[derive(Debug)]
pub struct Found {
    /// The folder that it is in; the root is in itself.
    pub parent: OwnedFd,
    /// Its name there; `.` for the root.
    pub leaf: Vec<u8>,
    pub stat: Stat,
    /// Without links, from the root.
    pub path: PathBuf,
    /// Of a link that was not followed.
    pub target: Option<OsString>,
}

impl Found {
    pub fn is_folder(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode).is_dir()
    }

    /// Opens it, if it is a folder.
    pub fn open(&self) -> Result<OwnedFd> {
        open(&self.parent, OsStr::from_bytes(&self.leaf)).map_err(|errno| failed(&self.path, errno))
    }
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn open(at: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    fs::openat(at, name.as_bytes(), FOLDER, Mode::empty())
}

fn failed(path: &Path, errno: Errno) -> Error {
    Error::io("looking up", path, errno.into())
}

/// Looks for `path` below `root`; `None`: there is nothing. A component in the middle that is no folder is an error.
pub fn look_up(root: &OwnedFd, path: &Path, last: Last) -> Result<Option<Found>> {
    walk(root, path, last).map_err(|errno| failed(path, errno))
}

fn walk(root: &OwnedFd, path: &Path, last: Last) -> Result<Option<Found>, Errno> {
    let mut stack: Vec<(OsString, OwnedFd)> = Vec::new();
    let mut todo: VecDeque<OsString> = components(path);
    let (mut links, mut steps) = (0, 0);
    while let Some(name) = todo.pop_front() {
        steps += 1;
        if steps > MAX_COMPONENTS {
            return Err(Errno::NAMETOOLONG);
        }
        if name == ".." {
            stack.pop();
            continue;
        }
        let here = stack.last().map_or(root, |(_, fd)| fd);
        let stat = match fs::statat(here, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if !todo.is_empty() => {
                let inner = open(here, &name)?;
                stack.push((name, inner));
            }
            FileType::Symlink if !todo.is_empty() || last == Last::Followed => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let target = read_link(here, &name)?;
                if Path::new(&target).is_absolute() {
                    stack.clear();
                }
                for part in components(Path::new(&target)).into_iter().rev() {
                    todo.push_front(part);
                }
            }
            kind if todo.is_empty() => {
                let target = if kind.is_symlink() { Some(read_link(here, &name)?) } else { None };
                let mut path = PathBuf::from("/");
                path.extend(stack.iter().map(|(name, _)| name));
                path.push(&name);
                let parent = fs::openat(here, ".", FOLDER, Mode::empty())?;
                return Ok(Some(Found { parent, leaf: name.into_vec(), stat, path, target }));
            }
            _ => return Err(Errno::NOTDIR),
        }
    }
    // The root, or a folder that `..` led back to.
    let here = stack.last().map_or(root, |(_, fd)| fd);
    let (parent, stat) = (fs::openat(here, ".", FOLDER, Mode::empty())?, fs::fstat(here)?);
    let mut path = PathBuf::from("/");
    path.extend(stack.iter().map(|(name, _)| name));
    Ok(Some(Found { parent, leaf: b".".to_vec(), stat, path, target: None }))
}

fn read_link(at: &OwnedFd, name: &OsStr) -> Result<OsString, Errno> {
    Ok(OsString::from_vec(fs::readlinkat(at, name.as_bytes(), Vec::new())?.into_bytes()))
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_resolved_below_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let root: OwnedFd = fs::File::open(folder.path()).unwrap().into();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/f"), "").unwrap();
        symlink("/a/b", folder.path().join("abs")).unwrap();
        symlink("../../../../../a", folder.path().join("a/up")).unwrap();
        symlink("loop", folder.path().join("loop")).unwrap();
        let at = |path: &str, last| {
            look_up(&root, Path::new(path), last).map(|found| found.map(|f| f.path.display().to_string()))
        };
        assert_eq!(at("/abs/f", Last::Itself).unwrap().as_deref(), Some("/a/b/f"));
        assert_eq!(at("a/up/b/", Last::Itself).unwrap().as_deref(), Some("/a/b"));
        assert_eq!(at("/abs", Last::Itself).unwrap().as_deref(), Some("/abs"));
        assert_eq!(at("/abs", Last::Followed).unwrap().as_deref(), Some("/a/b"));
        assert_eq!(at("/../..", Last::Followed).unwrap().as_deref(), Some("/"));
        assert_eq!(at("/a/..", Last::Followed).unwrap().as_deref(), Some("/"));
        assert_eq!(at("/none/x", Last::Followed).unwrap(), None);
        assert!(at("/loop", Last::Followed).is_err());
        assert!(at("/a/b/f/x", Last::Followed).is_err());
        assert_eq!(at("/loop", Last::Itself).unwrap().as_deref(), Some("/loop"));
    }
}
