//! What containerd's daemon does beside its API: restarts by label, a cgroup of its own, the hook program.
#![cfg_attr(not(have_ctr), allow(dead_code, unused_imports))]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use longshore_tests::daemon::{Settings, eventually, finish, program};
use longshore_tests::{Daemon, Fixture};

const STATUS: &str = "containerd.io/restart.status=running";

/// A daemon whose monitor looks every second, and an image in it.
fn quick() -> Fixture {
    let settings = Settings { config: "[restart]\ninterval_seconds = 1\n".into(), ..Settings::default() };
    let fixture = Fixture::with(settings).expect("a registry and a daemon start");
    fixture.daemon.ctr(&["images", "pull", "--plain-http", &fixture.busybox]).ok();
    fixture
}

fn pid(daemon: &Daemon, id: &str) -> Option<String> {
    let tasks = daemon.ctr(&["tasks", "ls"]).ok().stdout;
    let words: Vec<_> = tasks.lines().find(|line| line.starts_with(id))?.split_whitespace().collect();
    (words.get(2) == Some(&"RUNNING")).then(|| words[1].to_owned())
}

fn label(daemon: &Daemon, id: &str, key: &str) -> String {
    let info: serde_json::Value =
        serde_json::from_str(&daemon.ctr(&["containers", "info", id]).ok().stdout).expect("JSON");
    info["Labels"][format!("containerd.io/restart.{key}")].as_str().unwrap_or_default().to_owned()
}

fn remove(daemon: &Daemon, id: &str) {
    daemon.ctr(&["containers", "label", id, "containerd.io/restart.status=stopped"]).ok();
    eventually("the monitor stops the container", || pid(daemon, id).is_none());
    // A stopped task is left to its owner; one that was stopped by the monitor is gone.
    daemon.ctr(&["tasks", "rm", "-f", id]);
    daemon.ctr(&["containers", "rm", id]).ok();
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn a_container_that_is_to_run_is_started_again_when_it_ends() {
    let Fixture { mut daemon, registry: _registry, busybox } = quick();
    let log = daemon.path().join("again.log");
    let uri = format!("containerd.io/restart.loguri=file://{}", log.display());
    let run = ["run", "-d", "--label", STATUS, "--label", &uri, &busybox, "kept"];
    daemon.ctr(&[&run[..], &["sh", "-c", "echo up; sleep 1000"][..]].concat()).ok();
    let first = pid(&daemon, "kept").expect("it runs");
    daemon.ctr(&["tasks", "kill", "-s", "SIGKILL", "kept"]).ok();
    eventually("it runs again", || pid(&daemon, "kept").is_some_and(|pid| pid != first));
    assert_eq!(label(&daemon, "kept", "count"), "1");
    eventually("its output goes to the log", || fs::read_to_string(&log).unwrap_or_default() == "up\n");
    // A daemon that comes up finds its task and leaves it alone; one without a task is started.
    let second = pid(&daemon, "kept").expect("it runs");
    daemon.kill();
    daemon.launch().expect("the daemon comes up");
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(pid(&daemon, "kept"), Some(second));
    daemon.ctr(&["tasks", "pause", "kept"]).ok();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(daemon.ctr(&["tasks", "ls"]).ok().stdout.contains("PAUSED"), "a pause is not an end");
    daemon.ctr(&["tasks", "resume", "kept"]).ok();
    daemon.ctr(&["tasks", "rm", "-f", "kept"]).ok();
    eventually("it runs again", || pid(&daemon, "kept").is_some());
    remove(&daemon, "kept");
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn a_failure_is_tried_again_as_often_as_asked() {
    let Fixture { daemon, registry: _registry, busybox } = quick();
    let policy = "containerd.io/restart.policy=on-failure:2";
    let run = ["run", "-d", "--label", STATUS, "--label", policy, &busybox];
    daemon.ctr(&[&run[..], &["fails", "sh", "-c", "exit 3"][..]].concat()).ok();
    daemon.ctr(&[&run[..], &["works", "true"][..]].concat()).ok();
    eventually("it was tried twice", || label(&daemon, "fails", "count") == "2");
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(
        (label(&daemon, "fails", "count").as_str(), label(&daemon, "works", "count").as_str()),
        ("2", "")
    );
    remove(&daemon, "fails");
    remove(&daemon, "works");
}

#[test]
fn the_daemon_goes_to_its_own_cgroup() {
    let name = format!("longshore-test-own-{}", std::process::id());
    let settings = Settings { config: format!("cgroup = \"/{name}/daemon\"\n"), ..Settings::default() };
    let daemon = Daemon::with(settings).expect("a daemon starts");
    let groups =
        fs::read_to_string(format!("/proc/{}/cgroup", daemon.pid().expect("it runs"))).expect("a list");
    let (inside, outside): (Vec<_>, Vec<_>) = groups
        .lines()
        .filter(|line| !line.contains(":name="))
        .partition(|line| line.ends_with(&format!("/{name}/daemon")));
    drop(daemon);
    for hierarchy in fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        for group in ["daemon", ""] {
            let folder: PathBuf = hierarchy.path().join(&name).join(group);
            if folder.exists() {
                fs::remove_dir(&folder).expect("nothing is left in the cgroup");
            }
        }
    }
    let root = PathBuf::from("/sys/fs/cgroup").join(&name);
    if root.exists() {
        fs::remove_dir(root.join("daemon")).and_then(|()| fs::remove_dir(root)).expect("nothing is left");
    }
    assert!(!inside.is_empty() && outside.is_empty(), "{groups}");
}

#[test]
fn a_hook_is_told_of_the_container_in_its_arguments() {
    let hook = |words: &[&str]| {
        let mut child = Command::new(program("longshored"))
            .args(["oci-hook", "--"])
            .args(words)
            .env("WHAT", "is-{{status}}")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("longshored starts");
        let state = br#"{"ociVersion":"1.1.0","id":"c1","status":"created","pid":42,"bundle":"/b","annotations":{"k":"v"}}"#;
        child.stdin.take().expect("a pipe").write_all(state).expect("written");
        finish(child).expect("longshored ends")
    };
    let output = hook(&["/bin/sh", "-c", "echo {{id}} {{pid}} {{annotation \"k\"}} $WHAT"]).ok();
    assert_eq!(output.line(), "c1 42 v is-created");
    assert!(hook(&["/bin/echo", "{{nonsense}}"]).expect(1).stderr.contains("nonsense"));
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn a_bundle_is_found_where_containerd_has_it() {
    let Fixture { daemon, registry: _registry, busybox } = Fixture::new();
    daemon.ctr(&["images", "pull", "--plain-http", &busybox]).ok();
    daemon.ctr(&["run", "-d", &busybox, "one", "sleep", "1000"]).ok();
    let bundle = daemon.state().join("io.containerd.runtime.v2.task/default/one");
    assert!(fs::read_to_string(bundle.join("config.json")).expect("a spec").contains("sleep"));
    let shim = fs::read_to_string(bundle.join("shim-binary-path")).expect("a path");
    assert!(shim.ends_with("/containerd-shim-longshore-v1"), "{shim}");
    let mut log = fs::File::options().write(true).open(bundle.join("log")).expect("the shims' log");
    log.write_all(b"said by one\n").expect("written");
    eventually("the daemon's log has it", || daemon.log_text().contains("said by one"));
    daemon.ctr(&["tasks", "rm", "-f", "one"]).ok();
    daemon.ctr(&["containers", "rm", "one"]).ok();
    assert!(!bundle.exists());
}
