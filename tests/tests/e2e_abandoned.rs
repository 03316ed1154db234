//! Clients that go away in the middle: what they began is carried through, or nothing of it is left.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use longshore_tests::daemon::eventually;
use longshore_tests::{Daemon, Fixture};

/// Begins a command and kills its client after a while.
fn abandon(daemon: &Daemon, words: &[&str], after: Duration) {
    let mut command = daemon.ctl_command(words);
    let mut client =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a client");
    std::thread::sleep(after);
    assert!(
        client.try_wait().expect("a client").is_none(),
        "{words:?} was over before its client was killed"
    );
    client.kill().expect("killed");
    client.wait().expect("ended");
}

fn field(daemon: &Daemon, format: &str, name: &str) -> String {
    daemon.ctl(&["inspect", "--format", format, name]).ok().line().to_owned()
}

/// Ends a second after SIGTERM; says when it listens to it.
const SLOW_TO_END: &str = "trap 'sleep 1; exit 0' TERM; echo ready; while :; do sleep 0.05; done";

fn run(f: &Fixture, name: &str, flags: &[&str], script: &str) {
    let mut words = vec!["run", "-d", "--name", name];
    words.extend(flags);
    words.extend([f.busybox.as_str(), "sh", "-c", script]);
    f.daemon.ctl(&words).ok();
    eventually("the program listens", || f.daemon.ctl(&["logs", name]).stdout.contains("ready"));
}

#[test]
fn a_restart_goes_on_without_its_client() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    run(&f, "service", &["--restart", "always"], SLOW_TO_END);
    run(&f, "fleeting", &["--rm"], SLOW_TO_END);
    for name in ["service", "fleeting"] {
        let pid = field(d, "{{.State.Pid}}", name);
        abandon(d, &["restart", name], Duration::from_millis(400));
        eventually("it runs again", || {
            let now = field(d, "{{.State.Status}} {{.State.Pid}}", name);
            now.starts_with("running ") && !now.ends_with(&format!(" {pid}"))
        });
    }
    assert_eq!(field(d, "{{.HostConfig.AutoRemove}}", "fleeting"), "true");
    d.ctl(&["kill", "fleeting"]).ok();
    eventually("--rm still holds", || d.ctl(&["inspect", "fleeting"]).code != 0);
}

#[test]
fn a_stop_and_a_removal_go_on_without_their_client() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    run(&f, "deaf", &[], deaf);
    abandon(d, &["stop", "-t", "1", "deaf"], Duration::from_millis(400));
    eventually("it was killed when its time was over", || field(d, "{{.State.Status}}", "deaf") == "exited");
    assert_eq!(field(d, "{{.State.ExitCode}}", "deaf"), "137");
    d.ctl(&["stop", "-s", "NOSUCH", "deaf"]).expect(0);
    d.ctl(&["start", "deaf"]).ok();
    assert_ne!(d.ctl(&["stop", "-s", "NOSUCH", "deaf"]).code, 0);
    assert_eq!(field(d, "{{.State.Status}}", "deaf"), "running");
    d.ctl(&["rm", "-f", "deaf"]).ok();
}

#[test]
fn an_import_of_half_an_archive_leaves_nothing() {
    let f = Fixture::new();
    let d = &f.daemon;
    let mut command = d.ctl_command(&["import", "-", "half:1"]);
    let mut client =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a client");
    let mut stdin = client.stdin.take().expect("its input");
    // Ends with blocks of zeros: as it stands it would be a whole archive.
    stdin.write_all(&vec![0; 4 << 20]).expect("written");
    let ingests = d.root().join("content/ingest");
    let count = || fs::read_dir(&ingests).map_or(0, Iterator::count);
    eventually("the archive is being stored", || count() > 0);
    client.kill().expect("killed");
    client.wait().expect("ended");
    drop(stdin);
    eventually("nothing is left of it", || count() == 0);
    assert!(!d.ctl(&["images", "-a"]).ok().stdout.contains("half"));
    assert_eq!(d.ctr(&["leases", "ls", "-q"]).ok().stdout.trim(), "");
}

#[test]
fn an_image_whose_name_is_taken_is_kept() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&["run", "--name", "first", &f.busybox, "touch", "/one"]).ok();
    d.ctl(&["commit", "first", "app:1"]).ok();
    let one = d.ctl(&["inspect", "--format", "{{.Id}}", "app:1"]).ok().line().to_owned();
    d.ctl(&["run", "--name", "second", "app:1", "touch", "/two"]).ok();
    d.ctl(&["commit", "second", "app:1"]).ok();
    d.ctl(&["commit", "second", "app:2"]).ok();
    let listed = d.ctl(&["images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]).ok().stdout;
    assert!(listed.lines().any(|line| *line == format!("<none>:<none> {one}")), "{listed}");
    assert_eq!(d.ctl(&["run", "--rm", &one, "ls", "/one"]).ok().line(), "/one");
    let nameless = d.ctl(&["commit", "second"]).ok().line().to_owned();
    assert!(
        d.ctl(&["images", "-q", "--no-trunc", "--filter", "dangling=true"]).ok().stdout.contains(&nameless)
    );
    d.ctl(&["tag", &nameless, "named:1"]).ok();
    assert!(
        !d.ctl(&["images", "-q", "--no-trunc", "--filter", "dangling=true"]).ok().stdout.contains(&nameless)
    );
}

#[test]
fn a_log_of_one_file_is_followed_over_its_beginning_anew() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let lines = 4000;
    let script = format!("i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo line $i; done; echo end");
    let limits = ["--log-opt", "max-size=20k", "--log-opt", "max-file=1"];
    let mut words = vec!["create", "--name", "chatty"];
    words.extend(limits);
    words.extend([f.busybox.as_str(), "sh", "-c", &script]);
    d.ctl(&words).ok();
    d.ctl(&["start", "chatty"]).ok();
    let begun = Instant::now();
    let seen = d.ctl(&["logs", "-f", "chatty"]).ok().stdout;
    assert_eq!(
        seen.lines().last(),
        Some("end"),
        "what was followed: {} lines in {:?}",
        seen.lines().count(),
        begun.elapsed()
    );
    let cut = seen.lines().any(|line| line != "end" && !line.starts_with("line "));
    assert!(!cut, "no record is read in half");
}

#[test]
fn no_container_is_made_whose_id_cannot_be_written() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let missing = d.path().join("nowhere/id");
    let refused =
        d.ctl(&["run", "-d", "--cidfile", &missing.display().to_string(), &f.busybox, "sleep", "100"]);
    refused.expect(125);
    assert_eq!(d.ctl(&["ps", "-aq"]).ok().stdout, "");
    let file = d.path().join("id");
    let at = file.display().to_string();
    d.ctl(&["create", "--cidfile", &at, "no-such-image:at-all", "true"]).expect(1);
    assert!(!file.exists(), "no file without a container");
    let id = d.ctl(&["create", "--cidfile", &at, &f.busybox, "true"]).ok().line().to_owned();
    assert_eq!(fs::read_to_string(&file).expect("the file"), id);
}

#[test]
fn statistics_of_a_container_in_a_cgroup_of_its_own() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let parent = format!("{}/own", d.cgroup_parent());
    d.ctl(&["run", "-d", "--name", "busy", "--cgroup-parent", &parent, &f.busybox, "sleep", "1000"]).ok();
    let shown = d.ctl(&["stats", "--no-stream", "--format", "{{.PIDs}}", "busy"]).ok().line().to_owned();
    assert_eq!(shown, "1");
    d.ctl(&["rm", "-f", "busy"]).ok();
    // The parent is the user's: it stays, empty.
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let _ = fs::remove_dir(hierarchy.path().join(&parent));
    }
    let _ = fs::remove_dir(format!("/sys/fs/cgroup/{parent}"));
}

#[test]
fn execs_that_outlive_their_daemon_are_deleted_by_the_next() {
    let mut f = Fixture::pulled();
    f.daemon.ctl(&["run", "-d", "--name", "host", &f.busybox, "sleep", "1000"]).ok();
    for seconds in ["0.2", "3"] {
        f.daemon.ctl(&["exec", "-d", "host", "sleep", seconds]).ok();
    }
    f.daemon.kill();
    // One ends while nobody is there, one after the daemon has come back.
    std::thread::sleep(Duration::from_millis(400));
    f.daemon.launch().expect("it starts again");
    let id = field(&f.daemon, "{{.Id}}", "host");
    let exits = f.daemon.state().join("tasks/default").join(&id).join("exit");
    let records = || fs::read_dir(&exits).expect("a bundle's exits").count();
    eventually("no exec is left", || records() == 0);
    f.daemon.ctl(&["rm", "-f", "host"]).ok();
}

#[test]
fn a_rebuilt_store_ends_and_removes_nothing() {
    let mut f = Fixture::pulled();
    let d = &mut f.daemon;
    d.ctl(&["run", "-d", "--name", "lasting", &f.busybox, "sh", "-c", "echo kept >/data; sleep 1000"]).ok();
    let pid: i32 = field(d, "{{.State.Pid}}", "lasting").parse().expect("a pid");
    let id = field(d, "{{.Id}}", "lasting");
    d.kill();
    let metadata = d.root().join("metadata");
    let store = metadata.join("sled/db");
    let length = usize::try_from(fs::metadata(&store).expect("the store").len()).expect("its length");
    fs::write(&store, vec![0xa5; length]).expect("damaged");
    fs::write(metadata.join("sled/conf"), b"nonsense").expect("damaged");
    d.launch().expect("it starts all the same");
    let log = d.log_text();
    assert!(log.contains("rebuilt") && log.contains(&id), "it says what it found");
    let alive = || nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok();
    assert!(alive(), "what ran runs on");
    let data = fs::read_to_string(format!("/proc/{pid}/root/data")).expect("its file");
    assert_eq!(data, "kept\n");
    assert!(d.root().join("containers/default").join(&id).exists(), "its folder is there");
    assert!(d.ctl(&["info"]).ok().stderr.contains("rebuilt"), "info warns");
    // Once somebody has looked, what no record knows of goes.
    d.stop().expect("it stops");
    fs::remove_file(metadata.join("rebuilt")).expect("the mark");
    d.launch().expect("it starts");
    eventually("what no record knows of is gone", || !alive());
    eventually("with its folder", || !d.root().join("containers/default").join(&id).exists());
}
