//! A procfs of the runtime's own, mounted nowhere: what is written there cannot be redirected by what somebody mounted
//! over the host's `/proc` (CVE-2019-16884, CVE-2019-19921, CVE-2025-52881).

use crate::init::{Parameters, Step};
use crate::sys::SysResult;
use crate::{Error, Result};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd, fsmount,
    fsopen, open_tree,
};

const PROC_SUPER_MAGIC: u64 = 0x9fa0;
/// Inode number of a procfs's top.
const PROC_ROOT: u64 = 1;

/// Puts it in front of the steps that need it, if any does.
pub(crate) fn plan(steps: &mut Vec<Step>) -> Result<()> {
    let needed = |step: &Step| matches!(step, Step::WriteProc { .. } | Step::OpenLabel { .. });
    let born = steps.iter().position(|step| matches!(step, Step::BeBorn { .. })).unwrap_or(steps.len());
    // The host's must not be in a process that the container sees.
    if steps[born..].iter().any(needed) {
        steps.insert(born + 1, Step::OwnProcfs);
    }
    if steps[..born].iter().any(needed) {
        let fd = open().map_err(|errno| Error::System {
            doing: "make a procfs of the runtime's own",
            source: errno.into(),
        })?;
        steps.insert(0, Step::Procfs(fd));
    }
    Ok(())
}

/// A procfs for this process; allocates nothing.
pub(crate) fn open() -> Result<OwnedFd, Errno> {
    match new() {
        // Without privilege over the process ids' user namespace: the one at hand, without what is mounted in it.
        Err(Errno::PERM | Errno::NOSYS) => verified(mounted()?),
        other => other,
    }
}

/// One that shows the processes of a pid namespace that this process is not in.
///
/// # Errors
/// `EINVAL` on a kernel that has no such procfs (before 6.18).
pub(crate) fn of(pids: BorrowedFd<'_>, parameters: &Parameters) -> SysResult<OwnedFd> {
    let context = open_of(pids)?;
    crate::init::configure(&context, parameters)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// Whether [`of`] works here.
pub(crate) fn can_be_of(pids: BorrowedFd<'_>) -> bool {
    open_of(pids).is_ok()
}

fn open_of(pids: BorrowedFd<'_>) -> SysResult<OwnedFd> {
    let context = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_fd(&context, c"pidns", pids)?;
    Ok(context)
}

fn new() -> Result<OwnedFd, Errno> {
    let context = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn mounted() -> Result<OwnedFd, Errno> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    match open_tree(CWD, c"/proc", clone) {
        Err(Errno::PERM | Errno::INVAL) => rustix::fs::open(
            c"/proc",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ),
        other => other,
    }
}

fn verified(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    let is_procfs = rustix::fs::fstatfs(&fd)?.f_type as u64 == PROC_SUPER_MAGIC;
    let is_top = rustix::fs::fstat(&fd)?.st_ino == PROC_ROOT;
    if is_procfs && is_top { Ok(fd) } else { Err(Errno::XDEV) }
}
