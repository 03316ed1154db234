//! The parts of the mount API that rustix lacks.

use super::{SysResult, check};
use rustix::fd::{AsRawFd, BorrowedFd};
use std::ffi::CStr;

/// What `mount_setattr` changes; see mount_setattr(2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountAttr {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) propagation: u64,
    pub(crate) userns_fd: u64,
}

/// How far a change reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    One,
    Recursive,
}

/// Changes the attributes of the mount that `fd` is the root of.
pub(crate) fn set_attributes(fd: BorrowedFd<'_>, reach: Reach, attr: &MountAttr) -> SysResult<()> {
    let flags = libc::AT_EMPTY_PATH | if reach == Reach::Recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the empty path is a C string; attr has the layout and size that the last argument says.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attr as *const MountAttr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Changes the propagation of the mount at `path` (`MS_SLAVE | MS_REC`, …).
pub(crate) fn set_propagation(path: &CStr, flags: libc::c_ulong) -> SysResult<()> {
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: path is a C string, the other pointers may be null for a change of propagation.
    check(unsafe { libc::syscall(libc::SYS_mount, null, path.as_ptr(), null, flags, null) }).map(drop)
}

/// Classic `mount(2)` of a file system, for kernels on which `fsconfig` cannot take the options.
pub(crate) fn mount(
    source: &CStr,
    target: &CStr,
    kind: &CStr,
    flags: libc::c_ulong,
    data: &CStr,
) -> SysResult<()> {
    // SAFETY: all pointers are C strings; data is shorter than a page, which the kernel checks.
    check(unsafe {
        libc::syscall(libc::SYS_mount, source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr())
    })
    .map(drop)
}
