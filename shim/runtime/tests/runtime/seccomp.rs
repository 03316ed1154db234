//! Seccomp programs from the config.

use crate::bundle::{Bundle, shell};
use longshore_runtime::Error;
use serde_json::{Value, json};

fn allow_but(rules: Value) -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": rules })
}

#[test]
fn denied_syscalls_fail_with_the_errno_of_the_rule() {
    let mut bundle = Bundle::new("chmod 700 /tmp 2>&1; mkdir /tmp/x 2>&1; echo $?");
    bundle.spec["linux"]["seccomp"] = allow_but(json!([
        { "names": ["chmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
        { "names": ["mkdir", "mkdirat", "no_such_syscall"], "action": "SCMP_ACT_ERRNO" }
    ]));
    for no_new_privileges in [true, false] {
        bundle.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        let output = bundle.output();
        assert!(
            output.contains("No space left on device") && output.contains("Operation not permitted"),
            "{output}"
        );
    }
}

#[test]
fn cve_2017_18367_all_arguments_of_a_rule_must_match() {
    // kill(1, 0) is denied, every other pair passes.
    let mut bundle = Bundle::new("kill -0 1 && echo both; kill -18 1 && echo first; kill -0 $$ && echo same");
    bundle.args(&["/bin/sh", "-c", "sh -c 'kill -0 1 || echo denied; kill -18 1 && echo other signal; kill -0 $$ && echo other pid'; true"]);
    bundle.spec["linux"]["seccomp"] = allow_but(json!([{
        "names": ["kill"], "action": "SCMP_ACT_ERRNO",
        "args": [
            { "index": 0, "value": 1, "op": "SCMP_CMP_EQ" },
            { "index": 1, "value": 0, "op": "SCMP_CMP_EQ" }
        ]
    }]));
    assert_eq!(bundle.output(), "denied\nother signal\nother pid");
}

#[test]
fn a_program_is_compiled_once() {
    let cache = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::new("grep Seccomp: /proc/self/status");
    bundle.seccomp_cache = Some(cache.path().join("seccomp"));
    bundle.spec["linux"]["seccomp"] = allow_but(json!([{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO" }]));
    let entries = || {
        let list = std::fs::read_dir(cache.path().join("seccomp")).unwrap();
        let mut names: Vec<_> = list
            .map(|e| (e.as_ref().unwrap().file_name(), e.unwrap().metadata().unwrap().modified().unwrap()))
            .collect();
        names.sort();
        names
    };
    assert_eq!(bundle.output(), "Seccomp:\t2");
    let first = entries();
    assert_eq!(first.len(), 1);
    assert_eq!(bundle.output(), "Seccomp:\t2");
    assert_eq!(entries(), first);
    bundle.spec["linux"]["seccomp"]["syscalls"][0]["errnoRet"] = json!(5);
    assert_eq!(bundle.output(), "Seccomp:\t2");
    assert_eq!(entries().len(), 2);
    // A damaged file is as good as none.
    std::fs::write(cache.path().join("seccomp").join(&first[0].0), "x").unwrap();
    bundle.spec["linux"]["seccomp"]["syscalls"][0].as_object_mut().unwrap().remove("errnoRet");
    assert_eq!(bundle.output(), "Seccomp:\t2");
}

#[test]
fn further_processes_are_under_the_same_program() {
    let mut bundle = Bundle::new("echo ready; sleep 100");
    bundle.spec["linux"]["seccomp"] =
        allow_but(json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }]));
    let mut running = bundle.start();
    running.wait_for_output("ready");
    for _ in 0..2 {
        let outcome = running.exec(shell("mkdir /tmp/x")).unwrap();
        assert!(outcome.stderr.contains("Operation not permitted"), "{outcome:?}");
    }
    running.kill();
}

#[test]
fn syscalls_newer_than_the_profile_do_not_exist() {
    let mut bundle = Bundle::new("true");
    // A profile that knows nothing newer than getrandom and denies by EPERM; busybox needs few.
    let names = json!([
        "read",
        "write",
        "open",
        "close",
        "stat",
        "fstat",
        "lstat",
        "mmap",
        "mprotect",
        "munmap",
        "brk",
        "rt_sigaction",
        "rt_sigprocmask",
        "ioctl",
        "access",
        "execve",
        "exit",
        "exit_group",
        "arch_prctl",
        "set_tid_address",
        "prlimit64",
        "getrandom",
        "getuid",
        "geteuid",
        "getgid",
        "getegid",
        "readlink",
        "uname",
        "getcwd",
        "getpid",
        "getppid",
        "fcntl",
        "dup2",
        "wait4",
        "clone",
        "vfork",
        "fork",
        "set_robust_list",
        "setuid",
        "setgid",
        "seccomp",
        "rt_sigreturn",
        "newfstatat",
        "sendto",
        "capget",
        "capset",
        "prctl",
        "futex",
        "setresuid",
        "setresgid",
        "setgroups",
        "recvfrom",
        "umask",
        "faccessat",
        "fchdir",
        "poll",
        "pipe"
    ]);
    bundle.spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }] });
    // busybox's timeout applet has no use for new syscalls; ask the shell instead, which falls back silently.
    let outcome = bundle.run();
    assert_eq!(outcome.code, 0, "{outcome:?}");
}

#[test]
fn user_notification_is_refused() {
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["seccomp"] = allow_but(json!([{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }]));
    assert!(matches!(bundle.failure(), Error::NotBuilt { .. }));
}
