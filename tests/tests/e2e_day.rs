//! The day of a container: run, look, log, start again, exec, stop, remove.

use std::time::Duration;

use longshore_tests::Fixture;
use longshore_tests::daemon::eventually;

#[test]
fn a_finished_container_is_listed_read_started_again_and_removed() {
    let Fixture { daemon, registry: _registry, busybox } = &Fixture::pulled();
    daemon.ctl(&["run", "--name", "once", busybox, "echo", "hello"]).ok();
    assert_eq!(daemon.ctl(&["ps", "-q"]).ok().line(), "");
    let all = daemon.ctl(&["ps", "-a"]).ok().stdout;
    assert!(all.lines().next().is_some_and(|head| head.starts_with("CONTAINER ID")), "{all}");
    assert!(all.contains("once") && all.contains("Exited (0)"), "{all}");
    assert_eq!(daemon.ctl(&["logs", "once"]).ok().stdout, "hello\n");
    assert_eq!(daemon.ctl(&["start", "-a", "once"]).ok().stdout, "hello\n");
    assert_eq!(daemon.ctl(&["logs", "once"]).ok().stdout, "hello\nhello\n");
    assert_eq!(daemon.ctl(&["logs", "-n", "1", "-t", "once"]).ok().stdout.lines().count(), 1);
    assert_eq!(daemon.ctl(&["rm", "once"]).ok().line(), "once");
    let gone = daemon.ctl(&["rm", "once"]).expect(1);
    assert!(gone.stderr.contains("No such container: once"), "{}", gone.stderr);

    daemon.ctl(&["run", busybox, "true"]).ok();
    daemon.ctl(&["run", busybox, "true"]).ok();
    let pruned = daemon.ctl(&["container", "prune", "-f"]).ok().stdout;
    assert!(pruned.contains("Total reclaimed space"), "{pruned}");
    assert_eq!(daemon.ctl(&["ps", "-a", "-q"]).ok().line(), "");
    assert!(daemon.ctl(&["images"]).ok().stdout.contains("library/busybox"));
}

#[test]
fn exit_codes_are_dockers() {
    let Fixture { daemon, registry: _registry, busybox } = &Fixture::pulled();
    let run = |args: &[&str]| {
        let mut all = vec!["run", "--rm", busybox];
        all.extend(args);
        daemon.ctl(&all)
    };
    run(&["sh", "-c", "exit 7"]).expect(7);
    // Not by its own hand: the kernel spares the first process of a pid namespace.
    run(&["sh", "-c", "sh -c 'kill -KILL $$'; exit $?"]).expect(137);
    run(&["sh", "-c", "sh -c 'kill -TERM $$'; exit $?"]).expect(143);
    let missing = run(&["/no/such/program"]).expect(127);
    assert!(missing.stderr.contains("no such file or directory"), "{}", missing.stderr);
    let unknown = run(&["no-such-program"]).expect(127);
    assert!(unknown.stderr.contains("executable file not found in $PATH"), "{}", unknown.stderr);
    let denied = run(&["/etc/passwd"]).expect(126);
    assert!(denied.stderr.contains("permission denied"), "{}", denied.stderr);
    daemon.ctl(&["run", "--rm", "--no-such-flag", busybox]).expect(125);
    assert_eq!(daemon.ctl(&["ps", "-a", "-q"]).ok().line(), "", "--rm removes what could not start, too");
}

#[test]
fn a_detached_container_runs_until_it_is_stopped() {
    let Fixture { daemon, registry: _registry, busybox } = &Fixture::pulled();
    let id = daemon
        .ctl(&[
            "run",
            "-d",
            "--name",
            "web",
            busybox,
            "sh",
            "-c",
            "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done",
        ])
        .ok();
    assert_eq!(id.line().len(), 64);
    eventually("the container says that it is up", || daemon.ctl(&["logs", "web"]).ok().stdout == "up\n");
    assert_eq!(daemon.ctl(&["ps", "-q", "--no-trunc"]).ok().line(), id.line());
    assert_eq!(
        daemon.ctl(&["exec", "web", "sh", "-c", "echo $HOSTNAME; exit 4"]).expect(4).line(),
        &id.line()[..12]
    );
    daemon.ctl(&["exec", "web", "no-such-program"]).expect(127);
    daemon.ctl(&["pause", "web"]).ok();
    assert!(daemon.ctl(&["ps"]).ok().stdout.contains("(Paused)"));
    daemon.ctl(&["unpause", "web"]).ok();
    assert!(daemon.ctl(&["top", "web"]).ok().stdout.contains("sleep"));
    assert!(daemon.ctl(&["stats", "--no-stream", "web"]).ok().stdout.contains("web"));
    let refused = daemon.ctl(&["rm", "web"]).expect(1);
    assert!(refused.stderr.contains("container is running"), "{}", refused.stderr);
    let conflict = daemon.ctl(&["run", "--name", "web", busybox]).expect(125);
    assert!(conflict.stderr.contains("is already in use by container"), "{}", conflict.stderr);
    daemon.ctl(&["rename", "web", "site"]).ok();
    assert_eq!(daemon.ctl(&["stop", "site"]).ok().line(), "site");
    assert_eq!(daemon.ctl(&["wait", "site"]).ok().line(), "3");
    assert!(daemon.ctl(&["ps", "-a", "--filter", "status=exited"]).ok().stdout.contains("Exited (3)"));
    daemon.ctl(&["restart", "site"]).ok();
    assert_eq!(daemon.ctl(&["kill", "site"]).ok().line(), "site");
    assert_eq!(daemon.ctl(&["wait", "site"]).ok().line(), "137");
    daemon.ctl(&["rm", "-f", "site"]).ok();
}

#[test]
fn limits_are_visible_and_enforced() {
    let Fixture { daemon, registry: _registry, busybox } = &Fixture::pulled();
    let shown = daemon
        .ctl(&["run", "--rm", "-m", "64m", "--cpus", "0.5", "--pids-limit", "20", busybox, "sh", "-c",
            "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max 2>/dev/null; cat cpu/cpu.cfs_quota_us cpu.max 2>/dev/null; cat pids/pids.max pids.max 2>/dev/null"])
        .stdout;
    assert!(shown.contains("67108864") && shown.contains("50000") && shown.contains("20"), "{shown}");

    daemon
        .ctl(&["run", "--name", "eater", "-m", "16m", busybox, "sh", "-c", "x=a; while :; do x=$x$x; done"])
        .expect(137);
    assert_eq!(daemon.ctl(&["inspect", "-f", "{{.State.OOMKilled}}", "eater"]).ok().line(), "true");
    daemon.ctl(&["run", "-d", "--name", "killed", busybox, "sleep", "1000"]).ok();
    daemon.ctl(&["kill", "killed"]).ok();
    assert_eq!(daemon.ctl(&["wait", "killed"]).ok().line(), "137");
    assert_eq!(daemon.ctl(&["inspect", "-f", "{{.State.OOMKilled}}", "killed"]).ok().line(), "false");
}

#[test]
fn stdin_environment_user_and_volumes_reach_the_container() {
    let Fixture { daemon, registry: _registry, busybox } = &Fixture::pulled();
    use std::io::Write;
    let mut child = daemon
        .ctl_command(&["run", "--rm", "-i", busybox, "cat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("longshore starts");
    let sent = "line\n".repeat(100_000);
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let bytes = sent.clone();
    let writer = std::thread::spawn(move || stdin.write_all(bytes.as_bytes()));
    let output = longshore_tests::daemon::finish(child).expect("longshore ends").ok();
    writer.join().expect("the writer ends").expect("all is written");
    assert!(output.stdout == sent, "cat gives back {} of {} bytes", output.stdout.len(), sent.len());

    let folder = daemon.path().join("shared");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("in"), "from the host\n").expect("a file");
    let volume = format!("{}:/data", folder.display());
    let output = daemon
        .ctl(&[
            "run",
            "--rm",
            "-v",
            &volume,
            "-e",
            "A=b c",
            "-w",
            "/data",
            busybox,
            "sh",
            "-c",
            "cat in; echo $A; pwd; echo out >out",
        ])
        .ok();
    assert_eq!(output.stdout, "from the host\nb c\n/data\n");
    assert_eq!(std::fs::read_to_string(folder.join("out")).expect("written by the container"), "out\n");
    let read_only = format!("{}:/data:ro", folder.display());
    daemon.ctl(&["run", "--rm", "-v", &read_only, busybox, "touch", "/data/x"]).expect(1);
    daemon.ctl(&["run", "--rm", "--read-only", busybox, "touch", "/x"]).expect(1);

    assert_eq!(
        daemon.ctl(&["run", "--rm", "-u", "user", busybox, "id"]).ok().line(),
        "uid=1000(user) gid=1000(user) groups=1000(user),2000(extra)"
    );
    assert_eq!(daemon.ctl(&["run", "--rm", "-u", "1234:33", busybox, "id", "-u"]).ok().line(), "1234");
    let absent = daemon.ctl(&["run", "--rm", "-u", "nobody-here", busybox, "id"]).expect(125);
    assert!(absent.stderr.contains("nobody-here"), "{}", absent.stderr);
    let overflow = daemon.ctl(&["run", "--rm", "-u", "4294967296", busybox, "id"]);
    assert_eq!(overflow.code, 125, "{overflow:?}");
}

#[test]
fn a_stop_that_is_ignored_ends_in_a_kill() {
    let Fixture { daemon, registry: _registry, busybox } = &Fixture::pulled();
    daemon
        .ctl(&[
            "run",
            "-d",
            "--name",
            "deaf",
            busybox,
            "sh",
            "-c",
            "trap '' TERM; echo up; while :; do sleep 0.1; done",
        ])
        .ok();
    eventually("the trap is set", || daemon.ctl(&["logs", "deaf"]).ok().stdout == "up\n");
    let started = std::time::Instant::now();
    daemon.ctl(&["stop", "-t", "1", "deaf"]).ok();
    assert!(started.elapsed() >= Duration::from_secs(1), "the grace period is given");
    assert_eq!(daemon.ctl(&["wait", "deaf"]).ok().line(), "137");
}

#[test]
fn logs_follow_until_the_container_ends() {
    let Fixture { daemon, registry: _registry, busybox } = &Fixture::pulled();
    daemon
        .ctl(&[
            "run",
            "-d",
            "--name",
            "talker",
            busybox,
            "sh",
            "-c",
            "for i in 1 2 3 4 5; do echo $i; sleep 0.2; done; echo bad >&2",
        ])
        .ok();
    let followed = daemon.ctl(&["logs", "-f", "talker"]).ok();
    assert_eq!(followed.stdout, "1\n2\n3\n4\n5\n");
    assert_eq!(followed.stderr, "bad\n");
}

#[test]
fn a_container_that_removes_itself_can_be_removed_by_force() {
    let Fixture { daemon, registry: _registry, busybox } = &Fixture::pulled();
    for _ in 0..5 {
        daemon.ctl(&["run", "-d", "--rm", "--name", "short", busybox, "sleep", "1000"]).ok();
        assert_eq!(daemon.ctl(&["rm", "-f", "short"]).ok().line(), "short");
    }
    assert_eq!(daemon.ctl(&["ps", "-a", "-q"]).ok().line(), "");
}
