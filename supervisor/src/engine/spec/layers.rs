//! A container's root filesystem read without mounting it: the layer folders of its snapshot, merged as the
//! kernel's overlay would (whiteouts, opaque folders). Every component is opened by itself without following
//! links; links are resolved here, inside the root, so nothing in an image or written by a running container can
//! lead out of it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::trees::reopen_regular;

/// Links followed in one path, as in the kernel.
const MAX_LINKS: usize = 40;

/// Most components of one path, after links.
const MAX_COMPONENTS: usize = 4096;

/// The folders of one root filesystem.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// Topmost first.
    dirs: Vec<PathBuf>,
    /// Where a container that is not running may be given folders.
    writable: Option<PathBuf>,
    /// Whose files of the writable layer are; `None`: as everywhere on the host.
    owners: Option<Owners>,
}

/// The host's ids of a container with a user namespace: of its users and groups from 0 on, the first and how many.
#[derive(Clone, Copy, Debug)]
pub struct Owners {
    pub uids: (u32, u32),
    pub gids: (u32, u32),
}

impl Owners {
    /// An owner within, as the host's; `None`: the container does not have it.
    fn on_host(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        let of = |(first, count): (u32, u32), id: u32| (id < count).then(|| first.checked_add(id)).flatten();
        Some((of(self.uids, uid)?, of(self.gids, gid)?))
    }
}

enum Node {
    /// The same folder in every layer that shows it, topmost first.
    Folder(Vec<OwnedFd>),
    Link(OwnedFd),
    Other(OwnedFd),
}

enum Walk {
    Found(Node),
    /// Components, from the root, that exist, and those that do not.
    Missing {
        have: Vec<OsString>,
        rest: Vec<OsString>,
    },
}

impl Layers {
    /// From the mounts of a snapshot: one overlay, or one bind mount.
    pub fn from_mounts<'a>(mounts: impl IntoIterator<Item = (&'a str, &'a str, &'a [String])>) -> Layers {
        let mut layers = Layers::default();
        for (kind, source, options) in mounts {
            if kind != "overlay" {
                layers.dirs.push(PathBuf::from(source));
                if !options.iter().any(|option| option == "ro") {
                    layers.writable = Some(PathBuf::from(source));
                }
                continue;
            }
            for option in options {
                if let Some(upper) = option.strip_prefix("upperdir=") {
                    layers.dirs.insert(0, PathBuf::from(upper));
                    layers.writable = Some(PathBuf::from(upper));
                } else if let Some(lowers) = option.strip_prefix("lowerdir=") {
                    layers.dirs.extend(lowers.split(':').map(PathBuf::from));
                } else if let Some(lower) = option.strip_prefix("lowerdir+=") {
                    layers.dirs.push(PathBuf::from(lower));
                }
            }
        }
        layers
    }

    /// The same, of a container with a user namespace: its layers have owners as within, its writable layer has them as the host sees them.
    pub fn owned_by(self, owners: Option<Owners>) -> Layers {
        Layers { owners, ..self }
    }

    /// Opens the regular file that `path` names in the container; `None` if there is none. Anything else than a
    /// regular file is an error: a FIFO would hang, a device would answer for the host.
    pub fn open_file(&self, path: &str) -> Result<Option<File>> {
        match self.walk(Path::new(path))? {
            Walk::Missing { .. } => Ok(None),
            Walk::Found(node) => {
                let opened = match node {
                    Node::Other(fd) => reopen_regular(&fd)
                        .map_err(|errno| Error::io("opening the container's", path, errno.into()))?,
                    _ => None,
                };
                let irregular =
                    || Error::invalid(format!("{path} of the container"), "is not a regular file");
                Ok(Some(opened.ok_or_else(irregular)?.into()))
            }
        }
    }

    /// Makes `path` a folder, with the parents it lacks, in the writable layer. Only for a container that never
    /// ran, whose writable layer nobody else touches. What exists already stays as it is.
    pub fn make_folder(&self, path: &str) -> Result<()> {
        let Some(upper) = &self.writable else { return Ok(()) };
        let Walk::Missing { have, rest } = self.walk(Path::new(path))? else { return Ok(()) };
        let fail = |source: Errno| {
            Error::io("making a folder in the container's writable layer for", path, source.into())
        };
        let mut at = open_dir(rustix::fs::CWD, upper.as_os_str()).map_err(fail)?;
        let mut so_far = PathBuf::from("/");
        for name in &have {
            so_far.push(name);
            match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    at = open_dir(&at, name).map_err(fail)?;
                    self.copy_attributes(&so_far, &at)?;
                }
                Err(Errno::EXIST) => at = open_dir(&at, name).map_err(fail)?,
                Err(source) => return Err(fail(source)),
            }
        }
        for name in &rest {
            // A whiteout of the writable layer itself cannot be there: nothing ran yet.
            rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)).map_err(fail)?;
            at = open_dir(&at, name).map_err(fail)?;
            if self.owners.is_some() {
                self.give(&at, 0, 0).map_err(fail)?;
            }
            rustix::fs::fchmod(&at, Mode::from_raw_mode(0o755)).map_err(fail)?;
        }
        Ok(())
    }

    /// Gives something in the writable layer to its owner. What the container does not have stays nobody's.
    fn give(&self, fd: &OwnedFd, uid: u32, gid: u32) -> rustix::io::Result<()> {
        let owner = match &self.owners {
            Some(owners) => owners.on_host(uid, gid),
            None => Some((uid, gid)),
        };
        let Some((uid, gid)) = owner else { return Ok(()) };
        rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
    }

    /// A folder that is repeated in the writable layer keeps the owner and mode of the one below.
    fn copy_attributes(&self, path: &Path, fd: &OwnedFd) -> Result<()> {
        let Some(upper) = &self.writable else { return Ok(()) };
        let dirs = self.dirs.iter().filter(|dir| *dir != upper).cloned().collect();
        let lower = Layers { dirs, ..Layers::default() };
        if let Walk::Found(Node::Folder(fds)) = lower.walk(path)?
            && let Some(top) = fds.first()
        {
            let fail = |source: Errno| Error::io("copying the owner and mode of", path, source.into());
            let stat = rustix::fs::fstat(top).map_err(fail)?;
            self.give(fd, stat.st_uid, stat.st_gid).map_err(fail)?;
            rustix::fs::fchmod(fd, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(fail)?;
        }
        Ok(())
    }

    fn walk(&self, path: &Path) -> Result<Walk> {
        let fail = |source: Errno| Error::io("looking into the container's", path, source.into());
        let mut roots = Vec::with_capacity(self.dirs.len());
        for dir in &self.dirs {
            roots.push(
                open_dir(rustix::fs::CWD, dir.as_os_str())
                    .map_err(|source| Error::io("opening the snapshot layer", dir, source.into()))?,
            );
        }
        let mut stack: Vec<(OsString, Vec<OwnedFd>)> = vec![(OsString::new(), roots)];
        let mut todo: VecDeque<OsString> = components(path);
        let (mut links, mut steps) = (0, 0);
        while let Some(name) = todo.pop_front() {
            steps += 1;
            if steps > MAX_COMPONENTS {
                return Err(fail(Errno::NAMETOOLONG));
            }
            if name == ".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let Some((_, here)) = stack.last() else { return Err(fail(Errno::NOENT)) };
            match look(here, &name).map_err(fail)? {
                None => {
                    let have = stack.into_iter().skip(1).map(|(name, _)| name).collect();
                    let rest = std::iter::once(name).chain(todo).filter(|name| name != "..").collect();
                    return Ok(Walk::Missing { have, rest });
                }
                Some(Node::Folder(fds)) => stack.push((name, fds)),
                Some(Node::Link(fd)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(fail(Errno::LOOP));
                    }
                    let target = rustix::fs::readlinkat(&fd, "", Vec::new()).map_err(fail)?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        stack.truncate(1);
                    }
                    for part in components(&target).into_iter().rev() {
                        todo.push_front(part);
                    }
                }
                Some(Node::Other(fd)) => {
                    return if todo.is_empty() {
                        Ok(Walk::Found(Node::Other(fd)))
                    } else {
                        Err(fail(Errno::NOTDIR))
                    };
                }
            }
        }
        match stack.pop() {
            Some((_, fds)) => Ok(Walk::Found(Node::Folder(fds))),
            None => Err(fail(Errno::NOENT)),
        }
    }
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

fn open_dir(at: impl std::os::fd::AsFd, name: &OsStr) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name.as_bytes(), flags, Mode::empty())
}

/// `name` in a merged folder.
fn look(here: &[OwnedFd], name: &OsStr) -> std::result::Result<Option<Node>, Errno> {
    let mut merged: Vec<OwnedFd> = Vec::new();
    for dir in here {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(dir, name.as_bytes(), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => continue,
            Err(source) => return Err(source),
        };
        let stat = rustix::fs::statat(&fd, "", AtFlags::EMPTY_PATH)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let dir = match open_dir(dir, name) {
                    Ok(dir) => dir,
                    // Swapped under our eyes: what is there now is not what was found.
                    Err(_) => break,
                };
                let opaque = is_opaque(&dir);
                merged.push(dir);
                if opaque {
                    break;
                }
            }
            FileType::CharacterDevice if stat.st_rdev == 0 => break,
            _ if !merged.is_empty() => break,
            FileType::Symlink => return Ok(Some(Node::Link(fd))),
            _ => return Ok(Some(Node::Other(fd))),
        }
    }
    Ok(if merged.is_empty() { None } else { Some(Node::Folder(merged)) })
}

fn is_opaque(dir: &OwnedFd) -> bool {
    let mut value = [0_u8; 8];
    ["trusted.overlay.opaque", "user.overlay.opaque"]
        .into_iter()
        .any(|name| rustix::fs::fgetxattr(dir, name, &mut value[..]).is_ok_and(|len| value[..len] == *b"y"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct Tree {
        dir: tempfile::TempDir,
    }

    impl Tree {
        fn new(files: &[(&str, &str)]) -> Tree {
            let dir = tempfile::tempdir().unwrap();
            for layer in ["upper", "l1", "l2"] {
                fs::create_dir(dir.path().join(layer)).unwrap();
            }
            for (path, text) in files {
                let path = dir.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Tree { dir }
        }

        fn layers(&self) -> Layers {
            let at = |name: &str| self.dir.path().join(name).display().to_string();
            let options =
                vec![format!("upperdir={}", at("upper")), format!("lowerdir={}:{}", at("l1"), at("l2"))];
            Layers::from_mounts([("overlay", "overlay", options.as_slice())])
        }

        fn read(&self, path: &str) -> Option<String> {
            let mut text = String::new();
            self.layers().open_file(path).unwrap()?.read_to_string(&mut text).unwrap();
            Some(text)
        }
    }

    #[test]
    fn upper_layers_win_and_folders_merge() {
        let tree = Tree::new(&[("l2/etc/passwd", "old"), ("l1/etc/group", "g"), ("l2/etc/only", "o")]);
        assert_eq!(tree.read("/etc/passwd").as_deref(), Some("old"));
        fs::create_dir_all(tree.dir.path().join("upper/etc")).unwrap();
        fs::write(tree.dir.path().join("upper/etc/passwd"), "new").unwrap();
        assert_eq!(tree.read("/etc/passwd").as_deref(), Some("new"));
        assert_eq!(tree.read("/etc/only").as_deref(), Some("o"));
        assert_eq!(tree.read("/etc/none"), None);
    }

    #[test]
    fn links_stay_inside_the_root() {
        let tree = Tree::new(&[("l2/real/passwd", "inside"), ("l2/etc/x", "")]);
        symlink("../../../../../real/passwd", tree.dir.path().join("l1/a")).unwrap();
        symlink("/real", tree.dir.path().join("l1/b")).unwrap();
        symlink("loop", tree.dir.path().join("l1/loop")).unwrap();
        symlink("/proc/self/root/etc/hostname", tree.dir.path().join("l1/out")).unwrap();
        assert_eq!(tree.read("/a").as_deref(), Some("inside"));
        assert_eq!(tree.read("/b/passwd").as_deref(), Some("inside"));
        assert_eq!(tree.read("/out"), None);
        assert!(tree.layers().open_file("/loop").is_err());
    }

    #[test]
    fn cve_2024_9676_a_fifo_or_folder_is_refused_and_does_not_hang() {
        let tree = Tree::new(&[("l2/etc/x", "")]);
        let fifo = tree.dir.path().join("l2/etc/passwd");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
        assert!(tree.layers().open_file("/etc/passwd").is_err());
        assert!(tree.layers().open_file("/etc").is_err());
    }

    #[test]
    fn whiteouts_hide_what_is_below() {
        let tree = Tree::new(&[("l2/etc/passwd", "x"), ("l2/d/f", "x"), ("l1/d/g", "y")]);
        let gone = tree.dir.path().join("l1/etc");
        fs::create_dir_all(&gone).unwrap();
        let made = nix::sys::stat::mknod(
            &gone.join("passwd"),
            nix::sys::stat::SFlag::S_IFCHR,
            nix::sys::stat::Mode::empty(),
            0,
        );
        if made.is_err() {
            return; // not root
        }
        assert_eq!(tree.read("/etc/passwd"), None);
        assert_eq!(tree.read("/d/f").as_deref(), Some("x"));
        let opaque = File::open(tree.dir.path().join("l1/d")).unwrap();
        if rustix::fs::fsetxattr(&opaque, "trusted.overlay.opaque", b"y", rustix::fs::XattrFlags::empty())
            .is_ok()
        {
            assert_eq!(tree.read("/d/f"), None);
            assert_eq!(tree.read("/d/g").as_deref(), Some("y"));
        }
    }

    #[test]
    fn a_new_folder_keeps_the_attributes_of_its_parents() {
        let tree = Tree::new(&[("l2/srv/x", "")]);
        fs::set_permissions(tree.dir.path().join("l2/srv"), fs::Permissions::from_mode(0o2750)).unwrap();
        symlink("/srv", tree.dir.path().join("l1/link")).unwrap();
        tree.layers().make_folder("/link/a/b").unwrap();
        let made = tree.dir.path().join("upper/srv");
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o7777, 0o2750);
        assert!(made.join("a/b").is_dir());
        tree.layers().make_folder("/../../etc/x").unwrap();
        assert!(tree.dir.path().join("upper/etc/x").is_dir());
    }
}
