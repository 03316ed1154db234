//! Makes the system calls that its stdin asks for and says how each ended: what a seccomp profile does, seen from within.
//!
//! A line is `64|32 NUMBER ARGUMENT...`, numbers in hexadecimal; `32` is the machine's i386 entry, x32 numbers go to `64`.
//! The answer is a line: `ok`, `errno N`, `thread killed`, `trapped`, or `signal N`. Every call is made by a thread of a
//! process of its own, so that it may be killed either way.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

use std::process::ExitCode;

/// What the child's exit code says; below are errnos.
const THREAD_KILLED: i32 = 252;
const TRAPPED: i32 = 253;
const LARGE_ERRNO: i32 = 254;

struct Call {
    narrow: bool,
    number: u64,
    arguments: [u64; 6],
}

fn parse(line: &str) -> Option<Call> {
    let mut words = line.split_whitespace();
    let narrow = words.next()? == "32";
    let mut numbers = words.map(|word| u64::from_str_radix(word, 16));
    let number = numbers.next()?.ok()?;
    let mut arguments = [0; 6];
    for (slot, number) in arguments.iter_mut().zip(numbers) {
        *slot = number.ok()?;
    }
    Some(Call { narrow, number, arguments })
}

fn main() -> ExitCode {
    for line in std::io::stdin().lines() {
        let Ok(line) = line else { return ExitCode::from(2) };
        let Some(call) = parse(&line) else { return ExitCode::from(3) };
        let Some(answer) = outcome(call) else { return ExitCode::from(4) };
        println!("{answer}");
    }
    ExitCode::SUCCESS
}

#[cfg(not(target_arch = "x86_64"))]
fn outcome(_: Call) -> Option<String> {
    None
}

#[cfg(target_arch = "x86_64")]
fn outcome(call: Call) -> Option<String> {
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        made::call_and_exit(call);
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    if child < 0 || unsafe { libc::waitpid(child, &mut status, 0) } != child {
        return None;
    }
    Some(match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
        (false, _) => format!("signal {}", libc::WTERMSIG(status)),
        (true, 0) => "ok".to_owned(),
        (true, THREAD_KILLED) => "thread killed".to_owned(),
        (true, TRAPPED) => "trapped".to_owned(),
        (true, code) => format!("errno {code}"),
    })
}

#[cfg(target_arch = "x86_64")]
mod made {
    use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

    use super::{Call, LARGE_ERRNO, THREAD_KILLED, TRAPPED};

    static DONE: AtomicBool = AtomicBool::new(false);
    static RESULT: AtomicI64 = AtomicI64::new(0);

    extern "C" fn trapped(_: libc::c_int) {
        // SAFETY: it may be called in a handler of signals.
        unsafe { libc::_exit(TRAPPED) }
    }

    extern "C" fn work(call: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: `call_and_exit` waits for this thread and owns the call meanwhile.
        let call = unsafe { &*call.cast::<Call>() };
        RESULT.store(make(call), Ordering::SeqCst);
        DONE.store(true, Ordering::SeqCst);
        std::ptr::null_mut()
    }

    pub fn call_and_exit(call: Call) -> ! {
        let handler: extern "C" fn(libc::c_int) = trapped;
        let mut call = call;
        // SAFETY: the handler only exits; the thread gets a pointer to what lives until it was joined.
        unsafe {
            libc::signal(libc::SIGSYS, handler as *const () as libc::sighandler_t);
            let mut thread = 0;
            if libc::pthread_create(&mut thread, std::ptr::null(), work, (&raw mut call).cast()) != 0 {
                libc::_exit(LARGE_ERRNO);
            }
            libc::pthread_join(thread, std::ptr::null_mut());
            libc::_exit(match (DONE.load(Ordering::SeqCst), RESULT.load(Ordering::SeqCst)) {
                (false, _) => THREAD_KILLED,
                (true, -4095..=-252) => LARGE_ERRNO,
                (true, errno @ -251..=-1) => -errno as i32,
                (true, _) => 0,
            });
        }
    }

    fn make(call: &Call) -> i64 {
        let [a, b, c, d, e, f] = call.arguments;
        if call.narrow {
            let mut result = call.number as u32;
            // SAFETY: the call's effects are the caller's wish. rbx cannot be named as an operand.
            unsafe {
                std::arch::asm!(
                    "xchg rbx, {first}", "int 0x80", "xchg rbx, {first}",
                    first = inout(reg) a => _, inout("eax") result,
                    in("ecx") b as u32, in("edx") c as u32, in("esi") d as u32, in("edi") e as u32,
                    lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
                );
            }
            return i64::from(result as i32);
        }
        let mut result = call.number as i64;
        // SAFETY: the call's effects are the caller's wish.
        unsafe {
            std::arch::asm!(
                "syscall", inout("rax") result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
                in("r9") f, lateout("rcx") _, lateout("r11") _,
            );
        }
        result
    }
}
