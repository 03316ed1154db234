//! The directory that a layer is applied to, changed only through directory descriptors.
//!
//! What always holds: nothing outside the root is opened, made or removed. Parents are walked one component at a time without
//! following links in the kernel; links are resolved here, against the root, and one that would leave it is refused.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::error::{EntryName, Rule, UnpackError};
use super::names;

const MAX_LINKS: usize = 40;
/// Links may lead deeper than any name says; no directory is made deeper than this.
const MAX_REAL_DEPTH: usize = 1024;
/// Open directories kept; layers list a directory's entries together, so few are enough.
const CACHED: usize = 64;
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
pub const OVERLAY_OPAQUE: &str = "trusted.overlay.opaque";

/// Where the layer is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Onto a mount in which the parent is seen: whiteouts remove.
    Merged,
    /// Into an overlay's upper directory, without the parent: whiteouts are kept as overlayfs has them.
    Upper,
}

/// An open directory of the tree, with the path at which it really is.
pub struct Directory {
    pub fd: OwnedFd,
    pub path: Vec<u8>,
}

pub struct Tree {
    root: Rc<Directory>,
    form: Form,
    cache: HashMap<Vec<u8>, Rc<Directory>>,
    /// Directories made because an entry needed them, not by an entry of their own.
    pub implicit: HashSet<Vec<u8>>,
}

/// May a missing parent be made?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    Create,
    Refuse,
}

impl Tree {
    pub fn new(root: BorrowedFd<'_>, form: Form) -> Result<Tree, UnpackError> {
        let fd = fs::openat(root, ".", DIRECTORY, Mode::empty())
            .map_err(|errno| UnpackError::write("open", b"/", errno))?;
        let root = Rc::new(Directory { fd, path: Vec::new() });
        Ok(Tree { root, form, cache: HashMap::new(), implicit: HashSet::new() })
    }

    pub fn form(&self) -> Form {
        self.form
    }

    /// Opens a directory by its name in the layer. `entry` is for messages.
    pub fn directory(
        &mut self,
        name: &[u8],
        missing: Missing,
        entry: &[u8],
    ) -> Result<Rc<Directory>, UnpackError> {
        if name.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some(known) = self.cache.get(name) {
            return Ok(known.clone());
        }
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let found = match fs::openat2(&self.root.fd, name, DIRECTORY, Mode::empty(), beneath) {
            Ok(fd) => Rc::new(Directory { fd, path: name.to_vec() }),
            Err(_) => self.walk(name, missing, entry)?,
        };
        if self.cache.len() >= CACHED {
            self.cache.clear();
        }
        self.cache.insert(name.to_vec(), found.clone());
        Ok(found)
    }

    // Component by component: links are followed within the root, missing directories are made.
    fn walk(&mut self, name: &[u8], missing: Missing, entry: &[u8]) -> Result<Rc<Directory>, UnpackError> {
        let mut todo: Vec<Vec<u8>> = name.split(|&b| b == b'/').rev().map(<[u8]>::to_vec).collect();
        let mut stack = vec![self.root.clone()];
        let mut links = 0;
        while let Some(component) = todo.pop() {
            let here = stack.last().unwrap_or(&self.root).clone();
            match component.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    stack.pop();
                    if stack.is_empty() {
                        return Err(UnpackError::refused(entry, Rule::ParentEscapes));
                    }
                    continue;
                }
                _ => {}
            }
            let next = match fs::openat(&here.fd, component.as_slice(), DIRECTORY, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::NOENT) if missing == Missing::Refuse => return Err(self.absent(entry)),
                Err(Errno::NOENT) => self.make_implicit(&here, &component, entry)?,
                Err(Errno::LOOP | Errno::NOTDIR) => {
                    match fs::readlinkat(&here.fd, component.as_slice(), Vec::new()) {
                        Ok(target) => {
                            links += 1;
                            if links > MAX_LINKS {
                                return Err(UnpackError::refused(entry, Rule::LinkLoop));
                            }
                            let target = target.into_bytes();
                            if target.first() == Some(&b'/') {
                                stack.truncate(1);
                            }
                            todo.extend(target.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
                            continue;
                        }
                        Err(Errno::INVAL) => self.replace_whiteout(&here, &component, missing, entry)?,
                        Err(errno) => {
                            return Err(UnpackError::write("read the parent link of", entry, errno));
                        }
                    }
                }
                Err(errno) => return Err(UnpackError::write("open the parent of", entry, errno)),
            };
            if stack.len() > MAX_REAL_DEPTH {
                return Err(UnpackError::refused(entry, Rule::TooDeep(MAX_REAL_DEPTH)));
            }
            stack.push(Rc::new(Directory { fd: next, path: join(&here.path, &component) }));
        }
        Ok(stack.pop().unwrap_or_else(|| self.root.clone()))
    }

    /// The directory that really is at a path, without following links.
    pub fn existing(&self, path: &[u8]) -> Option<OwnedFd> {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        fs::openat2(&self.root.fd, path, DIRECTORY, Mode::empty(), beneath).ok()
    }

    fn absent(&self, entry: &[u8]) -> UnpackError {
        match self.form {
            Form::Upper => UnpackError::NeedsParent { entry: EntryName::new(entry) },
            Form::Merged => UnpackError::refused(entry, Rule::HardLinkToNothing),
        }
    }

    fn make_implicit(
        &mut self,
        here: &Directory,
        component: &[u8],
        entry: &[u8],
    ) -> Result<OwnedFd, UnpackError> {
        let fd = make_directory(&here.fd, component)
            .map_err(|errno| UnpackError::write("make the parent of", entry, errno))?;
        self.implicit.insert(join(&here.path, component));
        Ok(fd)
    }

    // A parent is not a directory: fine only where this layer itself has hidden what was there.
    fn replace_whiteout(
        &mut self,
        here: &Directory,
        component: &[u8],
        missing: Missing,
        entry: &[u8],
    ) -> Result<OwnedFd, UnpackError> {
        let stat = stat(&here.fd, component)
            .map_err(|errno| UnpackError::write("look at the parent of", entry, errno))?;
        if self.form != Form::Upper || !stat.as_ref().is_some_and(is_whiteout) {
            return Err(UnpackError::refused(entry, Rule::ParentNotDirectory));
        }
        if missing == Missing::Refuse {
            return Err(UnpackError::refused(entry, Rule::HardLinkToNothing));
        }
        let make = || {
            fs::unlinkat(&here.fd, component, AtFlags::empty())?;
            let fd = make_directory(&here.fd, component)?;
            set_opaque(fd.as_fd())?;
            Ok(fd)
        };
        make().map_err(|errno| UnpackError::write("make the parent of", entry, errno))
    }

    /// Removes a name and all below it; nothing there is fine.
    pub fn remove(&mut self, directory: &Directory, leaf: &[u8], entry: &[u8]) -> Result<(), UnpackError> {
        self.cache.clear();
        remove_all(directory.fd.as_fd(), leaf)
            .map_err(|errno| UnpackError::write("remove what was at", entry, errno))
    }

    /// Removes the oldest way to reach directories after one was replaced.
    pub fn forget(&mut self) {
        self.cache.clear();
    }
}

pub fn join(parent: &[u8], leaf: &[u8]) -> Vec<u8> {
    if parent.is_empty() { leaf.to_vec() } else { [parent, b"/", leaf].concat() }
}

/// `None`: there is nothing.
pub fn stat(directory: &OwnedFd, leaf: &[u8]) -> Result<Option<Stat>, Errno> {
    match fs::statat(directory, leaf, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

pub fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// A character device 0:0.
pub fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Makes a directory with mode 0755, owned by root, and opens it.
pub fn make_directory(parent: &OwnedFd, leaf: &[u8]) -> Result<OwnedFd, Errno> {
    fs::mkdirat(parent, leaf, Mode::from_raw_mode(0o755))?;
    let fd = fs::openat(parent, leaf, DIRECTORY, Mode::empty())?;
    // Neither the umask nor a set-group-id parent has a say.
    fs::fchown(&fd, Some(fs::Uid::ROOT), Some(fs::Gid::ROOT))?;
    fs::fchmod(&fd, Mode::from_raw_mode(0o755))?;
    Ok(fd)
}

pub fn open_directory(parent: &OwnedFd, leaf: &[u8]) -> Result<OwnedFd, Errno> {
    fs::openat(parent, leaf, DIRECTORY, Mode::empty())
}

pub fn set_opaque(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    fs::fsetxattr(directory, OVERLAY_OPAQUE, b"y", fs::XattrFlags::empty())
}

/// A path for the calls that have no `at` form with `AT_SYMLINK_NOFOLLOW`.
pub fn proc_path(directory: BorrowedFd<'_>, leaf: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(leaf);
    path
}

/// Removes a file, link, device or directory with its contents, without recursion; two descriptors a level are open, of which
/// [`MAX_REAL_DEPTH`] bounds the number.
pub fn remove_all(parent: BorrowedFd<'_>, leaf: &[u8]) -> Result<(), Errno> {
    match fs::unlinkat(parent, leaf, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let mut levels: Vec<(OwnedFd, Dir, Vec<u8>)> = Vec::new();
    let top = fs::openat(parent, leaf, DIRECTORY, Mode::empty())?;
    levels.push((fs::openat(&top, ".", DIRECTORY, Mode::empty())?, Dir::new(top)?, leaf.to_vec()));
    loop {
        let Some((fd, dir, _)) = levels.last_mut() else { return Ok(()) };
        let mut descend = None;
        while let Some(entry) = dir.read() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            match fs::unlinkat(&*fd, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => {
                    let child = fs::openat(&*fd, name, DIRECTORY, Mode::empty())?;
                    let again = fs::openat(&child, ".", DIRECTORY, Mode::empty())?;
                    descend = Some((again, Dir::new(child)?, name.to_vec()));
                    break;
                }
                Err(errno) => return Err(errno),
            }
        }
        match descend {
            Some(level) => levels.push(level),
            None => {
                let Some((_, _, name)) = levels.pop() else { return Ok(()) };
                let above = levels.last().map_or(parent, |(fd, _, _)| fd.as_fd());
                fs::unlinkat(above, name.as_slice(), AtFlags::REMOVEDIR)?;
            }
        }
    }
}

/// Removes from a directory all that `keep` does not name; directories that it names are visited as well unless `skip`.
pub fn prune(
    directory: &OwnedFd,
    path: &[u8],
    keep: &dyn Fn(&[u8]) -> bool,
    skip: &mut dyn FnMut(&[u8]) -> bool,
) -> Result<(), Errno> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut todo = vec![Vec::new()];
    while let Some(inner) = todo.pop() {
        let start: &[u8] = if inner.is_empty() { b"." } else { &inner };
        let fd = fs::openat2(directory, start, DIRECTORY, Mode::empty(), beneath)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        for name in names {
            let inner = join(&inner, &name);
            let path = join(path, &inner);
            if !keep(&path) {
                remove_all(fd.as_fd(), &name)?;
            } else if stat(&fd, &name)?.as_ref().is_some_and(is_directory) && !skip(&path) {
                todo.push(inner);
            }
        }
    }
    Ok(())
}

/// The parent's name and the last component, for an entry that is not the root.
pub fn locate<'a>(
    tree: &mut Tree,
    name: &'a [u8],
    missing: Missing,
) -> Result<(Rc<Directory>, &'a [u8]), UnpackError> {
    let (parent, leaf) = names::split(name);
    Ok((tree.directory(parent, missing, name)?, leaf))
}
