//! The engine's semantics as a user of docker would check them, and what it must be immune to.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use longshore_tests::daemon::{eventually, finish};
use longshore_tests::{Daemon, Fixture, image};
use serde_json::json;

fn names(daemon: &Daemon, arguments: &[&str]) -> Vec<String> {
    let mut command = vec!["ps", "-a", "--format", "{{.Names}} {{.Status}}"];
    command.extend(arguments);
    daemon.ctl(&command).ok().stdout.lines().map(str::to_owned).collect()
}

fn status(daemon: &Daemon, name: &str) -> String {
    daemon.ctl(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name]).ok().line().to_owned()
}

#[test]
fn the_daemon_dies_and_every_container_keeps_its_state() {
    let mut f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&["run", "-d", "--name", "keeps", &f.busybox, "sleep", "1000"]).ok();
    d.ctl(&["run", "-d", "--name", "ends", &f.busybox, "sh", "-c", "sleep 1; exit 42"]).ok();
    d.ctl(&["run", "-d", "--rm", "--name", "goes", &f.busybox, "sh", "-c", "sleep 1; exit 43"]).ok();
    d.ctl(&["run", "-d", "--name", "frozen", &f.busybox, "sleep", "1000"]).ok();
    d.ctl(&["pause", "frozen"]).ok();
    d.ctl(&["create", "--name", "waits", &f.busybox, "echo", "later"]).ok();
    let attached = d.ctl_command(&["run", "--name", "attached", &f.busybox, "sh", "-c", "sleep 1; exit 9"]);
    let client = { attached }.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a client");
    eventually("the attached container runs", || {
        names(d, &[]).iter().any(|line| line.starts_with("attached Up"))
    });

    f.daemon.kill();
    finish(client).expect("the client ends").expect(125);
    std::thread::sleep(Duration::from_millis(1500));
    f.daemon.launch().expect("the daemon starts again");

    let d = &f.daemon;
    assert_eq!(status(d, "ends"), "exited 42");
    assert_eq!(status(d, "attached"), "exited 9");
    assert_eq!(status(d, "waits"), "created 0");
    assert_eq!(status(d, "frozen"), "paused 0");
    assert_eq!(status(d, "keeps"), "running 0");
    assert!(
        !names(d, &[]).iter().any(|line| line.starts_with("goes")),
        "removed by the daemon that came back"
    );
    assert_eq!(d.ctl(&["start", "-a", "waits"]).ok().stdout, "later\n");
    d.ctl(&["unpause", "frozen"]).ok();
    d.ctl(&["exec", "keeps", "true"]).ok();
    d.ctl(&["rm", "-f", "keeps", "frozen", "ends", "attached", "waits"]).ok();
}

#[test]
fn several_clients_attach_and_a_detached_containers_stdin_stays_open() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let script = "while read line; do echo got $line; done";
    d.ctl(&["run", "-di", "--name", "reader", &f.busybox, "sh", "-c", script]).ok();
    let listener = d
        .ctl_command(&["attach", "--no-stdin", "reader"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a listener");
    std::thread::sleep(Duration::from_millis(300));
    for line in ["one\n", "two\n"] {
        let mut writer = d
            .ctl_command(&["attach", "reader"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("a writer");
        writer.stdin.take().expect("a pipe").write_all(line.as_bytes()).expect("written");
        eventually("the line is read", || d.ctl(&["logs", "reader"]).stdout.contains(line.trim()));
        writer.kill().expect("the writer is killed");
        writer.wait().expect("the writer ends");
    }
    assert_eq!(status(d, "reader"), "running 0", "its stdin stayed open");
    d.ctl(&["stop", "-t", "0", "reader"]).ok();
    assert_eq!(finish(listener).expect("the listener ends").stdout, "got one\ngot two\n");
}

#[test]
fn exec_knows_its_user_environment_folder_and_exit_code() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&["run", "-d", "--name", "cc", "-e", "FROM=container", &f.busybox, "sleep", "1000"]).ok();
    d.ctl(&["exec", "cc", "sh", "-c", "exit 7"]).expect(7);
    d.ctl(&["exec", "cc", "sh", "-c", "kill -9 $$"]).expect(137);
    let missing = d.ctl(&["exec", "cc", "no-such-program"]).expect(127);
    assert!(missing.stderr.contains("executable file not found in $PATH"), "{}", missing.stderr);
    d.ctl(&["exec", "cc", "/etc/passwd"]).expect(126);
    let said = d.ctl(&["exec", "-e", "MORE=x", "-w", "/etc", "cc", "sh", "-c", "echo $FROM $MORE $PWD"]).ok();
    assert_eq!(said.line(), "container x /etc");
    let id = d.ctl(&["exec", "-u", "1:0", "cc", "id", "-u"]).ok();
    assert_eq!(id.line(), "1", "CVE-2026-30892: not 0");
    let capabilities = d.ctl(&["exec", "cc", "grep", "-E", "CapInh|CapEff", "/proc/self/status"]).ok();
    assert!(
        capabilities.stdout.contains("CapInh:\t0000000000000000"),
        "CVE-2022-24769: {}",
        capabilities.stdout
    );
    assert!(
        capabilities.stdout.contains("CapEff:\t00000000a80425fb"),
        "docker's fourteen: {}",
        capabilities.stdout
    );
    d.ctl(&["exec", "-d", "cc", "sh", "-c", "echo done > /tmp/done"]).ok();
    eventually("the detached exec has run", || d.ctl(&["exec", "cc", "cat", "/tmp/done"]).stdout == "done\n");
    d.ctl(&["pause", "cc"]).ok();
    let paused = d.ctl(&["exec", "cc", "true"]).expect(1);
    assert!(paused.stderr.contains("is paused, unpause the container before exec"), "{}", paused.stderr);
    d.ctl(&["unpause", "cc"]).ok();
    d.ctl(&["stop", "-t", "0", "cc"]).ok();
    let stopped = d.ctl(&["exec", "cc", "true"]).expect(1);
    assert!(stopped.stderr.contains("is not running"), "{}", stopped.stderr);
}

#[test]
fn hostile_users_of_images_are_refused_and_nothing_is_left() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let build = |name: &str, layer: image::Layer, user: &str| {
        let image = image::busybox().expect("busybox").layer(layer).config("User", json!(user));
        f.registry.put(name, "1", &image.build().expect("an image"));
        f.registry.reference(&format!("{name}:1"))
    };
    let huge = vec![b'x'; 11 << 20];
    let cases = [
        (build("overflow", image::Layer::new(), "4294967296"), "must be in range 0-2147483647"),
        (build("negative", image::Layer::new(), "-1"), "unable to find user -1"),
        (build("huge", image::Layer::new().file("etc/passwd", 0o644, &huge), "web"), "larger than 10 MiB"),
        (
            build(
                "fifo",
                image::Layer::new().raw("etc/passwd", tar::EntryType::Fifo, 0o644, (0, 0), "", b""),
                "web",
            ),
            "is not a regular file",
        ),
        (
            build(
                "number",
                image::Layer::new().file("etc/passwd", 0o644, b"1000:x:0:0::/:\n"),
                "1000:nogroup",
            ),
            "unable to find group nogroup",
        ),
    ];
    for (reference, why) in &cases {
        let refused = d.ctl(&["run", "--rm", reference, "id"]).expect(125);
        assert!(refused.stderr.contains(why), "{reference}: {}", refused.stderr);
    }
    let link = image::Layer::new().symlink("etc/passwd", "/proc/self/root/etc/shadow");
    let escaping = build("escape", link, "root");
    d.ctl(&["run", "--rm", &escaping, "id"]).expect(125);
    let named = build("named", image::Layer::new().file("etc/passwd", 0o644, b"1000:x:0:0::/:\n"), "1000");
    assert_eq!(
        d.ctl(&["run", "--rm", &named, "id", "-u"]).ok().line(),
        "1000",
        "CVE-2026-46680: a number is no name"
    );
    let groups = d.ctl(&["run", "--rm", "-u", "12:34", &f.busybox, "id", "-G"]).ok();
    assert_eq!(groups.line(), "34", "CVE-2022-36109");
    assert!(names(d, &[]).is_empty());
}

#[test]
fn cve_2022_23648_a_volume_of_an_image_stays_in_the_container() {
    let f = Fixture::pulled();
    let volumes = json!({"/../../../longshore-escape": {}, "/data": {}});
    let image = image::busybox().expect("busybox").config("Volumes", volumes);
    f.registry.put("volumes", "1", &image.build().expect("an image"));
    let reference = f.registry.reference("volumes:1");
    f.daemon.ctl(&["run", "--rm", &reference, "ls", "-d", "/data", "/longshore-escape"]).ok();
    assert!(!std::path::Path::new("/longshore-escape").exists());
}

#[test]
fn names_prefixes_and_conflicts() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let id = d.ctl(&["create", "--name", "one", &f.busybox, "true"]).ok().line().to_owned();
    assert_eq!(id.len(), 64);
    let taken = d.ctl(&["create", "--name", "one", &f.busybox, "true"]).expect(1);
    let text = format!("Conflict. The container name \"/one\" is already in use by container \"{id}\".");
    assert!(taken.stderr.contains(&text), "{}", taken.stderr);
    assert_eq!(d.ctl(&["inspect", "--format", "{{.Name}}", &id[..6]]).ok().line(), "/one");
    d.ctl(&["rename", "one", "two"]).ok();
    d.ctl(&["inspect", "one"]).expect(1);
    d.ctl(&["create", "--name", "one", &f.busybox, "true"]).ok();
    let taken = d.ctl(&["rename", "two", "one"]).expect(1);
    assert!(taken.stderr.contains("is already in use"), "{}", taken.stderr);
    let made_up = d.ctl(&["create", &f.busybox, "true"]).ok().line().to_owned();
    let name = d.ctl(&["inspect", "--format", "{{.Name}}", &made_up]).ok();
    assert!(name.line().contains('_'), "adjective_surname: {}", name.line());
    let unknown = d.ctl(&["start", "nobody"]).expect(1);
    assert!(unknown.stderr.contains("No such container: nobody"), "{}", unknown.stderr);
}

#[test]
fn removal_asks_first_and_prune_takes_what_stopped() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&["run", "-d", "--name", "runs", "--label", "keep=1", &f.busybox, "sleep", "1000"]).ok();
    d.ctl(&["run", "--name", "old", &f.busybox, "true"]).ok();
    d.ctl(&["run", "--name", "kept", "--label", "keep=1", &f.busybox, "true"]).ok();
    let refused = d.ctl(&["rm", "runs"]).expect(1);
    assert!(
        refused.stderr.contains("container is running: stop the container before removing"),
        "{}",
        refused.stderr
    );
    let pruned = d.ctl(&["container", "prune", "-f", "--filter", "label!=keep"]).ok();
    assert_eq!(pruned.stdout.lines().filter(|line| line.len() == 64).count(), 1, "{}", pruned.stdout);
    assert_eq!(names(d, &["--filter", "status=exited"]).len(), 1);
    let busy = d.ctl(&["rmi", &f.busybox]).expect(1);
    assert!(busy.stderr.contains("(must force) - container"), "{}", busy.stderr);
    let running = d.ctl(&["rmi", "-f", &f.busybox]).expect(1);
    assert!(
        running.stderr.contains("(cannot be forced) - image is being used by running container"),
        "{}",
        running.stderr
    );
    d.ctl(&["rm", "-f", "runs", "kept"]).ok();
    let removed = d.ctl(&["rmi", &f.busybox]).ok();
    assert!(
        removed.stdout.contains("Untagged: ") && removed.stdout.contains("Deleted: sha256:"),
        "{}",
        removed.stdout
    );
    assert_eq!(d.ctl(&["images", "-q"]).ok().line(), "");
}

#[test]
fn containers_of_the_engine_are_containers_of_containerd() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let id = d
        .ctl(&["run", "-d", "--name", "seen", "-l", "a=b", &f.busybox, "sleep", "1000"])
        .ok()
        .line()
        .to_owned();
    let listed = d.ctl(&["events", "--since", "1m", "--until", "1s", "--filter", "event=start"]);
    assert!(listed.stdout.is_empty() || listed.stdout.contains(&id), "{}", listed.stdout);
    let root = d.root().join("containers/default").join(&id);
    assert!(root.join("hostname").exists());
    d.ctl(&["rm", "-f", "seen"]).ok();
    assert!(!root.exists(), "its folder went with it");
}

#[test]
fn a_log_is_whole_across_rotations_and_counts_lines_from_the_end() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done";
    d.ctl(&[
        "run",
        "--name",
        "log",
        "--log-opt",
        "max-size=16k",
        "--log-opt",
        "max-file=50",
        &f.busybox,
        "sh",
        "-c",
        script,
    ])
    .ok();
    let all = d.ctl(&["logs", "log"]).ok();
    let want: String = (0..3000).map(|number| format!("line {number}\n")).collect();
    assert!(all.stdout == want, "{} of {} lines", all.stdout.lines().count(), 3000);
    let tail = d.ctl(&["logs", "-n", "700", "log"]).ok();
    assert_eq!(tail.stdout.lines().next(), Some("line 2300"));
    assert_eq!(tail.stdout.lines().count(), 700);
}

#[test]
fn a_container_that_is_removed_at_its_exit_outlives_a_daemon_killed_soon_after_its_start() {
    let mut f = Fixture::pulled();
    let mut child = f
        .daemon
        .ctl_command(&["run", "--rm", "--name", "young", &f.busybox, "sh", "-c", "echo up; exec sleep 1000"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("longshore starts");
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("stdout is piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
    assert_eq!(line, "up\n");
    std::thread::sleep(std::time::Duration::from_millis(250));
    f.daemon.kill();
    child.wait().expect("the client ends");
    f.daemon.launch().expect("the daemon starts again");
    assert_eq!(f.daemon.ctl(&["ps", "--format", "{{.Names}}"]).ok().line(), "young");
    f.daemon.ctl(&["kill", "young"]).ok();
    longshore_tests::daemon::eventually("it is removed at its exit", || {
        f.daemon.ctl(&["ps", "-a", "-q"]).ok().line().is_empty()
    });
}
