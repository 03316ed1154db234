//! Mounts, devices and masks inside the container's root, all through descriptors. Runs in the child.
//!
//! What always holds: a target is opened inside the root first, and the mount is attached to that very descriptor, so
//! that nobody can swap the path in between (CVE-2021-30465).

use super::run::{Child, Trouble};
use super::terminal::NULL;
use super::{Existing, Mount, Parameters, Pivot, Source, Start};
use crate::paths::{self, Kind, Links};
use crate::sys::SysResult;
use crate::sys::mount::{MountAttr, Reach, set_attributes};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick,
    move_mount, open_tree, unmount,
};
use std::ffi::{CStr, CString};

/// Attaches a detached mount to an open path.
pub(super) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> SysResult<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", flags)
}

/// A detached copy of the mount at an open path (a bind mount that is nowhere yet).
pub(crate) fn clone_tree(from: BorrowedFd<'_>, reach: Reach) -> SysResult<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if reach == Reach::Recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(from, c"", flags)
}

/// A new file system that is mounted nowhere yet.
fn new_file_system(
    kind: &CStr,
    parameters: &[(CString, Option<CString>)],
    attributes: u64,
) -> SysResult<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    configure(&context, parameters)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::from_bits_retain(attributes as u32))
}

/// Tells a file system that is being made what it is to be.
pub(crate) fn configure(context: &OwnedFd, parameters: &[(CString, Option<CString>)]) -> SysResult<()> {
    for (key, value) in parameters {
        match value {
            Some(value) => fsconfig_set_string(context, key.as_c_str(), value.as_c_str())?,
            None => fsconfig_set_flag(context, key.as_c_str())?,
        }
    }
    Ok(())
}

/// A target that was not asked for by a path below `/proc` or `/sys` must not lead there by links of the rootfs: it would
/// pull the masks away (CVE-2019-16884, CVE-2025-52881).
fn refuse_kernels_files(target: BorrowedFd<'_>) -> Result<(), Trouble> {
    const PROC_SUPER_MAGIC: u64 = 0x9fa0;
    const SYSFS_MAGIC: u64 = 0x6265_6572;
    match rustix::fs::fstatfs(target)?.f_type as u64 {
        PROC_SUPER_MAGIC | SYSFS_MAGIC => Err(Trouble::suspicious(Errno::LOOP)),
        _ => Ok(()),
    }
}

/// Lets a new file system begin like the folder that it will hide; answers that folder. A folder that had to be made has
/// nothing to give.
fn start_with(
    start: Start,
    root: BorrowedFd<'_>,
    mount: &Mount,
    tree: BorrowedFd<'_>,
) -> Result<OwnedFd, Trouble> {
    let folder = match paths::open(root, &mount.target, OFlags::PATH | OFlags::DIRECTORY, mount.links) {
        Err(Errno::NOENT) => {
            return Ok(paths::open_or_create(root, &mount.target, mount.kind, mount.links)?);
        }
        other => other?,
    };
    if matches!(start, Start::Mode | Start::ModeAndContents) {
        let mode = rustix::fs::fstat(&folder)?.st_mode & 0o7777;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::openat(tree, c".", flags, Mode::empty())?;
        rustix::fs::fchmod(&top, Mode::from_raw_mode(mode))?;
    }
    if matches!(start, Start::Contents | Start::ModeAndContents) {
        super::copy_up::copy(folder.as_fd(), tree)?;
    }
    Ok(folder)
}

/// Attaches the rootfs at a folder of the host, or nowhere, and answers the root of what is mounted.
pub(super) fn attach_root(tree: BorrowedFd<'_>, at: Option<&CStr>) -> Result<OwnedFd, Trouble> {
    if let Some(at) = at {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(at, flags, Mode::empty())?;
        attach(tree, folder.as_fd())?;
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(tree, 3)?)
}

/// Makes a folder the root of this process.
pub(super) fn change_root(root: BorrowedFd<'_>) -> SysResult<()> {
    rustix::process::fchdir(root)?;
    rustix::process::chroot(c".")
}

impl Child {
    fn root(&self) -> SysResult<BorrowedFd<'_>> {
        self.root.as_ref().map(|fd| fd.as_fd()).ok_or(Errno::BADF)
    }

    pub(super) fn mount(&self, mount: &Mount) -> Result<(), Trouble> {
        let root = self.root()?;
        let made;
        let tree = match &mount.source {
            Source::Tree(fd) => fd.as_fd(),
            Source::New { kind, parameters } => {
                made = new_file_system(kind, parameters, mount.attr.set)?;
                made.as_fd()
            }
        };
        if matches!(mount.source, Source::Tree(_)) || mount.attr.propagation != 0 {
            apply(tree, Reach::One, &mount.attr)?;
        }
        apply(tree, Reach::Recursive, &mount.recursive)?;
        let target = match mount.start {
            Start::Empty => paths::open_or_create(root, &mount.target, mount.kind, mount.links)?,
            start => start_with(start, root, mount, tree)?,
        };
        if mount.links == Links::Follow {
            refuse_kernels_files(target.as_fd())?;
        }
        attach(tree, target.as_fd())?;
        Ok(())
    }

    /// Changes what is mounted at a path, which must be the top of a mount.
    pub(super) fn remount(
        &self,
        path: &CStr,
        links: Links,
        parameters: Option<&Parameters>,
        attr: &MountAttr,
    ) -> Result<(), Trouble> {
        let target = paths::open(self.root()?, path, OFlags::PATH, links)?;
        if links == Links::Follow {
            refuse_kernels_files(target.as_fd())?;
        }
        if let Some(parameters) = parameters {
            let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
            let context = fspick(&target, c"", flags)?;
            configure(&context, parameters)?;
            fsconfig_reconfigure(&context)?;
        }
        Ok(set_attributes(target.as_fd(), Reach::One, attr)?)
    }

    pub(super) fn set_attributes(&self, path: &CStr, reach: Reach, attr: &MountAttr) -> Result<(), Trouble> {
        self.with_root(|root| {
            let target = paths::open(root, path, OFlags::PATH, Links::Refuse)?;
            match set_attributes(target.as_fd(), reach, attr) {
                Err(Errno::INVAL) => Ok(change_unattached(target.as_fd(), attr)?),
                other => Ok(other?),
            }
        })
    }

    pub(super) fn make_working_directory(&self, path: &CStr) {
        let _ =
            self.root().and_then(|root| paths::open_or_create(root, path, Kind::Directory, Links::Follow));
    }

    /// Makes a device node; one that is there already must be the very device (CVE-2025-31133).
    pub(super) fn device(&self, path: &CStr, mode: u32, dev: u64, uid: u32, gid: u32) -> Result<(), Trouble> {
        let kind = FileType::from_raw_mode(mode);
        let mut exists = false;
        paths::with_parent(self.root()?, path, Links::Refuse, |parent, name| {
            match rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(mode), dev) {
                Err(Errno::EXIST) => exists = true,
                other => other?,
            }
            if exists {
                let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                let same = FileType::from_raw_mode(stat.st_mode) == kind && (dev == 0 || stat.st_rdev == dev);
                return if same { Ok(()) } else { Err(Errno::EXIST) };
            }
            if uid != 0 || gid != 0 {
                let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Ok(())
        })
        .map_err(|errno| if exists { Trouble::suspicious(errno) } else { errno.into() })
    }

    pub(super) fn symlink(&self, path: &CStr, target: &CStr, existing: Existing) -> Result<(), Trouble> {
        paths::with_parent(self.root()?, path, Links::Refuse, |parent, name| {
            match (rustix::fs::symlinkat(target, parent, name), existing) {
                (Err(Errno::EXIST), Existing::Keep) => Ok(()),
                (Err(Errno::EXIST), Existing::Replace) => {
                    rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
                    rustix::fs::symlinkat(target, parent, name)
                }
                (other, _) => other,
            }
        })?;
        Ok(())
    }

    /// Hides a path if it exists: a folder under one shared empty, read-only tmpfs, anything else under the host's null
    /// device, which is checked to be one. Runs before the pivot, while the host's `/dev` is in sight.
    pub(super) fn mask(&mut self, path: &CStr) -> Result<(), Trouble> {
        let target = match paths::open(self.root()?, path, OFlags::PATH, Links::Follow) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            other => other?,
        };
        let stat = rustix::fs::fstat(&target)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            let null = clone_tree(self.null()?, Reach::One)?;
            return Ok(attach(null.as_fd(), target.as_fd())?);
        }
        match &self.empty {
            Some(empty) => {
                let copy = clone_tree(empty.as_fd(), Reach::One)?;
                attach(copy.as_fd(), target.as_fd())?;
            }
            None => {
                let attributes = libc::MOUNT_ATTR_RDONLY
                    | libc::MOUNT_ATTR_NOSUID
                    | libc::MOUNT_ATTR_NODEV
                    | libc::MOUNT_ATTR_NOEXEC;
                let empty = new_file_system(c"tmpfs", &[], attributes)?;
                attach(empty.as_fd(), target.as_fd())?;
                self.empty = Some(empty);
            }
        }
        Ok(())
    }

    fn null(&mut self) -> Result<BorrowedFd<'_>, Trouble> {
        if self.null.is_none() {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let null = rustix::fs::open(c"/dev/null", flags, Mode::empty())?;
            let stat = rustix::fs::fstat(&null)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || stat.st_rdev != NULL {
                return Err(Trouble::suspicious(Errno::NODEV));
            }
            self.null = Some(null);
        }
        Ok(self.null.as_ref().ok_or(Errno::BADF)?.as_fd())
    }

    /// Makes a path read-only if it exists, by a mount of itself over itself.
    pub(super) fn read_only(&self, path: &CStr) -> Result<(), Trouble> {
        let target = match paths::open(self.root()?, path, OFlags::PATH, Links::Follow) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            other => other?,
        };
        let tree = clone_tree(target.as_fd(), Reach::Recursive)?;
        let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() };
        set_attributes(tree.as_fd(), Reach::One, &attr)?;
        Ok(attach(tree.as_fd(), target.as_fd())?)
    }

    /// Makes the root the process's root and lets go of the host's mounts. Later steps find the root at `/`.
    pub(super) fn pivot(&mut self, how: Pivot) -> Result<(), Trouble> {
        let root = self.root.take().ok_or(Errno::BADF)?;
        self.null = None;
        rustix::process::fchdir(&root)?;
        match how {
            Pivot::Chroot => rustix::process::chroot(c".")?,
            Pivot::MoveAndChroot => {
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
                move_mount(&root, c"", CWD, c"/", flags)?;
                rustix::process::chroot(c".")?;
            }
            Pivot::Swap => {
                rustix::process::pivot_root(c".", c".")?;
                unmount(c".", UnmountFlags::DETACH)?;
            }
        }
        rustix::process::chdir(c"/")?;
        Ok(())
    }
}

/// Attributes of a mount in a tree that is attached nowhere can be changed at its top only. A tmpfs of the container's own
/// can be told to be read-only instead, and is private anyway.
fn change_unattached(target: BorrowedFd<'_>, attr: &MountAttr) -> SysResult<()> {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let private = MountAttr { propagation: libc::MS_PRIVATE, ..Default::default() };
    let read_only = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() };
    if *attr == private {
        return Ok(());
    }
    if *attr != read_only || rustix::fs::fstatfs(target)?.f_type as u64 != TMPFS_MAGIC {
        return Err(Errno::INVAL);
    }
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
    let context = fspick(target, c"", flags)?;
    fsconfig_set_flag(&context, c"ro")?;
    fsconfig_reconfigure(&context)
}

fn apply(tree: BorrowedFd<'_>, reach: Reach, attr: &MountAttr) -> SysResult<()> {
    if *attr == MountAttr::default() { Ok(()) } else { set_attributes(tree, reach, attr) }
}
