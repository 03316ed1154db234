//! A procfs of the runtime's own, mounted nowhere: what is written there cannot be redirected by what somebody mounted
//! over the host's `/proc` (CVE-2019-16884, CVE-2019-19921, CVE-2025-52881).

use crate::init::Step;
use crate::{Error, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsmount, fsopen, open_tree,
};

const PROC_SUPER_MAGIC: u64 = 0x9fa0;
/// Inode number of a procfs's top.
const PROC_ROOT: u64 = 1;

/// Puts it in front of the steps that need it, if any does.
pub(crate) fn plan(steps: &mut Vec<Step>) -> Result<()> {
    let needed = |step: &Step| matches!(step, Step::WriteProc { .. } | Step::OpenLabel { .. });
    if !steps.iter().any(needed) {
        return Ok(());
    }
    // The host's must not be in a process that the container sees.
    if let Some(born) = steps.iter().position(|step| matches!(step, Step::BeBorn { .. })) {
        steps.insert(born + 1, Step::OwnProcfs);
    } else {
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
