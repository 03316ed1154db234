//! What starts containers again by itself, and what stops that: restart policies, also over the daemon's death, and `--init`.

use std::time::{Duration, Instant};

use longshore_tests::daemon::eventually;
use longshore_tests::{Daemon, Fixture};

fn field(daemon: &Daemon, format: &str, name: &str) -> String {
    daemon.ctl(&["inspect", "--format", format, name]).ok().line().to_owned()
}

fn status(daemon: &Daemon, name: &str) -> String {
    field(daemon, "{{.State.Status}}", name)
}

fn restarts(daemon: &Daemon, name: &str) -> u32 {
    field(daemon, "{{.RestartCount}}", name).parse().expect("a number")
}

fn kill_program(daemon: &Daemon, name: &str) {
    let pid: i32 = field(daemon, "{{.State.Pid}}", name).parse().expect("a pid");
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
}

#[test]
fn policies_restart_what_they_should_and_no_more() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let run = |policy: &str, name: &str, script: &str| {
        d.ctl(&["run", "-d", "--restart", policy, "--name", name, &f.busybox, "sh", "-c", script]).ok();
    };
    run("on-failure:2", "twice", "exit 3");
    run("on-failure", "fine", "exit 0");
    run("always", "again", "exit 0");
    run("no", "once", "exit 1");
    eventually("two restarts were tried", || status(d, "twice") == "exited");
    assert_eq!(field(d, "{{.RestartCount}} {{.State.ExitCode}}", "twice"), "2 3");
    assert_eq!(field(d, "{{.RestartCount}} {{.State.Status}}", "fine"), "0 exited");
    assert_eq!(field(d, "{{.RestartCount}} {{.State.Status}}", "once"), "0 exited");
    eventually("it is started again and again", || restarts(d, "again") >= 3);
    eventually("ps says so", || {
        let shown = d.ctl(&["ps", "--format", "{{.Names}} {{.Status}}"]).ok();
        shown.stdout.lines().any(|line| line.starts_with("again Restarting (0) "))
    });
    assert_eq!(d.ctl(&["ps", "-q", "--filter", "status=restarting"]).ok().stdout.lines().count(), 1);

    let refused = |arguments: &[&str], text: &str| {
        let said = d.ctl(arguments);
        assert!(said.code != 0 && said.stderr.contains(text), "{arguments:?}: {}", said.stderr);
    };
    refused(&["exec", "again", "true"], "is restarting, wait until the container is running");
    refused(&["pause", "again"], "is restarting, wait until the container is running");
    refused(&["attach", "again"], "restarting container, wait until it is running");
    refused(&["rm", "again"], "container is restarting: stop the container before removing or force remove");
    refused(&["run", "--rm", "--restart", "always", &f.busybox, "true"], "--restart and --rm");

    let begun = Instant::now();
    d.ctl(&["rm", "-f", "again"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(2), "a container between two runs is removed at once");
    assert!(!d.ctl(&["ps", "-aq", "--filter", "name=again"]).ok().stdout.contains(char::is_alphanumeric));
}

#[test]
fn a_stop_ends_a_policy_and_a_start_begins_it_anew() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&["run", "-d", "--restart", "always", "--name", "runs", &f.busybox, "sleep", "1000"]).ok();
    kill_program(d, "runs");
    eventually("it is back", || restarts(d, "runs") == 1 && status(d, "runs") == "running");
    d.ctl(&["stop", "-t", "0", "runs"]).ok();
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(status(d, "runs"), "exited");
    d.ctl(&["start", "runs"]).ok();
    assert_eq!(restarts(d, "runs"), 0);
    kill_program(d, "runs");
    eventually("the policy holds again", || restarts(d, "runs") == 1 && status(d, "runs") == "running");
    d.ctl(&["kill", "runs"]).ok();
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(status(d, "runs"), "exited");
    d.ctl(&["restart", "-t", "0", "runs"]).ok();
    assert_eq!(status(d, "runs"), "running");

    d.ctl(&["run", "-d", "--restart", "always", "--name", "fails", &f.busybox, "false"]).ok();
    eventually("its pauses are long enough to be met", || restarts(d, "fails") >= 4);
    eventually("it is between two runs", || status(d, "fails") == "restarting");
    d.ctl(&["stop", "fails"]).ok();
    assert_eq!(field(d, "{{.State.Status}} {{.State.ExitCode}}", "fails"), "exited 1");
    let count = restarts(d, "fails");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(field(d, "{{.State.Status}}", "fails"), "exited");
    assert_eq!(restarts(d, "fails"), count);
}

#[test]
fn policies_survive_the_daemon() {
    let mut f = Fixture::pulled();
    let d = &f.daemon;
    for (name, policy) in [
        ("always", "always"),
        ("stopped", "always"),
        ("unless", "unless-stopped"),
        ("held", "unless-stopped"),
    ] {
        d.ctl(&["run", "-d", "--restart", policy, "--name", name, &f.busybox, "sleep", "1000"]).ok();
    }
    d.ctl(&["create", "--restart", "always", "--name", "never", &f.busybox, "sleep", "1000"]).ok();
    d.ctl(&[
        "run",
        "-d",
        "--restart",
        "on-failure",
        "--name",
        "failed",
        &f.busybox,
        "sh",
        "-c",
        "sleep 1; exit 5",
    ])
    .ok();
    d.ctl(&["stop", "-t", "0", "stopped", "held"]).ok();
    let pids: Vec<String> = ["always", "unless"].map(|name| field(d, "{{.State.Pid}}", name)).to_vec();
    f.daemon.kill();
    for pid in pids {
        let pid = nix::unistd::Pid::from_raw(pid.parse().expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
    }
    std::thread::sleep(Duration::from_millis(1300));
    f.daemon.launch().expect("the daemon starts again");
    let d = &f.daemon;
    for name in ["always", "unless", "stopped"] {
        eventually("it runs again", || status(d, name) == "running");
    }
    eventually("an end that nobody saw is acted on", || restarts(d, "failed") >= 1);
    assert_eq!(status(d, "held"), "exited", "a stop by hand is honoured");
    assert_eq!(status(d, "never"), "created");
    d.ctl(&["rm", "-f", "always", "stopped", "unless", "held", "never", "failed"]).ok();
}

#[test]
fn a_run_in_the_foreground_ends_with_its_first_run_and_the_policy_goes_on() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let script = "echo hello; exit 4";
    let said = d
        .ctl(&["run", "--restart", "on-failure:3", "--name", "front", &f.busybox, "sh", "-c", script])
        .expect(4);
    assert_eq!(said.stdout, "hello\n");
    eventually("the policy has done its part", || {
        status(d, "front") == "exited" && restarts(d, "front") == 3
    });
    assert_eq!(d.ctl(&["logs", "front"]).ok().stdout, "hello\n".repeat(4));
    assert_eq!(d.ctl(&["wait", "front"]).ok().line(), "4");
}

#[test]
fn an_init_reaps_forwards_signals_and_hands_on_the_exit_code() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&["run", "--rm", "--init", &f.busybox, "sh", "-c", "exit 7"]).expect(7);
    d.ctl(&["run", "--rm", "--init", &f.busybox, "sh", "-c", "kill -9 $$"]).expect(137);
    d.ctl(&["run", "--rm", "--init", &f.busybox, "no-such-program"]).expect(127);
    let comm = d
        .ctl(&[
            "run",
            "--rm",
            "--init",
            &f.busybox,
            "sh",
            "-c",
            "cat /proc/1/cmdline | tr '\\0' ' '; echo $$",
        ])
        .ok();
    assert!(comm.stdout.starts_with("/dev/init -- sh -c "), "{}", comm.stdout);
    assert!(!comm.stdout.trim_end().ends_with(" 1"), "the program is not process 1: {}", comm.stdout);

    // As an ordinary process sh dies of SIGTERM; as process 1 it would not, having no handler.
    d.ctl(&[
        "run",
        "-d",
        "--init",
        "--name",
        "init",
        &f.busybox,
        "sh",
        "-c",
        "(sleep 0.2 & exec true) & sleep 1000",
    ])
    .ok();
    let memory = std::fs::read_to_string(format!("/proc/{}/status", field(d, "{{.State.Pid}}", "init")))
        .expect("status");
    let resident = memory.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kib: u32 = resident.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kib <= 32, "the init is small: {resident}");
    eventually("orphans are reaped", || !d.ctl(&["exec", "init", "ps"]).ok().stdout.contains('Z'));
    let begun = Instant::now();
    d.ctl(&["stop", "init"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(5), "SIGTERM was handed on");
    assert_eq!(field(d, "{{.State.ExitCode}}", "init"), "143");
}

#[test]
fn several_are_stopped_at_once() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let names = ["s1", "s2", "s3", "s4", "s5", "s6"];
    for name in names {
        let script = "trap '' TERM; while :; do sleep 1; done";
        d.ctl(&["run", "-d", "--name", name, &f.busybox, "sh", "-c", script]).ok();
    }
    let all = |words: &[&'static str]| [words, &names[..]].concat();
    let begun = Instant::now();
    let said = d.ctl(&all(&["stop", "-t", "2"])).ok();
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?} for six that take 2 s each", begun.elapsed());
    assert_eq!(said.stdout.lines().collect::<Vec<_>>(), names, "told in their order");
    assert!(names.iter().all(|name| field(d, "{{.State.ExitCode}}", name) == "137"));
    let said = d.ctl(&["rm", "s1", "nobody", "s2"]).expect(1);
    assert_eq!(said.stdout, "s1\ns2\n");
    assert!(said.stderr.contains("No such container: nobody"), "{}", said.stderr);
}
