//! Making, waiting for and becoming processes.

use super::cstrings::CStrings;
use super::{SysResult, check};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use std::ffi::CStr;

/// Flags of clone3 that do not fit in the C library's type.
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// A child as its parent sees it.
pub(crate) struct Child {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
}

/// Ends the process if the child's code unwinds, which would otherwise run the parent's code twice.
struct ExitOnUnwind;

impl Drop for ExitOnUnwind {
    fn drop(&mut self) {
        exit(255)
    }
}

/// Makes a child in new namespaces (`flags`), optionally straight in a v2 cgroup, with default signal handlers. `run`
/// is everything that the child ever does; it must not allocate, nor touch locks, as another thread of the caller may
/// have held them.
pub(crate) fn spawn(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    run: impl FnOnce() -> i32,
) -> SysResult<Child> {
    clone(flags, libc::SIGCHLD as u64, cgroup, run)
}

/// As [`spawn`], but the new process is a child of this one's parent.
pub(crate) fn spawn_sibling(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    run: impl FnOnce() -> i32,
) -> SysResult<Child> {
    // The signal at its exit is the one of this process's.
    clone(flags | libc::CLONE_PARENT as u64, 0, cgroup, run)
}

fn clone(
    flags: u64,
    exit_signal: u64,
    cgroup: Option<BorrowedFd<'_>>,
    run: impl FnOnce() -> i32,
) -> SysResult<Child> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: clone_args is plain data for which all zeroes are valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = exit_signal;
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: args and the pidfd slot are valid for the call; without CLONE_VM the child has its own copy of memory and
    // continues here on its copy of the stack.
    let ret = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    if check(ret)? == 0 {
        let _guard = ExitOnUnwind;
        exit(run())
    }
    // SAFETY: the kernel stored a new descriptor that nobody else owns.
    Ok(Child { pid: ret as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// Leaves without running anything that was registered by the parent.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: ends the process; always allowed.
    unsafe { libc::_exit(code) }
}

/// Becomes another program; returns only if that failed.
pub(crate) fn execve(path: &CStr, argv: &CStrings, envp: &CStrings) -> Errno {
    // SAFETY: path is a C string, argv and envp are null-terminated arrays of C strings that outlive the call.
    match check(unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), argv.as_ptr(), envp.as_ptr()) }) {
        Ok(_) => Errno::NOEXEC,
        Err(errno) => errno,
    }
}

/// Becomes the program that a descriptor stands for; returns only if that failed.
pub(crate) fn execveat(file: BorrowedFd<'_>, argv: &CStrings, envp: &CStrings) -> Errno {
    // SAFETY: the path is an empty C string, argv and envp are null-terminated arrays of C strings that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    match check(result) {
        Ok(_) => Errno::NOEXEC,
        Err(errno) => errno,
    }
}

/// Sets every signal to its default and delivers it: the caller may ignore some (Rust programs ignore `SIGPIPE`) and block
/// others for a signalfd. Handlers are gone already; CLONE_CLEAR_SIGHAND leaves what is ignored.
pub(crate) fn reset_signals() -> SysResult<()> {
    // The kernel's own `struct sigaction`: handler, flags, restorer, mask.
    let default = [0usize; 4];
    for signal in 1..=64 {
        // SAFETY: an all-zero action is SIG_DFL; the mask is 8 bytes. Failing for SIGKILL and SIGSTOP is expected.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null::<libc::sigaction>(),
                size_of::<u64>(),
            )
        };
    }
    let none = 0u64;
    // SAFETY: the mask is 8 bytes, as the last argument says.
    check(unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, 0usize, size_of::<u64>())
    })
    .map(drop)
}

/// Closes every descriptor from `first` to `last`, both included.
pub(crate) fn close_range(first: u32, last: u32) -> SysResult<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: only a child calls this; it uses no closed descriptor afterwards and drops no owner of one, as it never
    // returns.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) }).map(drop)
}

/// Marks every descriptor above stdio to be closed by `execve`.
pub(crate) fn close_on_exec_above_stdio() -> SysResult<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 1 << 2;
    // SAFETY: changes a flag of descriptors only.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// `prctl` with integer arguments.
pub(crate) fn prctl(option: libc::c_int, arg: libc::c_ulong) -> SysResult<libc::c_long> {
    // SAFETY: only options with integer arguments are used by this crate.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, arg, 0, 0, 0) })
}

/// `prctl(PR_CAP_AMBIENT, …)`.
pub(crate) fn prctl_ambient(operation: libc::c_int, capability: libc::c_ulong) -> SysResult<()> {
    // SAFETY: integer arguments only.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAP_AMBIENT, operation, capability, 0, 0) })
        .map(drop)
}

/// Leaves namespaces for new ones.
pub(crate) fn unshare(flags: libc::c_int) -> SysResult<()> {
    // SAFETY: the flags used by this crate are namespaces only, never CLONE_FILES or CLONE_VM.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags) }).map(drop)
}

/// Joins the namespace behind `fd`, or with a pidfd several of its process's namespaces.
pub(crate) fn setns(fd: BorrowedFd<'_>, flags: libc::c_int) -> SysResult<()> {
    // SAFETY: integer arguments only.
    check(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), flags) }).map(drop)
}

/// Signals the process behind a pidfd.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> SysResult<()> {
    // SAFETY: a null siginfo is allowed.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
}

/// Whether waiting takes the zombie away or leaves it to whoever else waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reap {
    Take,
    Leave,
}

/// Waits until the child behind a pidfd has ended.
pub(crate) fn wait(pidfd: BorrowedFd<'_>, reap: Reap) -> SysResult<Exit> {
    let options = libc::WEXITED | if reap == Reap::Leave { libc::WNOWAIT } else { 0 };
    loop {
        // SAFETY: all zeroes are a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: info is writable; the rusage pointer may be null.
        let ret = check(unsafe {
            libc::syscall(
                libc::SYS_waitid,
                libc::P_PIDFD,
                pidfd.as_raw_fd(),
                &raw mut info,
                options,
                std::ptr::null::<libc::rusage>(),
            )
        });
        match ret {
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
            // SAFETY: waitid succeeded, so the child fields of the union are filled in.
            Ok(_) => unsafe {
                let status = info.si_status();
                return Ok(if info.si_code == libc::CLD_EXITED {
                    Exit::Code(status)
                } else {
                    Exit::Signal(status)
                });
            },
        }
    }
}

/// Raises or lowers a resource limit of this process.
pub(crate) fn set_rlimit(resource: u32, soft: u64, hard: u64) -> SysResult<()> {
    let new = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: new is valid for the call; the old value is not asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            &raw const new,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    })
    .map(drop)
}

/// Sets all user ids of this process.
pub(crate) fn set_uid(uid: u32) -> SysResult<()> {
    // SAFETY: integer arguments; the raw call on purpose, as libc's would talk to threads that do not exist here.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Sets all group ids of this process.
pub(crate) fn set_gid(gid: u32) -> SysResult<()> {
    // SAFETY: as for `set_uid`.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// Sets the supplementary groups.
pub(crate) fn set_groups(groups: &[u32]) -> SysResult<()> {
    // SAFETY: the array is as long as said.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// The three thread capability sets as bit masks.
pub(crate) fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> SysResult<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION_3, 0];
    let low = |v: u64| v as u32;
    let high = |v: u64| (v >> 32) as u32;
    let data: [u32; 6] = [
        low(effective),
        low(permitted),
        low(inheritable),
        high(effective),
        high(permitted),
        high(inheritable),
    ];
    // SAFETY: header and data have the layout of version 3: two structs of three words.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}

/// Starts a session keyring of its own with this name and lets its owner search it.
pub(crate) fn join_session_keyring(name: &CStr) -> SysResult<()> {
    // SAFETY: name is a C string.
    let id = check(unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr(), 0, 0, 0)
    })?;
    // All of the possessor's permissions, and search for the user: what runc sets, so that `su` keeps working.
    const PERMISSIONS: libc::c_ulong = 0x3f00_0000 | 0x0008_0000 | 0x0001_0000;
    // SAFETY: integer arguments only.
    check(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, id, PERMISSIONS, 0, 0) }).map(drop)
}

/// Sets the execution domain.
pub(crate) fn personality(persona: libc::c_ulong) -> SysResult<()> {
    // SAFETY: integer argument only.
    check(unsafe { libc::syscall(libc::SYS_personality, persona) }).map(drop)
}

/// Sets the I/O class and priority of this process.
pub(crate) fn set_io_priority(value: libc::c_int) -> SysResult<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: integer arguments only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) }).map(drop)
}

/// Arguments of `sched_setattr`, first published layout plus utilisation clamps (56 bytes).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SchedAttr {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
    pub(crate) util_min: u32,
    pub(crate) util_max: u32,
}

/// Sets the scheduling policy of this process.
pub(crate) fn set_scheduler(attr: &SchedAttr) -> SysResult<()> {
    // SAFETY: attr is valid and says its own size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, attr as *const SchedAttr, 0) }).map(drop)
}

/// Makes `slot` name what `fd` names (dup3, close-on-exec); whoever shares the descriptor table sees it.
pub(crate) fn replace(fd: OwnedFd, slot: BorrowedFd<'_>) -> SysResult<()> {
    // SAFETY: both descriptors are open; the slot stays open and keeps its owner.
    check(unsafe { libc::syscall(libc::SYS_dup3, fd.as_raw_fd(), slot.as_raw_fd(), libc::O_CLOEXEC) })
        .map(drop)
}

/// Sleeps until a signal comes.
pub(crate) fn pause() {
    // SAFETY: no arguments; ppoll on nothing, as not every architecture has pause.
    unsafe {
        libc::syscall(
            libc::SYS_ppoll,
            std::ptr::null_mut::<libc::pollfd>(),
            0,
            std::ptr::null::<libc::timespec>(),
            std::ptr::null::<libc::sigset_t>(),
            0,
        )
    };
}

/// The kind of a namespace file as a flag of clone(2); an error for other files.
pub(crate) fn namespace_kind(fd: BorrowedFd<'_>) -> SysResult<libc::c_int> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: this ioctl takes no argument.
    check(unsafe { libc::syscall(libc::SYS_ioctl, fd.as_raw_fd(), NS_GET_NSTYPE, 0) })
        .map(|kind| kind as libc::c_int)
}

/// The process id behind a pidfd, as this process's procfs tells it.
pub(crate) fn pid_of(pidfd: BorrowedFd<'_>) -> SysResult<i32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(path)
        .map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    line.and_then(|pid| pid.trim().parse().ok()).filter(|pid| *pid > 0).ok_or(Errno::SRCH)
}

/// NUMA policy of this process's memory: mode with its flags, and the nodes as a bit mask.
pub(crate) fn set_memory_policy(mode: libc::c_int, nodes: &[libc::c_ulong]) -> SysResult<()> {
    // The kernel reads one bit less than it is told.
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * libc::c_ulong::BITS as usize + 1 };
    let mask = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // SAFETY: the mask has as many bits as said, apart from the one that the kernel leaves out.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) }).map(drop)
}

/// A duplicate of another process's descriptor, close-on-exec.
pub(crate) fn pidfd_getfd(pidfd: BorrowedFd<'_>, number: i32) -> SysResult<OwnedFd> {
    // SAFETY: integer arguments only.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) })?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
