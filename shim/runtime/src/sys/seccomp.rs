//! Loading a compiled seccomp program.

use super::{SysResult, check};

/// One instruction of classic BPF, in the kernel's layout (8 bytes).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jt: u8,
    pub(crate) jf: u8,
    pub(crate) k: u32,
}

#[repr(C)]
struct Program {
    len: u16,
    filter: *const Instruction,
}

/// Puts this process under the program from now on.
pub(crate) fn load(program: &[Instruction], flags: u32) -> SysResult<()> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    let Ok(len) = u16::try_from(program.len()) else {
        return Err(rustix::io::Errno::TOOBIG);
    };
    let fprog = Program { len, filter: program.as_ptr() };
    // SAFETY: fprog points to `len` instructions, which the kernel copies.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const fprog) })
        .map(drop)
}
