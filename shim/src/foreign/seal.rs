//! This program as a file that nobody can change: the shim outlives its `start`, and a container that gets hold of
//! `/proc/PID/exe` must not write to it (CVE-2019-5736).
//!
//! A file system without a writable layer shares its pages with the file on disk; where it cannot be made, a sealed copy
//! in memory serves, as in our own daemon's pool.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

const SELF: &str = "/proc/self/exe";

/// Opens it; execute it as `/proc/self/fd/N`.
pub fn sealed_self(bundle: &Path) -> io::Result<OwnedFd> {
    let path = std::fs::read_link(SELF)?;
    read_only_view(&path, bundle).or_else(|_| sealed_copy())
}

/// The file in an overlay that has no upper layer, and is attached nowhere.
fn read_only_view(path: &Path, bundle: &Path) -> io::Result<OwnedFd> {
    let (Some(folder), Some(name)) = (path.parent().and_then(Path::to_str), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // Without an upper layer there must be two lower ones; what is in the other is hidden by nothing that we use.
    let second = bundle.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    if [folder, second].iter().any(|part| part.contains([':', '\\', ','])) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "lowerdir", format!("{folder}:{second}"))?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    Ok(rustix::fs::openat(&mount, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let mut source = File::open(SELF)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC is asked for since Linux 6.3 where `vm.memfd_noexec` is set, and unknown before.
    let memory = rustix::fs::memfd_create("containerd-shim", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("containerd-shim", flags))?;
    let mut memory = File::from(memory);
    io::copy(&mut source, &mut memory)?;
    rustix::fs::fcntl_add_seals(
        &memory,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(memory.into())
}
