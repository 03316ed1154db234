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
    set_filter(program, flags).map(drop)
}

/// Like [`load`], for a program that asks a supervisor; answers the number of the supervisor's descriptor, which is
/// close-on-exec.
pub(crate) fn load_with_listener(program: &[Instruction], flags: u32) -> SysResult<i32> {
    const NEW_LISTENER: u32 = 1 << 3;
    set_filter(program, flags | NEW_LISTENER).map(|fd| fd as i32)
}

fn set_filter(program: &[Instruction], flags: u32) -> SysResult<libc::c_long> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    let Ok(len) = u16::try_from(program.len()) else {
        return Err(rustix::io::Errno::TOOBIG);
    };
    let fprog = Program { len, filter: program.as_ptr() };
    // SAFETY: fprog points to `len` instructions, which the kernel copies.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const fprog) })
}

/// Whether the kernel knows these flags: with a program that is nowhere it says `EFAULT` if it does.
pub(crate) fn knows(flags: u32) -> bool {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    // SAFETY: the kernel finds no program at the null pointer and changes nothing.
    let answer = check(unsafe {
        libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, std::ptr::null::<Program>())
    });
    answer == Err(rustix::io::Errno::FAULT)
}
