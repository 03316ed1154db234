//! This program as a file that nobody can change: a container that gets hold of `/proc/PID/exe` of its own init must not
//! write to the runtime (CVE-2019-5736).
//!
//! What always holds: before a process of ours enters a container as a user who could write to the program's file, this
//! process runs from a copy in memory that is sealed, or from a mount that is read-only.

use super::error::{Error, Result};
use rustix::fs::{MemfdFlags, OFlags, SealFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;

const SELF: &str = "/proc/self/exe";
/// Set for the copy, so that one that cannot be made is an error and no endless loop.
const MARK: &str = "_LONGSHORE_RUNTIME_SEALED";

/// Answers in a protected process; becomes one if this is not.
///
/// A file system without a writable layer shares its pages with the file on disk, and nobody can make it writable; where it
/// cannot be made, a sealed copy in memory serves. `second` is a folder for the file system's other layer.
pub fn ensure(second: &Path) -> Result<()> {
    let failed = |source: std::io::Error| Error::System {
        doing: "protect the runtime's program from the container",
        source,
    };
    let own = File::open(SELF).map_err(failed)?;
    if is_protected(&own) {
        return Ok(());
    }
    if std::env::var_os(MARK).is_some() {
        return Err(failed(std::io::Error::other("the sealed copy is not sealed")));
    }
    let copy = read_only_view(second).or_else(|_| copy(&own)).map_err(|errno| failed(errno.into()))?;
    let mut words = std::env::args_os();
    let mut command = std::process::Command::new(format!("/proc/self/fd/{}", copy.as_raw_fd()));
    command.arg0(words.next().unwrap_or_default()).args(words).env(MARK, "1");
    Err(failed(command.exec()))
}

/// Whether writing through `/proc/PID/exe` is impossible.
fn is_protected(own: &File) -> bool {
    let sealed = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    if rustix::fs::fcntl_get_seals(own).is_ok_and(|seals| seals.contains(sealed)) {
        return true;
    }
    let read_only = rustix::fs::fstatvfs(own).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY));
    // An ordinary user's containers cannot become the owner of a file of root's.
    let strangers = !rustix::process::geteuid().is_root()
        && rustix::fs::access(SELF, rustix::fs::Access::WRITE_OK).is_err()
        && rustix::fs::fstat(own).is_ok_and(|stat| stat.st_uid != rustix::process::geteuid().as_raw());
    read_only || strangers
}

/// The file in an overlay that has no upper layer, and is attached nowhere.
fn read_only_view(second: &Path) -> Result<OwnedFd, Errno> {
    let path = rustix::fs::readlink(SELF, Vec::new())?.into_string().map_err(|_| Errno::ILSEQ)?;
    let (folder, name) = path.rsplit_once('/').ok_or(Errno::NOENT)?;
    let second = second.to_str().ok_or(Errno::ILSEQ)?;
    if folder.is_empty() || [folder, second].iter().any(|part| part.contains([':', '\\', ','])) {
        return Err(Errno::INVAL);
    }
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // Without an upper layer there must be two lower ones; the first one wins.
    fsconfig_set_string(&context, "lowerdir", format!("{folder}:{second}"))?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&mount, name, flags, rustix::fs::Mode::empty())
}

fn copy(own: &File) -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC is asked for since Linux 6.3 where `vm.memfd_noexec` is set, and unknown before.
    let memory = rustix::fs::memfd_create("longshore-runtime", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("longshore-runtime", flags))?;
    let size = rustix::fs::fstat(own)?.st_size as u64;
    let mut done = 0;
    while done < size {
        let left = (size - done) as usize;
        match rustix::fs::sendfile(&memory, own, Some(&mut done), left)? {
            0 => return Err(Errno::IO),
            _ => continue,
        }
    }
    rustix::fs::fcntl_add_seals(
        &memory,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    // Executed through a descriptor that is open for reading only, as one for writing would make the program busy.
    let read_only = format!("/proc/self/fd/{}", memory.as_raw_fd());
    rustix::fs::open(read_only, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty())
}
