//! Every path below a rootfs is resolved here, and only inside that rootfs.
//!
//! What always holds: `openat2` with RESOLVE_IN_ROOT and without magic links resolves; what is created is created one
//! component at a time below a descriptor, never through a link; nothing allocates, so the container's init can use it.

use crate::sys::SysResult;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, fstatfs, mkdirat, openat, openat2, readlinkat_raw, statat,
};
use rustix::io::Errno;
use std::ffi::CStr;

/// Longest path that is handled, as the kernel's PATH_MAX.
const PATH_MAX: usize = 4096;
/// Longest component of a path, in bytes.
const NAME_MAX: usize = 255;
/// How many links that lead nowhere are followed, as the kernel does for others.
const LINKS_MAX: u32 = 40;
/// How often a lookup is repeated that collided with a rename, before it is given up.
const LOOKUP_TRIES: u32 = 128;

/// Whether the last steps of a path may be symbolic links (which are resolved inside the root).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// Links are followed inside the root.
    Follow,
    /// A link anywhere in the path is an error (`ELOOP`).
    Refuse,
}

/// What a mount target has to be, and is made as if it is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

/// Opens an existing path inside `root`.
pub(crate) fn open(root: BorrowedFd<'_>, path: &CStr, flags: OFlags, links: Links) -> SysResult<OwnedFd> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    if links == Links::Refuse {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    for _ in 1..LOOKUP_TRIES {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => continue,
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens (`O_PATH`) a mount target inside `root`; makes it with its parents if it is missing.
pub(crate) fn open_or_create(
    root: BorrowedFd<'_>,
    path: &CStr,
    kind: Kind,
    links: Links,
) -> SysResult<OwnedFd> {
    match open(root, path, target_flags(kind), links) {
        Err(Errno::NOENT) => create(root, path, kind, links),
        other => other,
    }
}

/// Opens (`O_PATH`) the folder that holds the last component of `path` inside `root`, making what is missing, and
/// hands it on with the component's name. An empty path has no last component: `EINVAL`.
pub(crate) fn with_parent<T>(
    root: BorrowedFd<'_>,
    path: &CStr,
    links: Links,
    run: impl FnOnce(BorrowedFd<'_>, &CStr) -> SysResult<T>,
) -> SysResult<T> {
    let mut buffer = Buffer::new(path)?;
    let (parent_end, name_start) = buffer.split_last().ok_or(Errno::INVAL)?;
    if name_start == 0 {
        return run(root, buffer.str_at(0)?);
    }
    buffer.bytes[parent_end] = 0;
    let parent = open_or_create(root, buffer.str_at(0)?, Kind::Directory, links)?;
    run(parent.as_fd(), buffer.str_at(name_start)?)
}

/// A path that can be cut into components in place.
struct Buffer {
    bytes: [u8; PATH_MAX],
    len: usize,
}

impl Buffer {
    /// Copies the path without slashes at its start and end.
    fn new(path: &CStr) -> SysResult<Buffer> {
        let mut path = path.to_bytes();
        while let Some(rest) = path.strip_prefix(b"/") {
            path = rest;
        }
        while let Some(rest) = path.strip_suffix(b"/") {
            path = rest;
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let mut bytes = [0; PATH_MAX];
        bytes[..path.len()].copy_from_slice(path);
        Ok(Buffer { bytes, len: path.len() })
    }

    /// Where the parent of the last component ends and the component starts.
    fn split_last(&self) -> Option<(usize, usize)> {
        if self.len == 0 {
            return None;
        }
        Some(match self.bytes[..self.len].iter().rposition(|b| *b == b'/') {
            Some(at) => (at, at + 1),
            None => (0, 0),
        })
    }

    /// Puts a link's target in the place of the component that is the link.
    fn replace_by_link(&mut self, parent: BorrowedFd<'_>, start: usize, end: usize) -> SysResult<()> {
        let mut name = [0; NAME_MAX + 1];
        let length = end - start;
        name.get_mut(..length).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(&self.bytes[start..end]);
        let name = CStr::from_bytes_until_nul(&name).map_err(|_| Errno::NAMETOOLONG)?;
        let mut target = [0u8; PATH_MAX];
        let length = readlinkat_raw(parent, name, &mut target)?;
        let target = &target[..length];
        let kept = if target.first() == Some(&b'/') { 0 } else { start };
        let rest = self.len - end;
        let whole = kept + target.len() + rest;
        if target.is_empty() || whole >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        self.bytes.copy_within(end..self.len, kept + target.len());
        self.bytes[kept..kept + target.len()].copy_from_slice(target);
        self.bytes[whole..].fill(0);
        self.len = whole;
        Ok(())
    }

    fn str_at(&self, start: usize) -> SysResult<&CStr> {
        CStr::from_bytes_until_nul(&self.bytes[start..]).map_err(|_| Errno::NAMETOOLONG)
    }
}

/// Makes `path` below its deepest existing folder, one component at a time. A link that leads nowhere yet is followed
/// inside the root, and what it leads to is made.
fn create(root: BorrowedFd<'_>, path: &CStr, kind: Kind, links: Links) -> SysResult<OwnedFd> {
    let mut buffer = Buffer::new(path)?;
    for _ in 0..LINKS_MAX {
        match create_below(root, &mut buffer, kind, links)? {
            Step::Done(fd) => return Ok(fd),
            Step::Link { parent, start, end } if links == Links::Follow => {
                buffer.replace_by_link(parent.as_fd(), start, end)?;
                // It may exist after all, once the link is followed.
                match open(root, buffer.str_at(0)?, target_flags(kind), links) {
                    Err(Errno::NOENT) => {}
                    other => return other,
                }
            }
            Step::Link { .. } => return Err(Errno::LOOP),
        }
    }
    Err(Errno::LOOP)
}

/// How far one attempt to make a path came.
enum Step {
    Done(OwnedFd),
    /// The component from `start` to `end` is a link.
    Link {
        parent: OwnedFd,
        start: usize,
        end: usize,
    },
}

fn target_flags(kind: Kind) -> OFlags {
    match kind {
        Kind::Directory => OFlags::PATH | OFlags::DIRECTORY,
        Kind::File => OFlags::PATH,
    }
}

fn create_below(root: BorrowedFd<'_>, buffer: &mut Buffer, kind: Kind, links: Links) -> SysResult<Step> {
    let (mut parent, mut start) = deepest_existing(root, buffer, links)?;
    loop {
        let rest = &buffer.bytes[start..buffer.len];
        let end = rest.iter().position(|b| *b == b'/').map_or(buffer.len, |n| start + n);
        let last = end == buffer.len;
        match &buffer.bytes[start..end] {
            // Nothing that does not exist has a parent to go back to.
            b".." => return Err(Errno::NOENT),
            b"" | b"." if last => return Ok(Step::Done(parent)),
            b"" | b"." => {}
            _ => {
                let separator = std::mem::replace(&mut buffer.bytes[end], 0);
                let name = buffer.str_at(start)?;
                let made = match last && kind == Kind::File {
                    true => create_file(parent.as_fd(), name),
                    false => create_folder(parent.as_fd(), name),
                };
                let link = made.is_err() && is_link(parent.as_fd(), name);
                buffer.bytes[end] = separator;
                match made {
                    Err(_) if link => return Ok(Step::Link { parent, start, end }),
                    Err(errno) => return Err(errno),
                    Ok(fd) if last => return Ok(Step::Done(fd)),
                    Ok(fd) => parent = fd,
                }
            }
        }
        start = end + 1;
    }
}

/// Whether a name is a link that may be followed by its text; links of procfs stand for something else than they say.
fn is_link(parent: BorrowedFd<'_>, name: &CStr) -> bool {
    const PROC_SUPER_MAGIC: u64 = 0x9fa0;
    let link = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
    link && fstatfs(parent).is_ok_and(|fs| fs.f_type as u64 != PROC_SUPER_MAGIC)
}

/// Finds the longest prefix that exists; answers it and where the missing rest starts.
fn deepest_existing(root: BorrowedFd<'_>, buffer: &mut Buffer, links: Links) -> SysResult<(OwnedFd, usize)> {
    let mut end = buffer.len;
    loop {
        let Some(cut) = buffer.bytes[..end].iter().rposition(|b| *b == b'/') else {
            return Ok((open(root, c".", OFlags::PATH | OFlags::DIRECTORY, links)?, 0));
        };
        buffer.bytes[cut] = 0;
        let found = open(root, buffer.str_at(0)?, OFlags::PATH | OFlags::DIRECTORY, links);
        buffer.bytes[cut] = b'/';
        match found {
            Err(Errno::NOENT) => end = cut,
            Err(errno) => return Err(errno),
            Ok(fd) => return Ok((fd, cut + 1)),
        }
    }
}

/// Makes a folder and opens it; one that is there already is fine, a link is not.
pub(crate) fn create_folder(parent: BorrowedFd<'_>, name: &CStr) -> SysResult<OwnedFd> {
    match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    openat(parent, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Makes an empty file and opens it (`O_PATH`); it must not exist.
fn create_file(parent: BorrowedFd<'_>, name: &CStr) -> SysResult<OwnedFd> {
    let make = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(openat(parent, name, make, Mode::from_raw_mode(0o644))?);
    openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Cleans an absolute or relative path of a config as seen from the root: no `.`, `..` or doubled slashes are left, and
/// `..` stops at the root. The result is relative to the root; empty means the root itself.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        (dir, fd)
    }

    #[test]
    fn clean_stops_at_the_root() {
        assert_eq!(clean("/a/../../b//./c/"), "b/c");
        assert_eq!(clean("/.."), "");
    }

    #[test]
    fn creates_missing_folders_and_files() {
        let (dir, fd) = root();
        open_or_create(fd.as_fd(), c"a/b/c", Kind::Directory, Links::Follow).unwrap();
        open_or_create(fd.as_fd(), c"/a/x/y", Kind::File, Links::Follow).unwrap();
        assert!(dir.path().join("a/b/c").is_dir());
        assert!(dir.path().join("a/x/y").is_file());
        open_or_create(fd.as_fd(), c"a/x/y", Kind::File, Links::Follow).unwrap();
    }

    #[test]
    fn links_stay_inside_the_root() {
        let (dir, fd) = root();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("out")).unwrap();
        symlink("/../../../..", dir.path().join("up")).unwrap();
        // Inside the root the link leads to a folder that does not exist there yet.
        open_or_create(fd.as_fd(), c"out/x", Kind::Directory, Links::Follow).unwrap();
        let scoped = dir.path().join(outside.path().strip_prefix("/").unwrap());
        assert!(scoped.join("x").is_dir());
        open_or_create(fd.as_fd(), c"up/made", Kind::Directory, Links::Follow).unwrap();
        assert!(dir.path().join("made").is_dir());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        assert_eq!(open(fd.as_fd(), c"up", OFlags::PATH, Links::Refuse).unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn links_that_lead_nowhere_are_made_good_inside_the_root() {
        let (dir, fd) = root();
        for (target, link) in
            [("/run/lock", "lock"), ("sub/file", "file"), ("loop", "loop"), ("../../../up/x", "escape")]
        {
            symlink(target, dir.path().join(link)).unwrap();
        }
        open_or_create(fd.as_fd(), c"lock/deep", Kind::Directory, Links::Follow).unwrap();
        assert!(dir.path().join("run/lock/deep").is_dir());
        open_or_create(fd.as_fd(), c"file", Kind::File, Links::Follow).unwrap();
        assert!(dir.path().join("sub/file").is_file());
        open_or_create(fd.as_fd(), c"escape/y", Kind::Directory, Links::Follow).unwrap();
        assert!(dir.path().join("up/x/y").is_dir());
        assert!(!dir.path().parent().unwrap().join("up").exists());
        assert_eq!(
            open_or_create(fd.as_fd(), c"loop/x", Kind::Directory, Links::Follow).unwrap_err(),
            Errno::LOOP
        );
        assert_eq!(
            open_or_create(fd.as_fd(), c"new/../../x", Kind::Directory, Links::Follow).unwrap_err(),
            Errno::NOENT
        );
        assert_eq!(open_or_create(fd.as_fd(), c"file", Kind::File, Links::Refuse).unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn with_parent_names_the_last_component() {
        let (dir, fd) = root();
        with_parent(fd.as_fd(), c"/dev/net/tun", Links::Refuse, |parent, name| {
            assert_eq!(name, c"tun");
            mkdirat(parent, name, Mode::from_raw_mode(0o700))
        })
        .unwrap();
        assert!(dir.path().join("dev/net/tun").is_dir());
        with_parent(fd.as_fd(), c"top", Links::Refuse, |_, name| {
            assert_eq!(name, c"top");
            Ok(())
        })
        .unwrap();
        assert_eq!(with_parent(fd.as_fd(), c"/", Links::Refuse, |_, _| Ok(())).unwrap_err(), Errno::INVAL);
    }
}
