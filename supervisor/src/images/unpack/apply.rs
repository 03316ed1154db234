//! Applies the entries of a layer to a directory.
//!
//! What always holds: an entry is made with O_EXCL semantics after what was in its place is gone, its owner is set before its
//! attributes and those before its mode, and directories get their times when nothing changes in them any more. The work is
//! linear in the layer's size, whatever its entries are.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::archive::{Archive, Contents, Entry, Input, Kind};
use super::error::{Rule, UnpackError};
use super::names::{self, Meaning};
use super::tree::{self, Directory, Form, Missing, Tree};
use super::{Applied, Limits};

const PAGE: u64 = 4096;
/// Bytes of the names of a file's extended attributes, as the kernel limits them.
const MAX_XATTR_NAMES: usize = 64 * 1024;

pub struct Applier<'a> {
    tree: Tree,
    limits: Limits,
    cancel: &'a AtomicBool,
    /// Times of directories, set last.
    times: HashMap<Vec<u8>, (u64, u32)>,
    /// Merged form: what this layer made, and the directories on the way there. Whiteouts spare it.
    made: HashSet<Vec<u8>>,
    /// Merged form: directories that hold nothing of the layers below any more.
    cleared: HashSet<Vec<u8>>,
    total: u64,
    applied: Applied,
    manner: Manner,
}

/// What the entries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// A layer's: whiteouts hide, and what is in the way goes.
    Layer,
    /// Files to be put where others are: names are names, and a directory and what is none do not replace each other.
    Files {
        /// Who shall own them all; `None`: whom the entries name.
        owner: Option<(u32, u32)>,
    },
}

impl<'a> Applier<'a> {
    pub fn new(
        root: BorrowedFd<'_>,
        form: Form,
        limits: Limits,
        cancel: &'a AtomicBool,
    ) -> Result<Applier<'a>, UnpackError> {
        Ok(Applier {
            tree: Tree::new(root, form)?,
            limits,
            cancel,
            times: HashMap::new(),
            made: HashSet::new(),
            cleared: HashSet::new(),
            total: 0,
            applied: Applied::default(),
            manner: Manner::Layer,
        })
    }

    pub fn in_manner(self, manner: Manner) -> Applier<'a> {
        Applier { manner, ..self }
    }

    /// Applies all entries; the archive is left after its last one.
    pub fn run<I: Input>(mut self, archive: &mut Archive<I>) -> Result<Applied, UnpackError> {
        while let Some(mut entry) = archive.next_entry()? {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(UnpackError::Cancelled);
            }
            if let Manner::Files { owner } = self.manner {
                (entry.uid, entry.gid) = owner.unwrap_or((entry.uid, entry.gid));
                self.plain(&entry, archive)?;
                continue;
            }
            match names::meaning(&entry.name).map_err(|rule| UnpackError::refused(&entry.name, rule))? {
                Meaning::Ignored => {}
                Meaning::Opaque => self.opaque(&entry.name)?,
                Meaning::Whiteout(hidden) => self.whiteout(&entry.name, hidden)?,
                Meaning::Plain => self.plain(&entry, archive)?,
            }
        }
        self.directory_times()?;
        self.applied.implicit = std::mem::take(&mut self.tree.implicit).into_iter().collect();
        // A parent comes before its children.
        self.applied.implicit.sort_unstable();
        Ok(self.applied)
    }

    fn plain<I: Input>(&mut self, entry: &Entry, archive: &mut Archive<I>) -> Result<(), UnpackError> {
        if entry.name.is_empty() {
            return match entry.kind {
                Kind::Directory => Ok(()), // The root is as the snapshotter made it.
                _ => Err(UnpackError::refused(b"/", Rule::ReplacesRoot)),
            };
        }
        let (parent, leaf) = tree::locate(&mut self.tree, &entry.name, Missing::Create)?;
        let path = tree::join(&parent.path, leaf);
        match &entry.kind {
            Kind::Directory => self.directory(entry, &parent, leaf, &path)?,
            Kind::File(contents) => self.file(entry, &parent, leaf, contents, archive)?,
            Kind::HardLink(target) => self.hard_link(entry, &parent, leaf, target)?,
            Kind::Symlink(target) => {
                self.fresh(entry, &parent, leaf, "make the link", |fd| {
                    fs::symlinkat(target.as_slice(), fd, leaf)
                })?;
                self.attributes_by_name(entry, &parent, leaf, None)?;
            }
            Kind::Device { character, major, minor } => {
                let kind = if *character { FileType::CharacterDevice } else { FileType::BlockDevice };
                let device = fs::makedev(*major, *minor);
                self.fresh(entry, &parent, leaf, "make the device", |fd| {
                    fs::mknodat(fd, leaf, kind, Mode::empty(), device)
                })?;
                self.attributes_by_name(entry, &parent, leaf, Some(entry.mode))?;
            }
            Kind::Fifo => {
                self.fresh(entry, &parent, leaf, "make the FIFO", |fd| {
                    fs::mknodat(fd, leaf, FileType::Fifo, Mode::empty(), 0)
                })?;
                self.attributes_by_name(entry, &parent, leaf, Some(entry.mode))?;
            }
        }
        self.applied.inodes += 1;
        self.note(path);
        Ok(())
    }

    // Remembers what this layer made; only the merged form has to tell it from what was there.
    fn note(&mut self, mut path: Vec<u8>) {
        if self.tree.form() != Form::Merged || self.manner != Manner::Layer {
            return;
        }
        while !path.is_empty() {
            let parent = names::split(&path).0.to_vec();
            if !self.made.insert(path) {
                return;
            }
            path = parent;
        }
    }

    // Makes something where nothing is; whatever was there goes first.
    fn fresh<T>(
        &mut self,
        entry: &Entry,
        parent: &Directory,
        leaf: &[u8],
        doing: &'static str,
        make: impl Fn(&OwnedFd) -> Result<T, Errno>,
    ) -> Result<T, UnpackError> {
        match make(&parent.fd) {
            Err(Errno::EXIST) => {
                if self.manner != Manner::Layer
                    && tree::stat(&parent.fd, leaf)
                        .map_err(|errno| UnpackError::write(doing, &entry.name, errno))?
                        .as_ref()
                        .is_some_and(tree::is_directory)
                {
                    return Err(UnpackError::refused(&entry.name, Rule::ReplacesDirectory));
                }
                self.tree.remove(parent, leaf, &entry.name)?;
                self.times.remove(&tree::join(&parent.path, leaf));
                make(&parent.fd)
            }
            result => result,
        }
        .map_err(|errno| UnpackError::write(doing, &entry.name, errno))
    }

    fn directory(
        &mut self,
        entry: &Entry,
        parent: &Rc<Directory>,
        leaf: &[u8],
        path: &[u8],
    ) -> Result<(), UnpackError> {
        let failed = |errno| UnpackError::write("make the directory", &entry.name, errno);
        let fd = match tree::make_directory(&parent.fd, leaf) {
            Ok(fd) => {
                self.applied.size += PAGE;
                fd
            }
            Err(Errno::EXIST) => {
                let stat = tree::stat(&parent.fd, leaf).map_err(failed)?;
                if stat.as_ref().is_some_and(tree::is_directory) {
                    // It has an entry of its own now.
                    self.tree.implicit.remove(path);
                    let fd = tree::open_directory(&parent.fd, leaf).map_err(failed)?;
                    if self.tree.form() == Form::Merged && self.manner == Manner::Layer {
                        drop_xattrs(fd.as_fd(), entry).map_err(failed)?;
                    }
                    fd
                } else if self.manner != Manner::Layer {
                    return Err(UnpackError::refused(&entry.name, Rule::ReplacesFile));
                } else {
                    self.tree.remove(parent, leaf, &entry.name)?;
                    let fd = tree::make_directory(&parent.fd, leaf).map_err(failed)?;
                    if self.tree.form() == Form::Upper {
                        // A whiteout or a file of this layer has hidden what is below; the directory must not show it again.
                        tree::set_opaque(fd.as_fd()).map_err(failed)?;
                    }
                    fd
                }
            }
            Err(errno) => return Err(failed(errno)),
        };
        self.attributes(entry, fd.as_fd())?;
        self.times.insert(path.to_vec(), entry.mtime);
        Ok(())
    }

    fn file<I: Input>(
        &mut self,
        entry: &Entry,
        parent: &Directory,
        leaf: &[u8],
        contents: &Contents,
        archive: &mut Archive<I>,
    ) -> Result<(), UnpackError> {
        self.total = self.total.saturating_add(contents.size);
        if self.total > self.limits.total {
            return Err(UnpackError::refused(&entry.name, Rule::TooLarge(self.limits.total)));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.fresh(entry, parent, leaf, "make the file", |fd| {
            fs::openat(fd, leaf, flags, Mode::RUSR | Mode::WUSR)
        })?;
        let whole = [(0, contents.size)];
        let parts = contents.sparse.as_ref().map_or(&whole[..], |map| &map.parts);
        for &(offset, length) in parts {
            self.write_part(entry, &fd, offset, length, archive)?;
            self.applied.size += length.div_ceil(PAGE) * PAGE;
        }
        if contents.sparse.is_some() {
            fs::ftruncate(&fd, contents.size)
                .map_err(|errno| UnpackError::write("set the size of", &entry.name, errno))?;
        }
        self.attributes(entry, fd.as_fd())?;
        fs::futimens(&fd, &timestamps(entry.mtime))
            .map_err(|errno| UnpackError::write("set the times of", &entry.name, errno))
    }

    fn write_part<I: Input>(
        &self,
        entry: &Entry,
        fd: &OwnedFd,
        mut offset: u64,
        length: u64,
        archive: &mut Archive<I>,
    ) -> Result<(), UnpackError> {
        archive.data(length, |mut bytes| {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(UnpackError::Cancelled);
            }
            while !bytes.is_empty() {
                let count = match rustix::io::pwrite(fd, bytes, offset) {
                    Ok(0) => return Err(UnpackError::write("write", &entry.name, Errno::IO)),
                    Ok(count) => count,
                    Err(Errno::INTR) => continue,
                    Err(errno) => return Err(UnpackError::write("write", &entry.name, errno)),
                };
                offset += count as u64;
                bytes = &bytes[count..];
            }
            Ok(())
        })
    }

    fn hard_link(
        &mut self,
        entry: &Entry,
        parent: &Directory,
        leaf: &[u8],
        target: &[u8],
    ) -> Result<(), UnpackError> {
        let (from, from_leaf) =
            tree::locate(&mut self.tree, target, Missing::Refuse).map_err(|error| match error {
                UnpackError::Refused { entry, rule: Rule::ParentEscapes } => {
                    UnpackError::Refused { entry, rule: Rule::HardLinkEscapes }
                }
                other => other,
            })?;
        let failed = |errno| UnpackError::write("make the hard link", &entry.name, errno);
        match tree::stat(&from.fd, from_leaf).map_err(failed)? {
            Some(stat) if tree::is_directory(&stat) => {
                return Err(UnpackError::refused(&entry.name, Rule::HardLinkToDirectory));
            }
            // A link to what this layer has removed is one to nothing.
            Some(stat) if self.tree.form() == Form::Upper && tree::is_whiteout(&stat) => {
                return Err(UnpackError::refused(&entry.name, Rule::HardLinkToNothing));
            }
            Some(_) if from.path == parent.path && from_leaf == leaf => {
                return Err(UnpackError::refused(&entry.name, Rule::HardLinkToNothing));
            }
            Some(_) => {}
            None if self.tree.form() == Form::Upper => {
                return Err(UnpackError::NeedsParent { entry: super::error::EntryName::new(&entry.name) });
            }
            None => return Err(UnpackError::refused(&entry.name, Rule::HardLinkToNothing)),
        }
        self.fresh(entry, parent, leaf, "make the hard link", |fd| {
            fs::linkat(&from.fd, from_leaf, fd, leaf, AtFlags::empty())
        })
        .map_err(|error| match error {
            // Removing what was in the way has removed the target with it.
            UnpackError::Write { source, .. }
                if source.raw_os_error() == Some(Errno::NOENT.raw_os_error()) =>
            {
                UnpackError::refused(&entry.name, Rule::HardLinkToNothing)
            }
            other => other,
        })?;
        self.applied.inodes = self.applied.inodes.saturating_sub(1); // No inode of its own.
        Ok(())
    }

    // Of a file or directory, by descriptor: owner, attributes, mode.
    fn attributes(&self, entry: &Entry, fd: BorrowedFd<'_>) -> Result<(), UnpackError> {
        fs::fchown(fd, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
            .map_err(|errno| UnpackError::write("set the owner of", &entry.name, errno))?;
        for (name, value) in &entry.xattrs {
            unless_unsupported(fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()))
                .map_err(|errno| UnpackError::write("set an extended attribute of", &entry.name, errno))?;
        }
        fs::fchmod(fd, Mode::from_raw_mode(entry.mode))
            .map_err(|errno| UnpackError::write("set the mode of", &entry.name, errno))
    }

    // Of what cannot be opened without side effects, by name.
    fn attributes_by_name(
        &self,
        entry: &Entry,
        parent: &Directory,
        leaf: &[u8],
        mode: Option<u32>,
    ) -> Result<(), UnpackError> {
        let owner = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
        fs::chownat(&parent.fd, leaf, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| UnpackError::write("set the owner of", &entry.name, errno))?;
        for (name, value) in &entry.xattrs {
            let path = tree::proc_path(parent.fd.as_fd(), leaf);
            unless_unsupported(fs::lsetxattr(path, name.as_slice(), value, XattrFlags::empty()))
                .map_err(|errno| UnpackError::write("set an extended attribute of", &entry.name, errno))?;
        }
        if let Some(mode) = mode {
            // By a descriptor that follows no link: what was just made may have been replaced where a container runs.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            fs::openat(&parent.fd, leaf, flags, Mode::empty())
                .and_then(|fd| match FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) {
                    FileType::Symlink => Err(Errno::LOOP),
                    _ => fs::chmod(
                        format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd)),
                        Mode::from_raw_mode(mode),
                    ),
                })
                .map_err(|errno| UnpackError::write("set the mode of", &entry.name, errno))?;
        }
        fs::utimensat(&parent.fd, leaf, &timestamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| UnpackError::write("set the times of", &entry.name, errno))
    }

    fn opaque(&mut self, name: &[u8]) -> Result<(), UnpackError> {
        let (parent, _) = names::split(name);
        if self.tree.form() == Form::Upper && parent.is_empty() {
            // Overlayfs knows no opaque root.
            return Err(UnpackError::NeedsParent { entry: super::error::EntryName::new(name) });
        }
        let directory = self.tree.directory(parent, Missing::Create, name)?;
        match self.tree.form() {
            Form::Upper => tree::set_opaque(directory.fd.as_fd())
                .map_err(|errno| UnpackError::write("hide what is below", name, errno)),
            Form::Merged => {
                self.note(directory.path.clone());
                self.clear(&directory.fd, &directory.path, name)
            }
        }
    }

    fn whiteout(&mut self, name: &[u8], hidden: &[u8]) -> Result<(), UnpackError> {
        let (directory, _) = tree::locate(&mut self.tree, name, Missing::Create)?;
        let failed = |errno| UnpackError::write("hide what is below", name, errno);
        let existing = tree::stat(&directory.fd, hidden).map_err(failed)?;
        if self.tree.form() == Form::Upper {
            return match existing {
                None => {
                    self.applied.inodes += 1;
                    fs::mknodat(&directory.fd, hidden, FileType::CharacterDevice, Mode::empty(), 0)
                        .map_err(failed)
                }
                // This layer has a directory of that name: it stays, what is below does not.
                Some(stat) if tree::is_directory(&stat) => tree::open_directory(&directory.fd, hidden)
                    .and_then(|fd| tree::set_opaque(fd.as_fd()))
                    .map_err(failed),
                Some(_) => Ok(()),
            };
        }
        let path = tree::join(&directory.path, hidden);
        match existing {
            None => Ok(()),
            Some(stat) if self.made.contains(&path) => {
                if !tree::is_directory(&stat) {
                    return Ok(());
                }
                let fd = tree::open_directory(&directory.fd, hidden).map_err(failed)?;
                self.clear(&fd, &path, name)
            }
            Some(_) => {
                self.times.remove(&path);
                self.tree.remove(&directory, hidden, name)
            }
        }
    }

    // Merged form: removes from a directory what the layers below have put there.
    fn clear(&mut self, directory: &OwnedFd, path: &[u8], name: &[u8]) -> Result<(), UnpackError> {
        let mut above = path;
        loop {
            if self.cleared.contains(above) {
                return Ok(());
            }
            if above.is_empty() {
                break;
            }
            above = names::split(above).0;
        }
        self.cleared.insert(path.to_vec());
        self.tree.forget();
        let (made, cleared) = (&self.made, &self.cleared);
        tree::prune(directory, path, &|path| made.contains(path), &mut |path| cleared.contains(path))
            .map_err(|errno| UnpackError::write("remove what is below", name, errno))
    }

    fn directory_times(&mut self) -> Result<(), UnpackError> {
        let mut times: Vec<_> = std::mem::take(&mut self.times).into_iter().collect();
        // Deepest first.
        times.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        for (path, mtime) in times {
            // What was removed or replaced later has no time to set.
            let Some(fd) = self.tree.existing(&path) else { continue };
            fs::futimens(&fd, &timestamps(mtime))
                .map_err(|errno| UnpackError::write("set the times of", &path, errno))?;
        }
        Ok(())
    }
}

// An entry replaces all attributes of a directory that is there, as it does where the layers are stacked.
fn drop_xattrs(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), Errno> {
    let mut names = vec![0u8; MAX_XATTR_NAMES];
    let length = match fs::flistxattr(fd, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let replaced = name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_");
        if replaced && names::check_xattr(name).is_ok() && !entry.xattrs.contains_key(name) {
            match fs::fremovexattr(fd, name) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}

// A file system without extended attributes, or without this kind, does not make an image unusable.
fn unless_unsupported(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::OPNOTSUPP) => Ok(()),
        result => result,
    }
}

fn timestamps((seconds, nanos): (u64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: i64::from(nanos) };
    Timestamps { last_access: time, last_modification: time }
}
