//! The floor under any container start: what the kernel alone takes. One process in new namespaces and three v1 cgroups (or one of v2),
//! an overlay root with proc, tmpfs and sysfs in it, pivot_root, exec of /bin/true, wait.
//!
//! usage: longshore-floor DIR [net]; DIR holds `l` (a root filesystem), and empty `u`, `w` and `m`. `net` adds a network namespace.
//!
//! What always holds: the child allocates nothing and touches nothing of Rust's runtime between clone3 and exec; every path
//! and argument was made before.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr::null;

use libc::{c_char, c_int, c_long};

const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// Everything the child needs, made beforehand.
struct Plan {
    folder: CString,
    procs: Vec<CString>,
}

fn main() {
    let mut args = std::env::args_os().skip(1);
    let Some(folder) = args.next() else {
        eprintln!("usage: longshore-floor DIR [net]");
        std::process::exit(2);
    };
    let network = args.next().is_some_and(|arg| arg == "net");
    let cgroups = make_cgroups();
    let plan = Plan {
        folder: c_string(folder.as_bytes()),
        procs: cgroups.iter().map(|c| c_string(c.join("cgroup.procs").as_os_str().as_bytes())).collect(),
    };
    let code = run(&plan, network);
    for cgroup in cgroups {
        let _ = std::fs::remove_dir(cgroup);
    }
    std::process::exit(code);
}

fn c_string(bytes: &[u8]) -> CString {
    CString::new(bytes).unwrap_or_default()
}

fn make_cgroups() -> Vec<PathBuf> {
    let name = format!("longshore-floor-{}", std::process::id());
    let v1 = CONTROLLERS.iter().map(|c| PathBuf::from("/sys/fs/cgroup").join(c)).filter(|c| c.is_dir());
    let mut parents: Vec<PathBuf> = v1.collect();
    if parents.is_empty() {
        parents.push(PathBuf::from("/sys/fs/cgroup"));
    }
    let groups = parents.into_iter().map(|parent| parent.join(&name));
    groups.filter(|group| std::fs::create_dir(group).is_ok()).collect()
}

fn run(plan: &Plan, network: bool) -> c_int {
    let mut flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    if network {
        flags |= libc::CLONE_NEWNET;
    }
    // SAFETY: clone_args is plain integers, for which zero means "not used".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM the child has its own copy of this single-threaded process; `args` lives through the call.
    let pid: c_long = unsafe { libc::syscall(libc::SYS_clone3, &args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => {
            eprintln!("clone3: {}", io::Error::last_os_error());
            1
        }
        0 => child(plan),
        pid => wait(pid as c_int),
    }
}

fn wait(pid: c_int) -> c_int {
    let mut status = 0;
    // SAFETY: `pid` is our child, `status` a valid place.
    while unsafe { libc::waitpid(pid, &mut status, 0) } < 0 {}
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
}

/// Runs in the new process; ends with exec or an exit.
fn child(plan: &Plan) -> ! {
    // SAFETY: system calls alone, on strings that end with NUL and live in this process's own memory; nothing allocates.
    unsafe {
        for procs in &plan.procs {
            let fd = libc::open(procs.as_ptr(), libc::O_WRONLY);
            check(fd, c"open cgroup.procs");
            check(libc::write(fd, c"0".as_ptr().cast(), 1) as c_int, c"join a cgroup");
            libc::close(fd);
        }
        check(
            mount(null(), c"/".as_ptr(), null(), libc::MS_REC | libc::MS_PRIVATE, null()),
            c"private mounts",
        );
        check(libc::chdir(plan.folder.as_ptr()), c"chdir");
        let (overlay, layers) = (c"overlay".as_ptr(), c"lowerdir=l,upperdir=u,workdir=w".as_ptr());
        check(mount(overlay, c"m".as_ptr(), overlay, 0, layers), c"overlay");
        check(libc::chdir(c"m".as_ptr()), c"chdir");
        let (proc, tmpfs, sysfs) = (c"proc".as_ptr(), c"tmpfs".as_ptr(), c"sysfs".as_ptr());
        check(mount(proc, c"proc".as_ptr(), proc, 0, null()), c"proc");
        check(mount(tmpfs, c"dev".as_ptr(), tmpfs, 0, null()), c"dev");
        check(mount(sysfs, c"sys".as_ptr(), sysfs, libc::MS_RDONLY, null()), c"sys");
        let dot = c".".as_ptr();
        check(libc::syscall(libc::SYS_pivot_root, dot, dot) as c_int, c"pivot_root");
        check(libc::umount2(dot, libc::MNT_DETACH), c"umount");
        check(libc::chdir(c"/".as_ptr()), c"chdir");
        libc::sethostname(c"x".as_ptr(), 1);
        let argv = [c"/bin/true".as_ptr(), null()];
        let environment = [c"PATH=/bin".as_ptr(), null()];
        libc::execve(argv[0], argv.as_ptr(), environment.as_ptr());
        check(-1, c"exec /bin/true");
        libc::_exit(1)
    }
}

/// mount(2) with its option string.
///
/// # Safety
/// Every pointer is null or a string that ends with NUL.
unsafe fn mount(
    source: *const c_char,
    target: *const c_char,
    kind: *const c_char,
    flags: libc::c_ulong,
    options: *const c_char,
) -> c_int {
    // SAFETY: as promised by the caller.
    unsafe { libc::mount(source, target, kind, flags, options.cast()) }
}

/// Ends the process, saying where, when a call failed.
///
/// # Safety
/// Only in the forked child: it exits without running anything else.
unsafe fn check(result: c_int, what: &std::ffi::CStr) {
    if result < 0 {
        // SAFETY: perror and _exit take what they are given here.
        unsafe {
            libc::perror(what.as_ptr());
            libc::_exit(1);
        }
    }
}
