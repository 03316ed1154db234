//! Our shim under a real containerd: Debian's, and in place of it any other whose `containerd` and `ctr` are in the
//! folder that `LONGSHORE_CONTAINERD_HEAD` names.
#![cfg_attr(not(have_containerd), allow(dead_code, unused_imports))]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use longshore_tests::containerd::{Containerd, Host, OURS, RUNC};
use longshore_tests::daemon::{Settings, eventually};
use longshore_tests::pty::Terminal;
use longshore_tests::registry::Registry;
use longshore_tests::{Fixture, Output};

/// Ends with code 3 at SIGTERM.
const TRAP: &str = "trap 'exit 3' TERM; while :; do sleep 0.05; done";

fn pulled() -> (Containerd, Registry, String) {
    let (containerd, registry) = (Containerd::any(), Registry::start().expect("a registry"));
    let image = containerd.pull_busybox(&registry).expect("an image");
    (containerd, registry, image)
}

/// `ctr events`, as long as it is kept.
struct Events {
    child: Child,
    file: std::path::PathBuf,
}

impl Events {
    fn watch(containerd: &Containerd) -> Events {
        let file = containerd.path().join("events");
        let out = fs::File::create(&file).expect("a file");
        let child =
            containerd.ctr_command(&["events"]).stdout(out).stderr(Stdio::null()).spawn().expect("ctr runs");
        let events = Events { child, file };
        // Nothing says that it listens: make it something to hear.
        eventually("events come", || {
            containerd.ctr(&["namespaces", "create", "heard"]);
            containerd.ctr(&["namespaces", "rm", "heard"]);
            !events.text().is_empty()
        });
        events
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap_or_default()
    }

    /// The last parts of the topics of tasks, such as `exit`, each with its JSON.
    fn tasks(&self) -> Vec<(String, String)> {
        let text = self.text();
        let lines = text.lines().filter_map(|line| line.split_once(" /tasks/")?.1.split_once(' '));
        lines.map(|(topic, json)| (topic.to_owned(), json.to_owned())).collect()
    }

    fn topics(&self) -> Vec<String> {
        self.tasks().into_iter().map(|(topic, _)| topic).collect()
    }

    #[track_caller]
    fn await_topic(&self, topic: &str) {
        eventually(topic, || self.topics().iter().any(|found| found == topic));
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn nothing_is_left(containerd: &Containerd, id: &str) {
    eventually("the cgroups are gone", || containerd.cgroups(id).is_empty());
    eventually("the bundle is gone", || !containerd.bundle(id).exists());
}

#[test]
#[cfg_attr(not(have_containerd), ignore = "needs containerd (package containerd)")]
fn a_container_has_its_output_exit_code_and_terminal() {
    let (containerd, _registry, image) = pulled();
    let script = "read x; echo got $x; echo err >&2; exit 7";
    let mut command = containerd.run_command(OURS, "one", &["--rm"], &image, &["sh", "-c", script]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ctr runs");
    std::io::Write::write_all(&mut child.stdin.take().expect("stdin"), b"words\n").expect("it is read");
    let output = longshore_tests::daemon::finish(child).expect("it ends");
    assert_eq!((output.code, output.stdout.as_str()), (7, "got words\n"), "{output:?}");
    assert!(output.stderr.contains("err\n"), "{output:?}");
    nothing_is_left(&containerd, "one");

    let program = ["sh", "-c", "sleep 0.5; stty size; tty; exit 6"];
    let command = containerd.run_command(OURS, "two", &["--rm", "--tty"], &image, &program);
    let mut terminal = Terminal::spawn(command, 91, 33).expect("a terminal");
    terminal.expect("33 91");
    terminal.expect("/dev/pts/0");
    assert_eq!(terminal.wait(), 6);
    let missing = containerd.run(OURS, "three", &["--rm"], &image, &["no-such-program"]);
    assert!(
        missing.code != 0 && missing.stderr.contains("executable file not found in $PATH"),
        "{missing:?}"
    );
    nothing_is_left(&containerd, "three");
}

#[test]
#[cfg_attr(not(have_containerd), ignore = "needs containerd (package containerd)")]
fn every_verb_works_and_events_come_in_order() {
    let (containerd, _registry, image) = pulled();
    let events = Events::watch(&containerd);
    containerd.run(OURS, "v", &["-d"], &image, &["sh", "-c", TRAP]).ok();
    verbs(&containerd, "v");
    events.await_topic("delete");
    let expected = [
        "create",
        "start",
        "exec-added",
        "exec-started",
        "exit",
        "paused",
        "resumed",
        "exec-added",
        "exec-started",
        "exit",
        "exit",
        "delete",
    ];
    assert_eq!(events.topics(), expected, "{}", events.text());
    let exits: Vec<String> =
        events.tasks().into_iter().filter(|(topic, _)| topic == "exit").map(|(_, json)| json).collect();
    assert!(
        exits[1].contains("\"id\":\"e2\"") && exits[2].contains("\"id\":\"v\""),
        "execs end first: {exits:?}"
    );
}

/// Everything that can be done with a container that runs [`TRAP`]; then it is deleted.
fn verbs(containerd: &Containerd, id: &str) {
    containerd.exec(id, "e1", &["sh", "-c", "echo in; exit 5"]).expect(5);
    containerd.ctr(&["tasks", "pause", id]).ok();
    assert_eq!(containerd.status(id), "PAUSED");
    containerd.ctr(&["tasks", "resume", id]).ok();
    assert_eq!(containerd.status(id), "RUNNING");
    let metrics = containerd.ctr(&["tasks", "metrics", id]).ok().stdout;
    assert!(metrics.contains("memory.usage_in_bytes") && metrics.contains("pids.current"), "{metrics}");
    let mut exec = containerd.ctr_command(&["tasks", "exec", "--exec-id", "e2", id, "sleep", "1000"]);
    let mut exec =
        exec.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("ctr runs");
    eventually("the exec is listed", || containerd.ctr(&["tasks", "ps", id]).ok().stdout.contains("e2"));
    let init = containerd.pid(id, "init.pid");
    assert!(containerd.ctr(&["tasks", "ps", id]).ok().stdout.contains(&init.to_string()));
    containerd.ctr(&["tasks", "kill", id]).ok();
    eventually("it has stopped", || containerd.status(id) == "STOPPED");
    exec.wait().expect("the exec has ended with it");
    assert!(containerd.ctr(&["tasks", "rm", id]).stderr.contains("exit code 3"));
    nothing_is_left(containerd, id);
}

#[test]
#[cfg_attr(not(have_containerd), ignore = "needs containerd (package containerd)")]
fn a_shim_that_is_killed_leaves_nothing() {
    let (containerd, _registry, image) = pulled();
    let events = Events::watch(&containerd);
    containerd.run(OURS, "k", &["-d"], &image, &["sleep", "1000"]).ok();
    let (shim, init) = (containerd.pid("k", "shim.pid"), containerd.pid("k", "init.pid"));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::SIGKILL).expect("it lives");
    eventually("the container has ended", || !Containerd::lives(init));
    events.await_topic("delete");
    let exit = events.tasks().into_iter().find(|(topic, _)| topic == "exit").expect("an exit").1;
    assert!(exit.contains("137") && exit.contains(&init.to_string()), "{exit}");
    assert_eq!(containerd.status("k"), "");
    nothing_is_left(&containerd, "k");
}

#[test]
#[cfg_attr(not(have_containerd), ignore = "needs containerd (package containerd)")]
fn a_daemon_that_was_killed_finds_its_containers_and_hears_what_it_missed() {
    let (mut containerd, _registry, image) = pulled();
    containerd.run(OURS, "stays", &["-d"], &image, &["sh", "-c", TRAP]).ok();
    containerd.run(OURS, "ends", &["-d"], &image, &["sh", "-c", "sleep 0.5; exit 9"]).ok();
    let (stays, ends) = (containerd.pid("stays", "init.pid"), containerd.pid("ends", "init.pid"));
    containerd.kill();
    eventually("it ends without a daemon", || !Containerd::lives(ends));
    assert!(Containerd::lives(stays));
    containerd.launch().expect("it starts again");
    // A newer containerd deletes what has ended meanwhile when it starts.
    let ended = if containerd.is_debians() { "STOPPED" } else { "" };
    eventually("the one has stopped", || containerd.status("ends") == ended);
    assert_eq!(containerd.status("stays"), "RUNNING");
    containerd.exec("stays", "again", &["true"]).ok();
    if containerd.is_debians() {
        let removed = containerd.ctr(&["tasks", "rm", "ends"]);
        assert!(removed.stderr.contains("exit code 9"), "{removed:?}");
    }
    containerd.ctr(&["tasks", "kill", "stays"]).ok();
    eventually("the other has stopped", || containerd.status("stays") == "STOPPED");
}

#[test]
#[cfg_attr(not(have_containerd), ignore = "needs containerd (package containerd)")]
fn output_goes_to_a_logging_program_and_to_a_file() {
    let (containerd, _registry, image) = pulled();
    let (program, kept) = (containerd.path().join("logger"), containerd.path().join("kept"));
    let script = format!(
        "#!/bin/sh\nexec >{kept} 2>&1\necho \"$CONTAINER_NAMESPACE $CONTAINER_ID $*\"\nexec 5>&-\n\
         sed 's/^/E /' <&4 >{kept}.err &\nsed 's/^/O /' <&3\nwait\nsleep 0.2\ncat {kept}.err\necho done\n",
        kept = kept.display()
    );
    fs::write(&program, script).expect("a program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it can be executed");
    let uri = format!("binary://{}?key=value", program.display());
    let both = ["sh", "-c", "echo out; echo err >&2"];
    containerd.run(OURS, "b", &["-d", "--log-uri", &uri], &image, &both).ok();
    eventually("it has stopped", || containerd.status("b") == "STOPPED");
    // Deleting waits for what the program still does.
    containerd.ctr(&["tasks", "rm", "b"]).ok();
    let text = fs::read_to_string(&kept).expect("what was kept");
    assert_eq!(text, "default b key value\nO out\nE err\ndone\n");

    let file = containerd.path().join("deep/file");
    let uri = format!("file://{}", file.display());
    containerd.run(OURS, "f", &["-d", "--log-uri", &uri], &image, &both).ok();
    eventually("it has stopped", || containerd.status("f") == "STOPPED");
    containerd.ctr(&["tasks", "rm", "f"]).ok();
    let mut lines: Vec<String> =
        fs::read_to_string(&file).expect("a file").lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);

    let missing = containerd.run(OURS, "m", &["-d", "--log-uri", "binary:///no/such"], &image, &both);
    assert!(missing.code != 0 && missing.stderr.contains("/no/such"), "{missing:?}");
}

/// Another OCI runtime under our shim, with every verb.
fn another_runtime(containerd: &Containerd, image: &str, name: &str) {
    let root = containerd.path().join("runtimes").display().to_string();
    let flags = ["--runc-binary", name, "--runc-root", &root];
    let run = |id: &str, more: &[&str], program: &[&str]| -> Output {
        let more: Vec<&str> = flags.iter().chain(more).copied().collect();
        containerd.run(RUNC, id, &more, image, program)
    };
    let output = run("r1", &["--rm"], &["sh", "-c", "echo out; exit 7"]);
    assert_eq!((output.code, output.stdout.as_str()), (7, "out\n"), "{output:?}");
    run("r2", &["-d"], &["sh", "-c", TRAP]).ok();
    assert!(Path::new(&root).join("default/r2").exists(), "the runtime keeps its state there");
    verbs(containerd, "r2");
    let more: Vec<&str> = flags.iter().copied().chain(["--rm", "--tty"]).collect();
    let command =
        containerd.run_command(RUNC, "r3", &more, image, &["sh", "-c", "sleep 0.5; stty size; exit 6"]);
    let mut terminal = Terminal::spawn(command, 91, 33).expect("a terminal");
    terminal.expect("33 91");
    assert_eq!(terminal.wait(), 6);

    run("r4", &["-d"], &["sleep", "1000"]).ok();
    let (shim, init) = (containerd.pid("r4", "shim.pid"), containerd.pid("r4", "init.pid"));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::SIGKILL).expect("it lives");
    eventually("the container has ended", || !Containerd::lives(init));
    nothing_is_left(containerd, "r4");
    assert!(!Path::new(&root).join("default/r4").exists(), "the runtime has forgotten it");
}

#[test]
#[cfg_attr(
    not(all(have_containerd, have_runc)),
    ignore = "needs containerd and runc (packages containerd, runc)"
)]
fn runc_runs_below_our_shim() {
    let (containerd, _registry, image) = pulled();
    another_runtime(&containerd, &image, "runc");
    // Who says where runc keeps its state may call runc on it.
    let root = containerd.path().join("alone").display().to_string();
    containerd.run(RUNC, "a", &["-d", "--runc-root", &root], &image, &["sleep", "1000"]).ok();
    let mut runc = std::process::Command::new("runc");
    longshore_tests::daemon::run(runc.args(["--root", &format!("{root}/default"), "delete", "--force", "a"]))
        .expect("runc runs")
        .ok();
    eventually("it has stopped", || containerd.status("a") == "STOPPED");
    assert!(containerd.ctr(&["tasks", "kill", "a"]).code != 0);
    let missing = containerd.run(RUNC, "n", &["--rm", "--runc-binary", "no-runc"], &image, &["true"]);
    assert!(missing.code != 0 && missing.stderr.contains("\"no-runc\""), "{missing:?}");
}

#[test]
#[cfg_attr(
    not(all(have_containerd, have_crun)),
    ignore = "needs containerd and crun (packages containerd, crun)"
)]
fn crun_runs_below_our_shim() {
    let registry = Registry::start().expect("a registry");
    let host = if Path::new("/sys/fs/cgroup/unified").exists() { Host::OnlyV1 } else { Host::Plain };
    let containerd =
        Containerd::start(Path::new("containerd"), Path::new("ctr"), host, "").expect("containerd starts");
    let image = containerd.pull_busybox(&registry).expect("an image");
    another_runtime(&containerd, &image, "crun");
}

#[test]
#[cfg_attr(not(all(have_ctr, have_runc)), ignore = "needs ctr and runc (packages containerd, runc)")]
fn runc_runs_below_our_daemon() {
    let Fixture { daemon, busybox, .. } = &Fixture::with(Settings::default()).expect("a daemon");
    daemon.ctr(&["images", "pull", "--plain-http", busybox]).ok();
    let root = daemon.path().join("runtimes").display().to_string();
    let cgroup = format!("/{}/r", daemon.cgroup_parent());
    let flags = ["run", "--runc-binary", "runc", "--runc-root", &root, "--cgroup", &cgroup];
    let run = |more: &[&str], program: &[&str]| {
        let args: Vec<&str> =
            flags.iter().chain(more).chain([&busybox.as_str(), &"r"]).chain(program).copied().collect();
        daemon.ctr(&args)
    };
    let output = run(&["--rm"], &["sh", "-c", "echo out; exit 7"]);
    assert_eq!((output.code, output.stdout.as_str()), (7, "out\n"), "{output:?}");
    run(&["-d"], &["sh", "-c", TRAP]).ok();
    assert!(Path::new(&root).join("default/r").exists(), "the runtime keeps its state there");
    daemon.ctr(&["tasks", "exec", "--exec-id", "e", "r", "sh", "-c", "exit 5"]).expect(5);
    daemon.ctr(&["tasks", "kill", "r"]).ok();
    eventually("it has stopped", || daemon.ctr(&["tasks", "ls"]).ok().stdout.contains("STOPPED"));
    assert!(daemon.ctr(&["tasks", "rm", "r"]).stderr.contains("exit code 3"));
    daemon.ctr(&["containers", "rm", "r"]).ok();
}

#[test]
#[cfg_attr(not(have_containerd), ignore = "needs containerd (package containerd)")]
fn what_the_shim_has_to_say_is_in_containerds_log() {
    let (containerd, _registry, image) = pulled();
    containerd.run(OURS, "w", &["-d"], &image, &["sleep", "1000"]).ok();
    // Where the exit record goes is not there: a failure of which only the log hears.
    fs::rename(containerd.bundle("w").join("exit"), containerd.bundle("w").join("away"))
        .expect("it can be moved");
    containerd.ctr(&["tasks", "kill", "--signal", "9", "w"]).ok();
    eventually("it has stopped", || containerd.status("w") == "STOPPED");
    eventually("the log says so", || {
        containerd
            .log()
            .lines()
            .any(|line| line.contains("level=error") && line.contains("exit/") && line.contains("id=w"))
    });
}

#[test]
#[cfg_attr(not(have_containerd), ignore = "needs containerd (package containerd)")]
fn checkpointing_says_why_it_cannot() {
    let (containerd, _registry, image) = pulled();
    containerd.run(OURS, "c", &["-d"], &image, &["sleep", "1000"]).ok();
    let refused = containerd.ctr(&["tasks", "checkpoint", "c"]);
    assert!(refused.code != 0 && refused.stderr.contains("criu"), "{refused:?}");
    assert_eq!(containerd.status("c"), "RUNNING");
}

#[test]
#[cfg_attr(
    not(have_containerd_head),
    ignore = "needs a containerd with sandboxes, newer than 1.6: LONGSHORE_CONTAINERD_HEAD"
)]
fn containers_share_the_shim_of_their_sandbox() {
    let (containerd, _registry, image) = pulled();
    let config = containerd.path().join("pod.json");
    fs::write(&config, "{}").expect("a file");
    containerd.ctr(&["sandboxes", "run", "--runtime", OURS, &config.display().to_string(), "pod"]).ok();
    containerd.run(OURS, "a", &["-d", "--sandbox", "pod"], &image, &["sleep", "1000"]).ok();
    containerd.run(OURS, "b", &["-d", "--sandbox", "pod"], &image, &["sh", "-c", "exit 4"]).ok();
    eventually("the one has stopped", || containerd.status("b") == "STOPPED");
    assert!(!containerd.bundle("a").join("shim.pid").exists(), "it has no shim of its own");
    assert!(containerd.ctr(&["tasks", "rm", "b"]).stderr.contains("exit code 4"));
    assert_eq!(containerd.status("a"), "RUNNING");
    let folder = containerd.path().join("state/io.containerd.sandbox.controller.v1.shim/default/pod");
    let shim =
        fs::read_to_string(folder.join("shim.pid")).expect("the pod's shim").parse().expect("a process id");
    containerd.ctr(&["tasks", "rm", "--force", "a"]).ok();
    containerd.ctr(&["sandboxes", "rm", "pod"]).ok();
    eventually("the shim has left", || !Containerd::lives(shim));
    std::thread::sleep(Duration::from_millis(50));
}
