//! The daemon on a host that has nothing but cgroup v2; `make test-vm` runs these in such a machine.

use std::fs;
use std::path::PathBuf;

use longshore_tests::Fixture;
use longshore_tests::daemon::{Daemon, eventually};

/// The cgroup of a container's first process.
fn cgroup(daemon: &Daemon, name: &str) -> PathBuf {
    let pid = daemon.ctl(&["inspect", "--format", "{{.State.Pid}}", name]).ok().line().to_owned();
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process runs");
    let path = text.trim().strip_prefix("0::/").expect("a pure v2 host");
    PathBuf::from("/sys/fs/cgroup").join(path)
}

#[test]
#[ignore = "needs a pure cgroup v2 host: make test-vm"]
fn limits_are_the_kernels() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let limits = ["--memory", "64m", "--pids-limit", "33", "--cpus", "0.5"];
    let words = [
        &["run", "-d", "--network", "none", "--name", "limited"][..],
        &limits,
        &[&f.busybox, "sleep", "1000"],
    ]
    .concat();
    d.ctl(&words).ok();
    let group = cgroup(d, "limited");
    assert!(group.to_string_lossy().contains(d.cgroup_parent()), "{group:?}");
    let file = |name: &str| fs::read_to_string(group.join(name)).expect("a control file").trim().to_owned();
    assert_eq!(file("memory.max"), (64 << 20).to_string());
    assert_eq!(file("pids.max"), "33");
    assert_eq!(file("cpu.max"), "50000 100000");
    assert_eq!(d.ctl(&["exec", "limited", "cat", "/proc/self/cgroup"]).ok().line(), "0::/");
    assert_eq!(file("cgroup.procs").lines().count(), 1);
    d.ctl(&["pause", "limited"]).ok();
    assert!(file("cgroup.events").contains("frozen 1"), "{}", file("cgroup.events"));
    d.ctl(&["unpause", "limited"]).ok();
    assert!(d.ctl(&["stats", "--no-stream", "limited"]).ok().stdout.contains("64MiB"));
    d.ctl(&["rm", "-f", "limited"]).ok();
    assert!(!group.exists(), "{group:?} is left");
}

#[test]
#[ignore = "needs a pure cgroup v2 host: make test-vm"]
fn a_container_without_memory_is_killed_and_says_so() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let hungry = [
        "run",
        "--network",
        "none",
        "--name",
        "hungry",
        "-m",
        "24m",
        &f.busybox,
        "dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=96M",
    ];
    d.ctl(&hungry).expect(137);
    let told = d.ctl(&["inspect", "--format", "{{.State.OOMKilled}}", "hungry"]).ok();
    assert_eq!(told.line(), "true");
}

#[test]
#[ignore = "needs a pure cgroup v2 host: make test-vm"]
fn containers_outlive_the_daemon() {
    let mut f = Fixture::pulled();
    f.daemon.ctl(&["run", "-d", "--network", "none", "--name", "stays", &f.busybox, "sleep", "1000"]).ok();
    let group = cgroup(&f.daemon, "stays");
    f.daemon.kill();
    assert!(group.exists());
    f.daemon.launch().expect("the daemon starts again");
    assert_eq!(cgroup(&f.daemon, "stays"), group);
    f.daemon.ctl(&["kill", "stays"]).ok();
    eventually("its cgroup is gone", || !group.exists());
}
