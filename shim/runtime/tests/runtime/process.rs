//! The process itself: user, capabilities, limits, environment, terminal.

use crate::bundle::Bundle;
use longshore_runtime::Stdio;
use serde_json::json;
use std::os::fd::OwnedFd;

/// Everything that a terminal says until its last user is gone.
pub fn drain(master: OwnedFd) -> String {
    let mut text = Vec::new();
    let mut chunk = [0; 1024];
    // The end of a terminal is EIO.
    while let Ok(length @ 1..) = rustix::io::read(&master, &mut chunk) {
        text.extend_from_slice(&chunk[..length]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn user_groups_and_umask() {
    let mut bundle = Bundle::new("id -u; id -g; id -G; umask; touch /tmp/x; stat -c %a /tmp/x");
    std::fs::set_permissions(bundle.root().join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777))
        .unwrap();
    bundle.spec["process"]["user"] =
        json!({ "uid": 1000, "gid": 1001, "additionalGids": [10, 20], "umask": 0o027 });
    assert_eq!(bundle.output(), "1000\n1001\n1001 10 20\n0027\n640");
}

#[test]
fn capabilities() {
    let mut bundle = Bundle::new("grep -E 'Cap|NoNewPrivs' /proc/self/status");
    bundle.spec["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "inheritable": ["CAP_NET_BIND_SERVICE"], "ambient": ["CAP_NET_BIND_SERVICE"]
    });
    bundle.spec["process"]["user"] = json!({ "uid": 7, "gid": 7 });
    let output = bundle.output();
    for line in [
        "CapInh:\t0000000000000400",
        "CapBnd:\t0000000000000421",
        "CapAmb:\t0000000000000400",
        "NoNewPrivs:\t1",
    ] {
        assert!(output.contains(line), "{line}: {output}");
    }
    assert!(output.contains("CapEff:\t0000000000000400"), "{output}");
    bundle.spec["process"].as_object_mut().unwrap().remove("capabilities");
    bundle.spec["process"]["noNewPrivileges"] = json!(false);
    let output = bundle.output();
    for line in ["CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t0"] {
        assert!(output.contains(line), "{line}: {output}");
    }
}

#[test]
fn capabilities_that_the_runtime_lacks_are_left_out_with_a_warning() {
    let own = rustix::thread::capabilities(None).unwrap().permitted.bits();
    let mut bundle = Bundle::new("grep CapEff /proc/self/status");
    let all = json!(["CAP_SYS_RESOURCE", "CAP_CHOWN"]);
    bundle.spec["process"]["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all });
    let mut running = bundle.start();
    let warned = running.container().warnings().iter().any(|w| w.contains("24"));
    assert_eq!(warned, own & 1 << 24 == 0);
    assert_eq!(running.finish().code, 0);
}

#[test]
fn limits_can_be_lowered() {
    let mut bundle = Bundle::new("ulimit -n; ulimit -Hn; ulimit -c");
    bundle.spec["process"]["rlimits"] = json!([
        { "type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024 }, { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }
    ]);
    assert_eq!(bundle.output(), "512\n1024\n0");
}

#[test]
fn a_limit_that_cannot_be_raised_is_named() {
    let mut bundle = Bundle::new("ulimit -Hn");
    bundle.spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1_000_000 }]);
    match bundle.create() {
        // Where the host allows it.
        Ok(mut running) => {
            running.container().start().unwrap();
            assert_eq!(running.finish().stdout, "1000000\n");
        }
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.starts_with(
                    "set rlimit RLIMIT_NOFILE to soft 1024, hard 1000000: operation not permitted; "
                ),
                "{text}"
            );
        }
    }
}

#[test]
fn the_oom_score_can_be_raised_and_degrades_when_lowered() {
    let mut bundle = Bundle::new("cat /proc/self/oom_score_adj");
    bundle.spec["process"]["oomScoreAdj"] = json!(500);
    assert_eq!(bundle.output(), "500");
    bundle.spec["process"]["oomScoreAdj"] = json!(-500);
    let mut running = bundle.start();
    let warned = running.container().warnings().iter().any(|w| w.contains("oomScoreAdj"));
    let stdout = running.finish().stdout;
    assert_eq!(stdout == "-500\n", !warned, "{stdout}");
}

#[test]
fn the_environment_is_the_configs_alone() {
    // SAFETY-free: the test's own environment has variables already, none may show.
    let bundle = Bundle::new("env | sort");
    assert_eq!(bundle.output(), "HOME=/root\nPATH=/bin\nPWD=/\nSHLVL=1");
}

#[test]
fn home_comes_from_the_containers_passwd() {
    let mut bundle = Bundle::new("echo $HOME");
    bundle.spec["process"]["env"] = json!(["PATH=/bin"]);
    assert_eq!(bundle.output(), "/");
    std::fs::write(
        bundle.root().join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nu:x:5:5::/home/u:/bin/sh",
    )
    .unwrap();
    assert_eq!(bundle.output(), "/root");
    bundle.spec["process"]["user"] = json!({ "uid": 5, "gid": 5 });
    assert_eq!(bundle.output(), "/home/u");
    bundle.spec["process"]["user"] = json!({ "uid": 6, "gid": 6 });
    assert_eq!(bundle.output(), "/");
}

#[test]
fn programs_are_found_in_the_path_of_the_environment() {
    let mut bundle = Bundle::new("");
    std::fs::create_dir(bundle.root().join("opt")).unwrap();
    std::os::unix::fs::symlink("/bin/busybox", bundle.root().join("opt/echo")).unwrap();
    bundle.args(&["echo", "found"]).spec["process"]["env"] = json!(["PATH=/nowhere:/opt"]);
    assert_eq!(bundle.output(), "found");
}

#[test]
fn a_terminal_with_its_size_and_console() {
    let mut bundle =
        Bundle::new("tty; stty size; test -c /dev/console && echo console; echo x > /dev/console; exit 5");
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.spec["process"]["consoleSize"] = json!({ "width": 90, "height": 30 });
    let mut container = bundle.create_with(Stdio::Terminal).unwrap();
    let master = container.take_terminal().unwrap();
    assert!(container.take_terminal().is_none());
    container.start().unwrap();
    let output = drain(master);
    assert_eq!(crate::bundle::wait(container.pid(), container.pidfd()), 5);
    container.delete().unwrap();
    assert_eq!(output, "/dev/pts/0\r\n30 90\r\nconsole\r\nx\r\n");
}

#[test]
fn a_terminal_must_be_asked_for_on_both_sides() {
    let mut bundle = Bundle::new("true");
    assert!(bundle.create_with(Stdio::Terminal).is_err());
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.failure();
}

#[test]
fn signals_are_at_their_defaults() {
    // Rust programs ignore SIGPIPE, and a shim blocks what it reads from a signalfd.
    let mut bundle = Bundle::new("");
    bundle.args(&["/bin/grep", "-E", "SigBlk|SigIgn", "/proc/self/status"]);
    assert_eq!(bundle.output(), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000");
}

#[test]
fn stdout_belongs_to_the_containers_user() {
    let mut bundle = Bundle::new("echo x > /dev/stdout && echo y > /proc/self/fd/2 && echo fine");
    bundle.spec["process"]["user"] = json!({ "uid": 99, "gid": 99 });
    let (read, write) = rustix::pipe::pipe().unwrap();
    let (_, file, _) = crate::bundle::files();
    let stdio = Stdio::Fds {
        stdin: std::fs::File::open("/dev/null").unwrap().into(),
        stdout: write,
        stderr: file.try_clone().unwrap().into(),
    };
    let mut container = bundle.create_with(stdio).unwrap();
    container.start().unwrap();
    let output = drain(read);
    assert_eq!(crate::bundle::wait(container.pid(), container.pidfd()), 0);
    container.delete().unwrap();
    assert_eq!(output, "x\nfine\n");
}
