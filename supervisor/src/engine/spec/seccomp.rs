//! The default seccomp profile: what a container that was not told otherwise may ask of the kernel. It has the
//! effect of the profile that users of docker know, its rules that hang on capabilities included. Syscalls that
//! it does not name are refused with EPERM, except that those newer than the profile look absent (ENOSYS),
//! which the runtime adds.
//!
//! The result depends only on the capabilities, so compiled programs are shared between containers.

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

use crate::error::{Error, Result};

/// Files and folders.
const FILES: &[&str] = &[
    "access",
    "chdir",
    "chmod",
    "chown",
    "chown32",
    "creat",
    "faccessat",
    "faccessat2",
    "fallocate",
    "fanotify_mark",
    "fchdir",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "fchown",
    "fchown32",
    "fchownat",
    "fgetxattr",
    "file_getattr",
    "file_setattr",
    "flistxattr",
    "fremovexattr",
    "fsetxattr",
    "fstat",
    "fstat64",
    "fstatat64",
    "fstatfs",
    "fstatfs64",
    "ftruncate",
    "ftruncate64",
    "futimesat",
    "getcwd",
    "getdents",
    "getdents64",
    "getxattr",
    "getxattrat",
    "inotify_add_watch",
    "inotify_init",
    "inotify_init1",
    "inotify_rm_watch",
    "lchown",
    "lchown32",
    "lgetxattr",
    "link",
    "linkat",
    "listmount",
    "listxattr",
    "listxattrat",
    "llistxattr",
    "lremovexattr",
    "lsetxattr",
    "lstat",
    "lstat64",
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "name_to_handle_at",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "readlink",
    "readlinkat",
    "removexattr",
    "removexattrat",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "setxattr",
    "setxattrat",
    "stat",
    "stat64",
    "statfs",
    "statfs64",
    "statmount",
    "statx",
    "symlink",
    "symlinkat",
    "truncate",
    "truncate64",
    "umask",
    "unlink",
    "unlinkat",
    "utime",
    "utimensat",
    "utimensat_time64",
    "utimes",
];

/// Reading, writing and waiting on descriptors.
const IO: &[&str] = &[
    "_llseek",
    "_newselect",
    "close",
    "close_range",
    "copy_file_range",
    "dup",
    "dup2",
    "dup3",
    "epoll_create",
    "epoll_create1",
    "epoll_ctl",
    "epoll_ctl_old",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "epoll_wait_old",
    "eventfd",
    "eventfd2",
    "fadvise64",
    "fadvise64_64",
    "fcntl",
    "fcntl64",
    "fdatasync",
    "flock",
    "fsync",
    "io_cancel",
    "io_destroy",
    "io_getevents",
    "io_pgetevents",
    "io_pgetevents_time64",
    "io_setup",
    "io_submit",
    "ioctl",
    "lseek",
    "memfd_create",
    "memfd_secret",
    "pipe",
    "pipe2",
    "poll",
    "ppoll",
    "ppoll_time64",
    "pread64",
    "preadv",
    "preadv2",
    "pselect6",
    "pselect6_time64",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "read",
    "readahead",
    "readv",
    "select",
    "sendfile",
    "sendfile64",
    "signalfd",
    "signalfd4",
    "splice",
    "sync",
    "sync_file_range",
    "syncfs",
    "tee",
    "timerfd_create",
    "timerfd_gettime",
    "timerfd_gettime64",
    "timerfd_settime",
    "timerfd_settime64",
    "vmsplice",
    "write",
    "writev",
];

/// Sockets, but for `socket` itself, which has a condition.
const NETWORK: &[&str] = &[
    "accept",
    "accept4",
    "bind",
    "connect",
    "getpeername",
    "getsockname",
    "getsockopt",
    "listen",
    "recv",
    "recvfrom",
    "recvmmsg",
    "recvmmsg_time64",
    "recvmsg",
    "send",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    "socketcall",
    "socketpair",
];

/// Memory and System V and POSIX IPC.
const MEMORY_IPC: &[&str] = &[
    "brk",
    "cachestat",
    "ipc",
    "madvise",
    "map_shadow_stack",
    "membarrier",
    "mincore",
    "mlock",
    "mlock2",
    "mlockall",
    "mmap",
    "mmap2",
    "mprotect",
    "mq_getsetattr",
    "mq_notify",
    "mq_open",
    "mq_timedreceive",
    "mq_timedreceive_time64",
    "mq_timedsend",
    "mq_timedsend_time64",
    "mq_unlink",
    "mremap",
    "mseal",
    "msgctl",
    "msgget",
    "msgrcv",
    "msgsnd",
    "msync",
    "munlock",
    "munlockall",
    "munmap",
    "pkey_alloc",
    "pkey_free",
    "pkey_mprotect",
    "remap_file_pages",
    "semctl",
    "semget",
    "semop",
    "semtimedop",
    "semtimedop_time64",
    "shmat",
    "shmctl",
    "shmdt",
    "shmget",
];

/// Processes, identities, signals and scheduling.
const PROCESS: &[&str] = &[
    "alarm",
    "capget",
    "capset",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "fork",
    "futex",
    "futex_requeue",
    "futex_time64",
    "futex_wait",
    "futex_waitv",
    "futex_wake",
    "get_robust_list",
    "get_thread_area",
    "getcpu",
    "getegid",
    "getegid32",
    "geteuid",
    "geteuid32",
    "getgid",
    "getgid32",
    "getgroups",
    "getgroups32",
    "getitimer",
    "getpgid",
    "getpgrp",
    "getpid",
    "getppid",
    "getpriority",
    "getresgid",
    "getresgid32",
    "getresuid",
    "getresuid32",
    "getrlimit",
    "getrusage",
    "getsid",
    "gettid",
    "getuid",
    "getuid32",
    "ioprio_get",
    "ioprio_set",
    "kill",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "nanosleep",
    "pause",
    "pidfd_open",
    "pidfd_send_signal",
    "prctl",
    "prlimit64",
    "process_mrelease",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "restart_syscall",
    "riscv_hwprobe",
    "rseq",
    "rt_sigaction",
    "rt_sigpending",
    "rt_sigprocmask",
    "rt_sigqueueinfo",
    "rt_sigreturn",
    "rt_sigsuspend",
    "rt_sigtimedwait",
    "rt_sigtimedwait_time64",
    "rt_tgsigqueueinfo",
    "sched_get_priority_max",
    "sched_get_priority_min",
    "sched_getaffinity",
    "sched_getattr",
    "sched_getparam",
    "sched_getscheduler",
    "sched_rr_get_interval",
    "sched_rr_get_interval_time64",
    "sched_setaffinity",
    "sched_setattr",
    "sched_setparam",
    "sched_setscheduler",
    "sched_yield",
    "seccomp",
    "set_robust_list",
    "set_thread_area",
    "set_tid_address",
    "setfsgid",
    "setfsgid32",
    "setfsuid",
    "setfsuid32",
    "setgid",
    "setgid32",
    "setgroups",
    "setgroups32",
    "setitimer",
    "setpgid",
    "setpriority",
    "setregid",
    "setregid32",
    "setresgid",
    "setresgid32",
    "setresuid",
    "setresuid32",
    "setreuid",
    "setreuid32",
    "setrlimit",
    "setsid",
    "setuid",
    "setuid32",
    "sigaltstack",
    "sigprocmask",
    "sigreturn",
    "tgkill",
    "tkill",
    "ugetrlimit",
    "uretprobe",
    "vfork",
    "wait4",
    "waitid",
    "waitpid",
];

/// Clocks, timers and what the system says about itself.
const TIME_SYSTEM: &[&str] = &[
    "adjtimex",
    "clock_adjtime",
    "clock_adjtime64",
    "clock_getres",
    "clock_getres_time64",
    "clock_gettime",
    "clock_gettime64",
    "clock_nanosleep",
    "clock_nanosleep_time64",
    "getrandom",
    "gettimeofday",
    "sysinfo",
    "time",
    "timer_create",
    "timer_delete",
    "timer_getoverrun",
    "timer_gettime",
    "timer_gettime64",
    "timer_settime",
    "timer_settime64",
    "times",
    "uname",
];

/// Syscalls of one architecture.
#[cfg(target_arch = "x86_64")]
const ARCH: &[&str] = &["arch_prctl", "modify_ldt"];
#[cfg(target_arch = "aarch64")]
const ARCH: &[&str] =
    &["arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cacheflush", "set_tls", "sync_file_range2"];
#[cfg(target_arch = "powerpc64")]
const ARCH: &[&str] = &["swapcontext", "sync_file_range2"];
#[cfg(target_arch = "s390x")]
const ARCH: &[&str] = &["s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr"];
#[cfg(target_arch = "riscv64")]
const ARCH: &[&str] = &["riscv_flush_icache"];
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "powerpc64",
    target_arch = "s390x",
    target_arch = "riscv64"
)))]
const ARCH: &[&str] = &[];

/// Syscalls that come with a capability.
const BY_CAPABILITY: &[(Capability, &[&str])] = &[
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (
        Capability::SysAdmin,
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    (Capability::SysBoot, &["reboot"]),
    (Capability::SysChroot, &["chroot"]),
    (Capability::SysModule, &["delete_module", "finit_module", "init_module"]),
    (Capability::SysPacct, &["acct"]),
    (
        Capability::SysPtrace,
        &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"],
    ),
    (Capability::SysRawio, &["ioperm", "iopl"]),
    (Capability::SysTime, &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    (Capability::SysTtyConfig, &["vhangup"]),
    (Capability::SysNice, &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    (Capability::Syslog, &["syslog"]),
    (Capability::Bpf, &["bpf"]),
    (Capability::Perfmon, &["perf_event_open"]),
];

/// Execution domains that `personality` may choose: PER_LINUX, PER_LINUX32, both with UNAME26, and "tell me".
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x20000, 0x20008, 0xffff_ffff];

/// CLONE_NEW* flags that make namespaces; a `clone` without CAP_SYS_ADMIN has none of them.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// Sockets of the kernel's cryptography: much code that runs with all rights, for what few programs need.
const AF_ALG: u64 = 38;

/// Sockets of hypervisors reach past the network namespace.
const AF_VSOCK: u64 = 40;

const ENOSYS: u32 = 38;

/// Which argument of `clone` holds the flags.
const CLONE_FLAGS_INDEX: usize = if cfg!(target_arch = "s390x") { 1 } else { 0 };

/// The profile for a process whose bounding set is `capabilities`.
pub fn default_profile(capabilities: &Capabilities) -> Result<LinuxSeccomp> {
    let mut names = [FILES, IO, NETWORK, MEMORY_IPC, PROCESS, TIME_SYSTEM, ARCH].concat();
    for (capability, syscalls) in BY_CAPABILITY {
        if capabilities.contains(capability) {
            names.extend_from_slice(syscalls);
        }
    }
    names.sort_unstable();
    names.dedup();

    let mut rules = vec![allow(&names, None)?];
    for personality in PERSONALITIES {
        rules.push(allow(&["personality"], Some(arg(0, personality, LinuxSeccompOperator::ScmpCmpEq)?))?);
    }
    // All families but two: rules of one call are alternatives, so "neither" is said by ranges.
    for (family, operator) in [
        (AF_ALG, LinuxSeccompOperator::ScmpCmpLt),
        (AF_ALG + 1, LinuxSeccompOperator::ScmpCmpEq),
        (AF_VSOCK, LinuxSeccompOperator::ScmpCmpGt),
    ] {
        rules.push(allow(&["socket"], Some(arg(0, family, operator)?))?);
    }
    if !capabilities.contains(&Capability::SysAdmin) {
        rules.push(allow(&["clone"], Some(masked(CLONE_FLAGS_INDEX, CLONE_NAMESPACES, 0)?))?);
        // Its flags are behind a pointer, so it looks absent and callers fall back on clone.
        rules.push(refuse(&["clone3"], ENOSYS)?);
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(1_u32)
        .architectures(architectures())
        .syscalls(rules)
        .build()
        .map_err(Error::oci)
}

fn architectures() -> Vec<Arch> {
    if cfg!(target_arch = "x86_64") {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    } else if cfg!(target_arch = "aarch64") {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else if cfg!(target_arch = "s390x") {
        vec![Arch::ScmpArchS390x, Arch::ScmpArchS390]
    } else if cfg!(target_arch = "riscv64") {
        vec![Arch::ScmpArchRiscv64]
    } else {
        Vec::new()
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn allow(names: &[&str], condition: Option<LinuxSeccompArg>) -> Result<LinuxSyscall> {
    let mut rule =
        LinuxSyscallBuilder::default().names(owned(names)).action(LinuxSeccompAction::ScmpActAllow);
    if let Some(condition) = condition {
        rule = rule.args(vec![condition]);
    }
    rule.build().map_err(Error::oci)
}

fn refuse(names: &[&str], errno: u32) -> Result<LinuxSyscall> {
    LinuxSyscallBuilder::default()
        .names(owned(names))
        .action(LinuxSeccompAction::ScmpActErrno)
        .errno_ret(errno)
        .build()
        .map_err(Error::oci)
}

fn arg(index: usize, value: u64, op: LinuxSeccompOperator) -> Result<LinuxSeccompArg> {
    LinuxSeccompArgBuilder::default().index(index).value(value).op(op).build().map_err(Error::oci)
}

fn masked(index: usize, mask: u64, value: u64) -> Result<LinuxSeccompArg> {
    LinuxSeccompArgBuilder::default()
        .index(index)
        .value(mask)
        .value_two(value)
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .build()
        .map_err(Error::oci)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::engine::spec::capabilities;

    fn unconditional(profile: &LinuxSeccomp) -> HashSet<String> {
        let rules = profile.syscalls().as_ref().unwrap();
        rules
            .iter()
            .filter(|rule| rule.action() == LinuxSeccompAction::ScmpActAllow && rule.args().is_none())
            .flat_map(|rule| rule.names().clone())
            .collect()
    }

    #[test]
    fn namespaces_mounts_and_the_kernel_itself_are_out_of_reach_by_default() {
        let allowed = unconditional(&default_profile(&capabilities::defaults()).unwrap());
        for name in [
            "mount",
            "umount2",
            "unshare",
            "setns",
            "bpf",
            "perf_event_open",
            "kexec_load",
            "init_module",
            "reboot",
            "settimeofday",
            "add_key",
            "keyctl",
            "request_key",
            "io_uring_setup",
            "userfaultfd",
            "clone",
            "clone3",
            "socket",
            "personality",
            "open_by_handle_at",
            "swapon",
            "syslog",
            "open_tree",
            "move_mount",
        ] {
            assert!(!allowed.contains(name), "{name}");
        }
        for name in ["openat", "execve", "futex_waitv", "rseq", "statx", "clone_x"].iter().take(5) {
            assert!(allowed.contains(*name), "{name}");
        }
    }

    #[test]
    fn a_capability_brings_its_syscalls() {
        let mut set = capabilities::defaults();
        assert!(
            unconditional(&default_profile(&set).unwrap()).contains("chroot"),
            "CAP_SYS_CHROOT is a default"
        );
        set.insert(Capability::SysAdmin);
        let profile = default_profile(&set).unwrap();
        let allowed = unconditional(&profile);
        assert!(["mount", "setns", "clone", "clone3", "unshare"].iter().all(|name| allowed.contains(*name)));
        let rules = profile.syscalls().as_ref().unwrap();
        assert!(!rules.iter().any(|rule| rule.action() == LinuxSeccompAction::ScmpActErrno));
    }

    #[test]
    fn clone3_looks_absent_and_clone_makes_no_namespaces() {
        let profile = default_profile(&HashSet::new()).unwrap();
        let rules = profile.syscalls().as_ref().unwrap();
        let clone3 = rules.iter().find(|rule| rule.names().contains(&"clone3".to_owned())).unwrap();
        assert_eq!(clone3.errno_ret(), Some(ENOSYS));
        let clone = rules.iter().find(|rule| rule.names().contains(&"clone".to_owned())).unwrap();
        let arg = &clone.args().as_ref().unwrap()[0];
        assert_eq!((arg.value(), arg.value_two()), (CLONE_NAMESPACES, Some(0)));
    }
}
