//! The only place of this crate with `unsafe`: system calls that nix and rustix lack or make unsafe, one small safe
//! function each. Nothing here allocates, so that all of it may run between `clone3` and `execve`.
#![allow(unsafe_code)]

pub(crate) mod bpf;
pub(crate) mod cstrings;
pub(crate) mod mount;
pub(crate) mod net;
pub(crate) mod netlink;
pub(crate) mod process;
pub(crate) mod seccomp;

use rustix::io::Errno;

/// Result of a system call; the error is a number and needs no allocation.
pub(crate) type SysResult<T> = Result<T, Errno>;

/// Turns the C convention (-1 and `errno`) into a result.
fn check(ret: libc::c_long) -> SysResult<libc::c_long> {
    if ret < 0 { Err(last_errno()) } else { Ok(ret) }
}

fn last_errno() -> Errno {
    // SAFETY: `__errno_location` returns the calling thread's errno slot, always valid to read.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}
