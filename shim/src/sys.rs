//! The few calls that need `unsafe`. Nothing here keeps state.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The descriptor that the daemon handed over at `exec`. Call once, first thing in `main`.
///
/// `None` if nothing is open there.
pub fn inherited(number: i32) -> Option<OwnedFd> {
    // SAFETY: fcntl reads only its arguments.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return None;
    }
    // SAFETY: the descriptor is open, as the call above showed, and nothing else in this process owns it: this
    // runs before anything was opened.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Undoes every ignored signal: what is ignored here (by Rust's start-up code, or by whoever started the daemon)
/// would stay ignored in containers. Call once the signals that could end the shim are blocked.
pub fn stop_ignoring_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: sigaction is plain data, for which zeroes are a valid value; both calls get valid pointers to it
        // and change only how this process treats a signal. A number that has no signal makes them fail.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
            {
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }
}

/// Gives freed memory back to the kernel.
pub fn trim_memory() {
    // SAFETY: malloc_trim has no preconditions; it takes the allocator's locks itself, so other threads may allocate meanwhile.
    unsafe { libc::malloc_trim(0) };
}

/// Gives back the pages of the stack below this call: a container's creation goes deep, the loop does not.
#[inline(never)]
pub fn trim_stack() {
    const PAGE: usize = 4096;
    /// Left alone below this frame: what this function and the system call's wrapper use themselves.
    const MARGIN: usize = 2 * PAGE;
    /// As deep as the shim ever goes.
    const DEPTH: usize = 512 << 10;
    let here = 0u8;
    let end = (std::ptr::addr_of!(here).addr() - MARGIN) & !(PAGE - 1);
    let start = end.saturating_sub(DEPTH);
    // SAFETY: the range lies wholly below the frames in use, so nothing in it is read again before it is written. It
    // is within the main thread's stack limit and the gap that the kernel keeps below the stack, so no other mapping
    // is in it; parts that the stack has never grown to make the call fail without effect on others.
    unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(start), DEPTH, libc::MADV_DONTNEED) };
}

/// Keeps the allocator to one arena that shrinks readily: small private memory matters more than speed here.
pub fn tune_allocator() {
    // SAFETY: mallopt has no preconditions; called before any other thread could exist.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 10);
        libc::mallopt(libc::M_TOP_PAD, 16 << 10);
    }
}

/// Makes a command's child have these descriptors as 3, 4, … besides stdio, and no others. They must stay open until it
/// is spawned.
pub fn hand_over<const N: usize>(command: &mut std::process::Command, fds: [i32; N]) {
    use std::os::unix::process::CommandExt;
    let first = 3;
    let above = first + i32::try_from(N).unwrap_or(0);
    // SAFETY: the closure only makes system calls on integers, which is allowed between fork and exec.
    unsafe {
        command.pre_exec(move || {
            let check = |result: i32| match result {
                -1 => Err(std::io::Error::last_os_error()),
                fd => Ok(fd),
            };
            // Out of the way first: one may be where another goes.
            let mut copies = fds;
            for fd in &mut copies {
                *fd = check(libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, above))?;
            }
            for (fd, target) in copies.into_iter().zip(first..) {
                check(libc::dup2(fd, target))?;
            }
            // What whoever started us has left open is nobody's. Marked, not closed: one of them says whether exec failed.
            libc::close_range(
                above.unsigned_abs(),
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC as libc::c_int,
            );
            Ok(())
        });
    }
}

/// Makes a command's child die when this process does.
pub fn die_with_this_process(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    // SAFETY: the closure only makes system calls on integers, which is allowed between fork and exec.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            // It may have died before.
            match libc::getppid().unsigned_abs() == parent {
                true => Ok(()),
                false => Err(std::io::ErrorKind::NotFound.into()),
            }
        });
    }
}

/// Gives this process the score for the out-of-memory killer that it has inherited from the daemon, and one more: as a
/// daemon expects of its shims. The inherited one, if that could be done.
pub fn raise_oom_score() -> Option<i32> {
    const FILE: &str = "/proc/self/oom_score_adj";
    const HIGHEST: i32 = 1000;
    let inherited: i32 = std::fs::read_to_string(FILE).ok()?.trim().parse().ok()?;
    std::fs::write(FILE, (inherited + 1).min(HIGHEST).to_string()).ok()?;
    Some(inherited)
}

/// Makes a command's child have this soft limit of open files.
pub fn limit_files(command: &mut std::process::Command, soft: Option<u64>) {
    use std::os::unix::process::CommandExt;
    let Some(soft) = soft else { return };
    // SAFETY: the closure only makes system calls on data of its own, which is allowed between fork and exec.
    unsafe {
        command.pre_exec(move || {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
                limit.rlim_cur = soft.min(limit.rlim_max);
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            }
            Ok(())
        });
    }
}

/// Signals the process that a descriptor stands for, with any signal there is.
pub fn send_signal(pidfd: &OwnedFd, signal: i32) -> std::io::Result<()> {
    // SAFETY: the descriptor is open; without siginfo the call reads nothing but its integers.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if sent == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Does `work` in a child process, whose exit code is what it returns; the child's number. It has no descriptor of this
/// process's but stdio, and no thread but the one that works; it must take no lock that another thread may hold.
pub fn in_child(work: impl FnOnce() -> i32) -> Option<i32> {
    // SAFETY: another thread may make a container meanwhile; the C library takes the allocator's locks for the time of the
    // call, so that the child can allocate, and the work takes no other lock.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: closes what is not used from here on; nothing that owns a descriptor is dropped before the end.
            unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(1);
            // SAFETY: ends the process without running what its parent has registered.
            unsafe { libc::_exit(code) }
        }
        child => (child > 0).then_some(child),
    }
}
