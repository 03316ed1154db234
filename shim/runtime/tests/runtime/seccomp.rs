//! Seccomp programs from the config.

use crate::bundle::{Bundle, shell};
use serde_json::{Value, json};
use std::os::fd::{AsRawFd, OwnedFd};

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

/// What an agent has got: the container process state, and the listener.
fn accept(listener: &std::os::unix::net::UnixListener) -> (Value, OwnedFd) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let (socket, _) = listener.accept().unwrap();
    let (mut bytes, mut fd) = (Vec::new(), None);
    loop {
        let mut chunk = [0; 256];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [rustix::io::IoSliceMut::new(&mut chunk)];
        let length = recvmsg(&socket, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                fd = fds.next();
            }
        }
        if length == 0 {
            return (serde_json::from_slice(&bytes).unwrap(), fd.unwrap());
        }
        bytes.extend_from_slice(&chunk[..length]);
    }
}

/// Answers one system call with an errno.
fn answer(listener: &OwnedFd, errno: i32) {
    const RECEIVE: libc::c_ulong = 0xc050_2100;
    const SEND: libc::c_ulong = 0xc018_2101;
    // SAFETY: all zeroes are a valid request; both ioctls take the structs that they are given.
    unsafe {
        let mut request: libc::seccomp_notif = std::mem::zeroed();
        assert_eq!(libc::ioctl(listener.as_raw_fd(), RECEIVE, &mut request), 0);
        let mut response: libc::seccomp_notif_resp = std::mem::zeroed();
        response.id = request.id;
        response.error = -errno;
        assert_eq!(libc::ioctl(listener.as_raw_fd(), SEND, &mut response), 0);
    }
}

#[test]
fn an_agent_gets_the_listener_and_decides() {
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new("mkdir /tmp/x 2>&1; echo done; sleep 100");
        let path = bundle.dir.path().join("agent");
        let agent = std::os::unix::net::UnixListener::bind(&path).unwrap();
        bundle.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        bundle.spec["annotations"] = json!({ "k": "v" });
        let mut profile = allow_but(json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }]));
        profile["listenerPath"] = json!(path);
        profile["listenerMetadata"] = json!("what it is about");
        profile["flags"] =
            json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]);
        bundle.spec["linux"]["seccomp"] = profile;
        let states = std::thread::spawn(move || {
            let mut states = Vec::new();
            for _ in 0..2 {
                let (state, listener) = accept(&agent);
                answer(&listener, libc::ENOSPC);
                states.push(state);
            }
            states
        });
        let mut running = bundle.start();
        let output = running.wait_for_output("done");
        assert!(output.contains("No space left on device"), "{output}");
        let mut process = shell("mkdir /tmp/y 2>&1; true");
        process["noNewPrivileges"] = json!(no_new_privileges);
        let outcome = running.exec(process).unwrap();
        assert!(outcome.stdout.contains("No space left on device"), "{outcome:?}");
        let states = states.join().unwrap();
        let pid = running.container().pid();
        assert_eq!((&states[0]["pid"], &states[0]["state"]["pid"]), (&json!(pid), &json!(pid)));
        assert_eq!(states[0]["fds"], json!(["seccompFd"]));
        assert_eq!(states[0]["metadata"], "what it is about");
        assert_eq!(states[0]["state"]["status"], "creating");
        assert_eq!(states[0]["state"]["annotations"]["k"], "v");
        assert_eq!(states[1]["state"]["status"], "running");
        running.kill();
    }
}

#[test]
fn a_profile_with_an_agent_must_name_one_that_listens() {
    let notify = |name: &str| json!([{ "names": [name], "action": "SCMP_ACT_NOTIFY" }]);
    let refused = |profile: Value, part: &str| {
        let mut bundle = Bundle::new("true");
        bundle.spec["linux"]["seccomp"] = profile;
        let text = bundle.failure().to_string();
        assert!(text.contains(part), "{part}: {text}");
    };
    refused(allow_but(notify("mkdir")), "listenerPath");
    let mut profile = allow_but(notify("mkdir"));
    profile["listenerPath"] = json!("/no/such/agent");
    refused(profile.clone(), "/no/such/agent");
    profile["syscalls"] = notify("write");
    refused(profile.clone(), "\"write\"");
    profile["defaultAction"] = json!("SCMP_ACT_NOTIFY");
    refused(profile, "defaultAction");
    let mut profile = allow_but(json!([]));
    profile["listenerMetadata"] = json!("x");
    profile["syscalls"] = json!([{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO" }]);
    refused(profile, "listenerMetadata");
}

#[test]
fn a_file_of_the_cache_that_is_not_whole_is_compiled_again() {
    let cache = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::new("grep Seccomp: /proc/self/status");
    bundle.seccomp_cache = Some(cache.path().to_owned());
    bundle.spec["linux"]["seccomp"] = allow_but(json!([{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO" }]));
    assert_eq!(bundle.output(), "Seccomp:\t2");
    let file = std::fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&file).unwrap();
    for length in [0, 4, 8, whole.len() - 8, whole.len() - 1] {
        std::fs::write(&file, &whole[..length]).unwrap();
        assert_eq!(bundle.output(), "Seccomp:\t2");
        assert_eq!(std::fs::read(&file).unwrap(), whole, "{length} bytes were taken for a program");
    }
}

#[test]
fn threads_may_compile_the_same_profile_at_a_time() {
    let cache = tempfile::tempdir().unwrap();
    let bundles: Vec<Bundle> = (0..8)
        .map(|_| {
            let mut bundle = Bundle::new("grep Seccomp: /proc/self/status");
            bundle.seccomp_cache = Some(cache.path().to_owned());
            let rules = json!([{ "names": ["mkdir", "chmod"], "action": "SCMP_ACT_ERRNO" }]);
            bundle.spec["linux"]["seccomp"] = allow_but(rules);
            bundle
        })
        .collect();
    std::thread::scope(|scope| {
        for bundle in &bundles {
            scope.spawn(|| assert_eq!(bundle.output(), "Seccomp:\t2"));
        }
    });
    let files = std::fs::read_dir(cache.path()).unwrap().count();
    assert_eq!(files, 1, "one program, and nothing half written");
}
