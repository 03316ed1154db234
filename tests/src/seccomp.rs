//! The seccomp program that a process is under, read back from the kernel, and what it answers to any system call.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

pub const X86_64: u32 = 0xc000_003e;
pub const I386: u32 = 0x4000_0003;
pub const ARM: u32 = 0x4000_0028;
/// Set in the numbers of x32, which is X86_64 otherwise.
pub const X32_BIT: u32 = 0x4000_0000;

pub const ALLOW: u32 = 0x7fff_0000;
pub const ERRNO: u32 = 0x0005_0000;

/// Instructions as the kernel keeps them: code, jt, jf, k.
#[derive(Clone, Debug)]
pub struct Program(Vec<(u16, u8, u8, u32)>);

impl Program {
    /// The program that was loaded last by this process, which is not ours.
    ///
    /// # Errors
    /// It has none, or is gone.
    pub fn of(pid: i32) -> Result<Program> {
        let pid = Pid::from_raw(pid);
        ptrace::attach(pid).context("attaching")?;
        waitpid(pid, Some(WaitPidFlag::__WALL)).context("waiting for it to stop")?;
        let program = read(pid);
        ptrace::detach(pid, None).context("detaching")?;
        program
    }

    /// What the kernel would do with this call: an action with its data.
    ///
    /// # Panics
    /// The program is one that the kernel would not have taken, or has an instruction that libseccomp does not use.
    pub fn answer(&self, arch: u32, number: u32, arguments: &[u64; 6]) -> u32 {
        let word = |offset: u32| match offset {
            0 => number,
            4 => arch,
            offset => {
                let argument = arguments[(offset as usize - 16) / 8];
                if offset % 8 == 0 { argument as u32 } else { (argument >> 32) as u32 }
            }
        };
        let (mut at, mut value) = (0, 0);
        loop {
            let (code, jt, jf, k) = self.0[at];
            at += 1;
            let mut jump = |taken: bool| at += usize::from(if taken { jt } else { jf });
            match code {
                0x20 => value = word(k),
                0x54 => value &= k,
                0x05 => at += k as usize,
                0x15 => jump(value == k),
                0x25 => jump(value > k),
                0x35 => jump(value >= k),
                0x45 => jump(value & k != 0),
                0x06 => return k,
                code => panic!("instruction {code:#x}"),
            }
        }
    }
}

/// `struct sock_filter`, eight bytes each.
fn read(pid: Pid) -> Result<Program> {
    const GET_FILTER: libc::c_uint = 0x420c;
    let get = |bytes: *mut u8| {
        // SAFETY: the kernel writes as many instructions as it told before, to a buffer of that size; null asks for the count.
        let count = unsafe { libc::ptrace(GET_FILTER, pid.as_raw(), 0, bytes) };
        ensure!(count > 0, "reading its program: {}", std::io::Error::last_os_error());
        Ok(count as usize)
    };
    let mut bytes = vec![0_u8; get(std::ptr::null_mut())? * 8];
    if get(bytes.as_mut_ptr())? * 8 != bytes.len() {
        bail!("its program changed");
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
    let instruction = |i: &[u8]| (number(&i[..2]) as u16, i[2], i[3], number(&i[4..]));
    Ok(Program(bytes.chunks_exact(8).map(instruction).collect()))
}
