//! Process 1 of a container that asked for an init. It runs the container's program as its child, hands it the signals that it
//! gets itself, reaps whatever is left to it, and ends as the program ended; the kernel then ends the rest.
//!
//! What always holds: it needs nothing but the kernel and a page or two: no library, no heap, no file of the container's.
//! Its command line is `NAME -- PROGRAM [ARGUMENT...]`; a program without a slash is looked for on `PATH`. With `NAME` alone it
//! runs nothing: it holds the namespaces that others join, reaps what is left to it, and ends when it is told to.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::mem::MaybeUninit;

/// Numbers of the system calls that are used.
#[cfg(target_arch = "x86_64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const IOCTL: usize = 16;
    pub const GETPID: usize = 39;
    pub const CLONE: usize = 56;
    pub const EXECVE: usize = 59;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const SETPGID: usize = 109;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 135;
    pub const IOCTL: usize = 29;
    pub const GETPID: usize = 172;
    pub const CLONE: usize = 220;
    pub const EXECVE: usize = 221;
    pub const WAIT4: usize = 260;
    pub const KILL: usize = 129;
    pub const SETPGID: usize = 154;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const EXIT_GROUP: usize = 94;
}

const SIGINT: usize = 2;
const SIGTERM: usize = 15;
const SIGCHLD: usize = 17;
const SIGTTIN: usize = 21;
const SIGTTOU: usize = 22;
const SIG_SETMASK: usize = 2;
const WNOHANG: usize = 1;
const TIOCSPGRP: usize = 0x5410;
const ENOENT: isize = -2;
const ENOTDIR: isize = -20;
const ECHILD: isize = -10;

/// Signals of a fault of one's own: ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS. They are not waited for.
const FAULTS: u64 = bit(4) | bit(5) | bit(6) | bit(7) | bit(8) | bit(11) | bit(31);

/// Longest path that is tried.
const PATH_MAX: usize = 4096;

const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\0";

const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {begin}",
    "ud2",
    begin = sym begin,
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, #0",
    "mov x30, #0",
    "mov x0, sp",
    "bl {begin}",
    "brk #1",
    begin = sym begin,
);

/// # Safety
/// The arguments must be what the kernel expects of that call: pointers valid for it, lengths true.
unsafe fn syscall(number: usize, arguments: [usize; 5]) -> isize {
    let result: isize;
    let [a, b, c, d, e] = arguments;
    // SAFETY: as the caller promises; the kernel changes no other registers than those named.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             in("r8") e, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d, in("x4") e,
             options(nostack));
    }
    result
}

fn exit(code: i32) -> ! {
    loop {
        // SAFETY: takes no pointer.
        unsafe { syscall(number::EXIT_GROUP, [code as usize, 0, 0, 0, 0]) };
    }
}

fn set_mask(mask: u64) {
    // SAFETY: the mask is 8 bytes, as the last argument says.
    unsafe { syscall(number::RT_SIGPROCMASK, [SIG_SETMASK, &raw const mask as usize, 0, size_of::<u64>(), 0]) };
}

/// # Safety
/// `stack` is the stack as the kernel has left it for a new program: argc, the arguments, a null, the environment, a null.
unsafe extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: as the caller promises.
    let (argc, argv) = unsafe { (*stack, stack.add(1).cast::<*const u8>()) };
    if argc == 1 {
        hold(!FAULTS);
    }
    if argc < 3 {
        exit(127);
    }
    // SAFETY: behind the arguments and their null, and behind the name and `--`.
    let (envp, program) = unsafe { (argv.add(argc + 1), argv.add(2)) };
    let waited = !FAULTS;
    set_mask(waited);
    // SAFETY: without CLONE_VM the child has its own copy of memory, and goes on here on its copy of the stack.
    let child = unsafe { syscall(number::CLONE, [SIGCHLD, 0, 0, 0, 0]) };
    match child {
        // SAFETY: both are null-terminated arrays of C strings that the kernel has made.
        0 => unsafe { become_program(program, envp) },
        child if child < 0 => exit(126),
        child => serve(child as usize, waited),
    }
}

/// The next of the signals that are waited for, or an error.
fn next_signal(waited: u64) -> isize {
    // SAFETY: the mask is 8 bytes, as the fourth argument says; nothing else is asked for.
    unsafe { syscall(number::RT_SIGTIMEDWAIT, [&raw const waited as usize, 0, 0, size_of::<u64>(), 0]) }
}

/// Takes a child that has ended, if there is one.
fn next_ended(status: &mut i32) -> isize {
    // SAFETY: the status is a place for an int.
    unsafe { syscall(number::WAIT4, [usize::MAX, &raw mut *status as usize, WNOHANG, 0, 0]) }
}

/// Only reaps, until it is told to end.
fn hold(waited: u64) -> ! {
    set_mask(waited);
    loop {
        match usize::try_from(next_signal(waited)) {
            Ok(SIGINT | SIGTERM) => exit(0),
            // Another one that ended at the same moment may have sent no signal of its own.
            Ok(SIGCHLD) => while next_ended(&mut 0) > 0 {},
            Ok(_) | Err(_) => {}
        }
    }
}

fn serve(child: usize, waited: u64) -> ! {
    loop {
        match usize::try_from(next_signal(waited)) {
            Ok(SIGCHLD) => reap(child),
            // About the terminal of this process, which uses none.
            Ok(SIGTTIN | SIGTTOU) | Err(_) => {}
            // SAFETY: takes no pointer.
            Ok(signal) => drop(unsafe { syscall(number::KILL, [child, signal, 0, 0, 0]) }),
        }
    }
}

/// Takes what has ended; does not come back if it was the program.
fn reap(child: usize) {
    loop {
        let mut status = 0_i32;
        let ended = next_ended(&mut status);
        if ended == child as isize || ended == ECHILD {
            let signal = status & 0x7f;
            exit(if signal == 0 { status >> 8 & 0xff } else { 128 + signal });
        }
        if ended <= 0 {
            return;
        }
    }
}

/// # Safety
/// Both are null-terminated arrays of C strings.
unsafe fn become_program(argv: *const *const u8, envp: *const *const u8) -> ! {
    // SAFETY: takes no pointers but that of a place for an int; the terminal may not exist. While TTOU is blocked the process may
    // take the terminal although it is not in its foreground.
    unsafe {
        syscall(number::SETPGID, [0; 5]);
        let own = syscall(number::GETPID, [0; 5]) as i32;
        syscall(number::IOCTL, [0, TIOCSPGRP, &raw const own as usize, 0, 0]);
    }
    set_mask(0);
    // SAFETY: as the caller promises.
    let verdict = unsafe { search(*argv, argv, envp) };
    exit(if verdict == ENOENT || verdict == ENOTDIR { 127 } else { 126 })
}

/// Executes the first program of that name; comes back with the reason why there is none.
///
/// # Safety
/// `name` is a C string, the others are null-terminated arrays of C strings.
unsafe fn search(name: *const u8, argv: *const *const u8, envp: *const *const u8) -> isize {
    // SAFETY: C strings all, which are read up to their ends; the path is written within its bounds and has an end.
    unsafe {
        if contains(name, b'/') {
            return execute(name, argv, envp);
        }
        let mut path = MaybeUninit::<[u8; PATH_MAX]>::uninit();
        let path = path.as_mut_ptr().cast::<u8>();
        let mut folder = variable(envp);
        let mut verdict = ENOENT;
        loop {
            let mut at = 0;
            while *folder != 0 && *folder != b':' {
                put(path, &mut at, *folder);
                folder = folder.add(1);
            }
            if at == 0 {
                put(path, &mut at, b'.');
            }
            put(path, &mut at, b'/');
            let mut rest = name;
            while *rest != 0 {
                put(path, &mut at, *rest);
                rest = rest.add(1);
            }
            put(path, &mut at, 0);
            if at < PATH_MAX {
                let failed = execute(path, argv, envp);
                if failed != ENOENT && failed != ENOTDIR {
                    verdict = failed;
                }
            }
            if *folder == 0 {
                return verdict;
            }
            folder = folder.add(1);
        }
    }
}

/// # Safety
/// As for [`search`].
unsafe fn execute(path: *const u8, argv: *const *const u8, envp: *const *const u8) -> isize {
    // SAFETY: as the caller promises.
    unsafe { syscall(number::EXECVE, [path as usize, argv as usize, envp as usize, 0, 0]) }
}

/// Writes a byte if there is room; `at` tells whether there was.
///
/// # Safety
/// `path` is a place for `PATH_MAX` bytes.
unsafe fn put(path: *mut u8, at: &mut usize, byte: u8) {
    if *at < PATH_MAX {
        // SAFETY: within the place.
        unsafe { path.add(*at).write_volatile(byte) };
        *at += 1;
    }
}

/// # Safety
/// `text` is a C string.
unsafe fn contains(mut text: *const u8, byte: u8) -> bool {
    // SAFETY: read up to its end.
    unsafe {
        while *text != 0 {
            if *text == byte {
                return true;
            }
            text = text.add(1);
        }
    }
    false
}

/// What `PATH` is.
///
/// # Safety
/// `envp` is a null-terminated array of C strings.
unsafe fn variable(mut envp: *const *const u8) -> *const u8 {
    // SAFETY: read up to its end, and of each string no more than up to its end: a comparison stops at the first difference.
    unsafe {
        while !(*envp).is_null() {
            let mut text = *envp;
            let mut wanted = b"PATH=".iter();
            loop {
                match wanted.next() {
                    None => return text,
                    Some(&byte) if *text == byte => text = text.add(1),
                    Some(_) => break,
                }
            }
            envp = envp.add(1);
        }
    }
    DEFAULT_PATH.as_ptr()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(126)
}
