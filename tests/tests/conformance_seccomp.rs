//! Seccomp as the others do it: random profiles under runc and under our runtime, and our default profile beside Docker's,
//! system call by system call. Programs are read back from the kernel, and random ones also answer to a probe.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use longshore_tests::daemon::{Output, eventually, program};
use longshore_tests::docker::{Dockerd, Edition, Networks};
use longshore_tests::seccomp::{ALLOW, ARM, ERRNO, I386, Program, X32_BIT, X86_64};
use longshore_tests::{Fixture, leaks};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};

/// Profiles that are compared; `LONGSHORE_SECCOMP_PROFILES` says otherwise.
const PROFILES: u32 = 12;

/// How long a container may take before it hangs.
const HANGS: Duration = Duration::from_secs(20);

/// What the probe, its libraries and the runtimes' last steps need.
const NEEDED: &[&str] = &[
    "access",
    "arch_prctl",
    "brk",
    "capget",
    "capset",
    "chdir",
    "clock_gettime",
    "clone",
    "clone3",
    "close",
    "dup",
    "dup2",
    "dup3",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "eventfd2",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "faccessat",
    "faccessat2",
    "fchdir",
    "fchown",
    "fcntl",
    "fork",
    "fstat",
    "fstatfs",
    "futex",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getpid",
    "getppid",
    "getrandom",
    "gettid",
    "getuid",
    "ioctl",
    "kill",
    "lseek",
    "lstat",
    "madvise",
    "mincore",
    "mmap",
    "mprotect",
    "munlock",
    "munmap",
    "nanosleep",
    "newfstatat",
    "open",
    "openat",
    "pipe",
    "pipe2",
    "poll",
    "ppoll",
    "prctl",
    "pread64",
    "prlimit64",
    "read",
    "readlink",
    "readlinkat",
    "recvfrom",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "seccomp",
    "sendto",
    "set_robust_list",
    "set_tid_address",
    "setgid",
    "setgroups",
    "setsid",
    "setuid",
    "sigaltstack",
    "stat",
    "statfs",
    "statx",
    "tgkill",
    "wait4",
    "write",
];

/// What rules are about: with arguments and without, of other architectures, of newer kernels, and of none.
const NAMES: &[&str] = &[
    "getpgid",
    "getsid",
    "personality",
    "getpriority",
    "socket",
    "getrlimit",
    "sched_getscheduler",
    "setfsuid",
    "timer_getoverrun",
    "pidfd_open",
    "openat2",
    "epoll_pwait2",
    "mount_setattr",
    "quotactl_fd",
    "memfd_secret",
    "process_mrelease",
    "futex_waitv",
    "set_mempolicy_home_node",
    "cachestat",
    "mseal",
    "socketcall",
    "_llseek",
    "getuid32",
    "time",
    "semop",
    "no_such_call",
    "setfsgid",
    "fadvise64",
    "readahead",
];

/// Numbers that the probe calls with any arguments and without effect, on x86-64 (and x32) and on i386. None that takes a
/// process id: those that a runtime's own steps take are not the same.
const CALLS: &[u64] = &[
    8,
    39,
    41,
    97,
    102,
    110,
    122,
    135,
    225,
    437,
    441,
    442,
    443,
    447,
    448,
    449,
    450,
    451,
    452,
    453,
    454,
    457,
    458,
    459,
    462,
    500,
    0x3fff_ffff,
];
const CALLS_I386: &[u64] = &[19, 20, 136, 199, 359, 439, 449, 460];

/// Values on both sides of every comparison, in both halves.
const VALUES: &[u64] = &[
    0,
    1,
    2,
    7,
    0xff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

const ARCHITECTURES: &[&[&str]] = &[
    &["X86_64"],
    &["X86_64", "X86"],
    &["X86_64", "X32"],
    &["X86_64", "X86", "X32"],
    &["X86", "X86_64", "ARM"],
];

#[derive(Clone, Debug)]
struct Case {
    profile: Value,
    /// Lines for the probe.
    calls: Vec<String>,
    /// Arguments that the programs are asked about, with every number.
    arguments: Vec<[u64; 6]>,
}

fn value() -> impl Strategy<Value = u64> {
    proptest::sample::select(VALUES)
}

fn action() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(
        &[
            "SCMP_ACT_ALLOW",
            "SCMP_ACT_ERRNO",
            "SCMP_ACT_KILL",
            "SCMP_ACT_KILL_PROCESS",
            "SCMP_ACT_KILL_THREAD",
            "SCMP_ACT_LOG",
            "SCMP_ACT_TRACE",
            "SCMP_ACT_TRAP",
        ][..],
    )
}

fn errno() -> impl Strategy<Value = Option<u32>> {
    proptest::option::of(prop_oneof![Just(38_u32), 1..120_u32])
}

fn condition() -> impl Strategy<Value = Value> {
    let operators = &["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"][..];
    let index = prop_oneof![4 => 0..3_usize, 1 => 3..6_usize];
    (index, proptest::sample::select(operators), value(), value()).prop_map(|(index, operator, one, two)| {
        json!({ "index": index, "op": format!("SCMP_CMP_{operator}"), "value": one, "valueTwo": two })
    })
}

fn rule() -> impl Strategy<Value = Value> {
    let names = proptest::collection::vec(proptest::sample::select(NAMES), 1..4);
    let conditions = prop_oneof![2 => Just(0), 2 => Just(1), 2 => Just(2), 1 => Just(3)]
        .prop_flat_map(|count| proptest::collection::vec(condition(), count));
    (names, action(), errno(), conditions).prop_map(|(names, action, errno, conditions)| {
        let mut rule = json!({ "names": names, "action": action });
        if let Some(errno) = errno {
            rule["errnoRet"] = json!(errno);
        }
        if !conditions.is_empty() {
            rule["args"] = json!(conditions);
        }
        rule
    })
}

fn call() -> impl Strategy<Value = String> {
    let wide = proptest::sample::select(CALLS);
    let number = prop_oneof![
        4 => wide.clone().prop_map(|number| ("64", number)),
        1 => wide.prop_map(|number| ("64", number | u64::from(X32_BIT))),
        2 => proptest::sample::select(CALLS_I386).prop_map(|number| ("32", number)),
    ];
    (number, [value(), value(), value()]).prop_map(|((entry, number), [one, two, three])| {
        format!("{entry} {number:x} {one:x} {two:x} {three:x} {one:x} {two:x}\n")
    })
}

fn case() -> impl Strategy<Value = Case> {
    let architectures = proptest::sample::select(ARCHITECTURES);
    let rules = prop_oneof![4 => proptest::collection::vec(rule(), 0..8), 1 => proptest::collection::vec(rule(), 20..40)];
    let calls = proptest::collection::vec(call(), 24);
    let arguments = proptest::collection::vec([value(), value(), value(), value(), value(), value()], 8);
    (action(), errno(), architectures, rules, calls, arguments).prop_map(
        |(default, errno, architectures, mut rules, calls, arguments)| {
            rules.insert(0, json!({ "names": NEEDED, "action": "SCMP_ACT_ALLOW" }));
            let architectures: Vec<_> =
                architectures.iter().map(|name| format!("SCMP_ARCH_{name}")).collect();
            let mut profile =
                json!({ "defaultAction": default, "architectures": architectures, "syscalls": rules });
            if let Some(errno) = errno {
                profile["defaultErrnoRet"] = json!(errno);
            }
            Case { profile, calls, arguments }
        },
    )
}

/// A bundle whose process is the probe, and the cgroup that its containers are in.
struct Bundle {
    folder: tempfile::TempDir,
    parent: String,
}

impl Bundle {
    fn new() -> Bundle {
        let folder = tempfile::Builder::new().prefix(leaks::PREFIX).tempdir().unwrap();
        for name in ["proc", "lib", "lib64"] {
            fs::create_dir_all(folder.path().join("rootfs").join(name)).unwrap();
        }
        fs::copy(program("longshore-syscalls"), folder.path().join("rootfs/probe")).unwrap();
        let parent = format!("{}{}-seccomp", leaks::PREFIX, std::process::id());
        Bundle { folder, parent }
    }

    fn write(&self, profile: &Value) {
        let bind = |name: &str| json!({ "destination": name, "type": "bind", "source": name, "options": ["rbind", "ro"] });
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": 0, "gid": 0 }, "args": ["/probe"], "env": ["PATH=/"], "cwd": "/",
                "noNewPrivileges": true
            },
            "root": { "path": "rootfs" },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" }, bind("/lib"), bind("/lib64")
            ],
            "linux": {
                "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }],
                "cgroupsPath": format!("/{}/container", self.parent),
                "seccomp": profile
            }
        });
        fs::write(self.folder.path().join("config.json"), spec.to_string()).unwrap();
    }

    /// What the probe says of these calls under a runtime, and the program that it is under; or why there was no container.
    fn run(&self, runtime: &Path, calls: &[String]) -> Result<(Vec<String>, Program), String> {
        let path = |name: &str| self.folder.path().join(name);
        let _ = fs::remove_file(path("pid"));
        let mut child = Command::new(runtime)
            .arg("--root")
            .arg(path("state"))
            .args(["run", "--bundle"])
            .arg(self.folder.path())
            .arg("--pid-file")
            .arg(path("pid"))
            .arg(format!("{}-container", self.parent))
            .env(leaks::MARK, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Go's runtime does not end when the profile kills one of its threads.
        let (done, ended) = std::sync::mpsc::channel::<()>();
        let (folder, parent) = (self.folder.path().to_owned(), self.parent.clone());
        let guard = std::thread::spawn(move || {
            if ended.recv_timeout(HANGS) == Err(RecvTimeoutError::Timeout) {
                leaks::sweep(&folder, &parent, &[]);
            }
        });
        let mut stdin = child.stdin.take().unwrap();
        let _ = stdin.write_all(calls.concat().as_bytes());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let answers: Vec<String> = lines.take(calls.len()).collect();
        let seen = (answers.len() == calls.len()).then(|| {
            // It is written after the start.
            let mut pid = None;
            eventually("the file of the process id is there", || {
                pid = fs::read_to_string(path("pid")).ok().and_then(|text| text.trim().parse().ok());
                pid.is_some()
            });
            let pid = pid.unwrap();
            (answers, Program::of(pid).unwrap())
        });
        drop(stdin);
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        drop(done);
        guard.join().unwrap();
        seen.ok_or(said)
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let left = leaks::sweep(self.folder.path(), &self.parent, &[]);
        assert!(left.is_empty() || std::thread::panicking(), "{left:?}");
    }
}

/// Every number that a kernel may have, and some that none has, of four architectures.
fn numbers() -> impl Iterator<Item = (u32, u32)> {
    let some = || (0..620).chain([1000, 0x3fff_ffff, 0x8000_0000, u32::MAX]);
    let x32 = some().map(|number| (X86_64, number | X32_BIT));
    some().flat_map(|number| [(X86_64, number), (I386, number)]).chain(x32).chain([(ARM, 1), (ARM, 500)])
}

#[test]
#[cfg_attr(not(have_runc), ignore = "needs runc")]
fn random_profiles_act_as_with_runc() {
    let cases = std::env::var("LONGSHORE_SECCOMP_PROFILES").ok().and_then(|text| text.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(PROFILES),
        failure_persistence: None,
        max_shrink_iters: 40,
        ..Config::default()
    };
    let bundle = Bundle::new();
    let (runc, ours) = (PathBuf::from("runc"), program("longshore-runtime"));
    let ran = Cell::new(0);
    let outcome = TestRunner::new(config).run(&case(), |case| {
        bundle.write(&case.profile);
        let (theirs, ours) = (bundle.run(&runc, &case.calls), bundle.run(&ours, &case.calls));
        let ((told, theirs), (answered, ours)) = match (theirs, ours) {
            (Ok(theirs), Ok(ours)) => (theirs, ours),
            (Err(_), Err(_)) => return Ok(()),
            (theirs, ours) => {
                let why = format!("runc: {:?}\nours: {:?}", theirs.err(), ours.err());
                return Err(TestCaseError::fail(why));
            }
        };
        for (call, (theirs, ours)) in case.calls.iter().zip(told.iter().zip(&answered)) {
            prop_assert_eq!(theirs, ours, "{}", call);
        }
        for (arch, number) in numbers() {
            for arguments in &case.arguments {
                let (theirs, ours) =
                    (theirs.answer(arch, number, arguments), ours.answer(arch, number, arguments));
                prop_assert_eq!(
                    theirs,
                    ours,
                    "{:x} {:x} {:x?}: {:x} {:x}",
                    arch,
                    number,
                    arguments,
                    theirs,
                    ours
                );
            }
        }
        ran.set(ran.get() + 1);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    println!("{} profiles", ran.get());
    assert!(ran.get() > 0);
}

/// First arguments that the default profile has rules about, and their neighbours.
fn first_arguments() -> Vec<u64> {
    let flags = (0..32).map(|bit| 1_u64 << bit);
    let personalities = [0x20008, 0x2000a, 0xffff_fffe, 0xffff_ffff, u64::MAX, 0x7e02_0000, 0x1_0000_0028];
    (0..48).chain(flags).chain(personalities).collect()
}

/// Numbers whose answers differ between two programs, with an example each.
fn differences(theirs: &Program, ours: &Program) -> BTreeMap<(u32, u32), (u64, u32, u32)> {
    let mut found = BTreeMap::new();
    for (arch, number) in numbers() {
        for first in first_arguments() {
            let answers = [theirs, ours].map(|program| program.answer(arch, number, &[first, 0, 0, 0, 0, 0]));
            if answers[0] != answers[1] {
                found.entry((arch, number)).or_insert((first, answers[0], answers[1]));
            }
        }
    }
    found
}

fn default_profiles_agree(edition: Edition, expected: impl Fn((u32, u32)) -> bool) {
    let fixture = Fixture::pulled();
    let docker = Dockerd::start(&fixture.daemon, edition, Networks::None, &[]).unwrap();
    docker.docker(&["pull", "-q", &fixture.busybox]).ok();
    let mut differ = 0;
    for capabilities in [
        &[][..],
        // Test hosts may lack this one.
        &["--cap-add=ALL", "--cap-drop=SYS_RESOURCE"],
        &["--cap-drop=ALL"],
        &["--cap-add=SYS_ADMIN"],
        &["--cap-add=SYS_PTRACE", "--cap-add=SYS_TIME", "--cap-add=DAC_READ_SEARCH"],
        &["--cap-add=SYS_NICE", "--cap-add=SYSLOG", "--cap-add=SYS_BOOT", "--cap-add=SYS_RAWIO"],
        &["--cap-add=BPF", "--cap-add=PERFMON", "--cap-add=SYS_MODULE", "--cap-add=SYS_PACCT"],
    ] {
        // Capabilities that it does not know yet.
        if edition == Edition::Distribution && capabilities.contains(&"--cap-add=BPF") {
            continue;
        }
        let options = ["run", "-d", "--network=none", "--name=profile"];
        let words = [&options[..], capabilities, &[&fixture.busybox, "sleep", "1000"]].concat();
        let seen = |call: &dyn Fn(&[&str]) -> Output| {
            call(&words).ok();
            let pid =
                call(&["inspect", "profile", "--format", "{{.State.Pid}}"]).ok().line().parse().unwrap();
            let program = Program::of(pid).unwrap();
            call(&["rm", "-f", "profile"]).ok();
            program
        };
        let theirs = seen(&|words| docker.docker(words));
        let ours = seen(&|words| fixture.daemon.ctl(words));
        let mut found = differences(&theirs, &ours);
        found.retain(|key, _| !expected(*key));
        for ((arch, number), (first, theirs, ours)) in &found {
            println!("{capabilities:?} {arch:x} {number} ({first:x}): {theirs:x} {ours:x}");
        }
        differ += found.len();
        assert_eq!((ours.answer(X86_64, 39, &[0; 6]), ours.answer(X86_64, 246, &[0; 6])), (ALLOW, ERRNO | 1));
    }
    assert_eq!(differ, 0, "the programs differ in that many calls");
}

/// x86-64's system calls that Docker changed its mind about since version 20.10, which is compared here, too. Allowed since:
/// name_to_handle_at, process_vm_readv and process_vm_writev, protection keys, and those from 451 on, which are newer than
/// it; refused since: io_uring, and sockets of hypervisors and of the kernel's cryptography; 450 looked absent as too new.
const CHANGED: &[u32] = &[41, 303, 310, 311, 329, 330, 331, 425, 426, 427, 450, 451, 452, 453, 454, 455, 456];

#[test]
#[cfg_attr(not(have_dockerd), ignore = "needs dockerd (package docker.io)")]
fn the_default_profile_is_dockers() {
    default_profiles_agree(Edition::Distribution, |(arch, number)| {
        arch != X86_64 || number >= X32_BIT || CHANGED.contains(&number)
    });
}

#[test]
#[cfg_attr(not(have_newer_dockerd), ignore = "needs a newer dockerd (LONGSHORE_NEWER_DOCKERD)")]
fn the_default_profile_is_that_of_the_newer_docker() {
    default_profiles_agree(Edition::Newer, |_| false);
}
