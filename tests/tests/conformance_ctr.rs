//! Debian's `ctr`, unmodified, against our socket.
#![cfg_attr(not(have_ctr), allow(dead_code, unused_imports))]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use longshore_tests::Fixture;
use longshore_tests::ctr::{self, Ctr, PushRegistry};
use longshore_tests::daemon::eventually;

fn pulled() -> Fixture {
    let fixture = Fixture::new();
    fixture.daemon.ctr(&["images", "pull", "--plain-http", &fixture.busybox]).ok();
    fixture
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn version_namespaces_and_plugins_are_answered() {
    let Fixture { daemon, .. } = &Fixture::new();
    assert!(daemon.ctr(&["version"]).ok().stdout.contains("Server:"));
    daemon.ctr(&["namespaces", "create", "blue", "colour=blue"]).ok();
    assert!(daemon.ctr(&["namespaces", "ls"]).ok().stdout.contains("colour=blue"));
    daemon.ctr(&["namespaces", "label", "blue", "colour=navy"]).ok();
    assert!(daemon.ctr(&["namespaces", "ls"]).ok().stdout.contains("colour=navy"));
    daemon.ctr(&["namespaces", "create", "blue"]).expect(1);
    daemon.ctr(&["namespaces", "rm", "blue"]).ok();
    assert!(!daemon.ctr(&["namespaces", "ls", "-q"]).ok().stdout.contains("blue"));
    let plugins = daemon.ctr(&["plugins", "ls"]).ok().stdout;
    assert!(plugins.contains("io.containerd.snapshotter.v1") && plugins.contains("overlayfs"), "{plugins}");
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn images_are_pulled_listed_exported_imported_mounted_and_removed() {
    let Fixture { daemon, busybox, .. } = &pulled();
    let listed = daemon.ctr(&["images", "ls"]).ok().stdout;
    assert!(listed.contains(busybox.as_str()) && listed.contains("linux/amd64"), "{listed}");
    let checked = daemon.ctr(&["images", "check"]).ok().stdout;
    assert!(checked.contains("complete (2/2)") && checked.contains("true"), "{checked}");

    let archive = daemon.path().join("busybox.tar").display().to_string();
    daemon.ctr(&["images", "export", &archive, busybox]).ok();
    daemon.ctr(&["images", "rm", "--sync", busybox]).ok();
    assert_eq!(daemon.ctr(&["content", "ls", "-q"]).ok().line(), "", "nothing refers to the blobs any more");
    daemon.ctr(&["images", "import", &archive]).ok();
    assert!(daemon.ctr(&["images", "ls", "-q"]).ok().stdout.contains(busybox.as_str()));

    let target = daemon.path().join("mnt");
    fs::create_dir(&target).expect("a folder");
    let target = target.display().to_string();
    daemon.ctr(&["images", "mount", busybox, &target]).ok();
    assert!(fs::exists(format!("{target}/bin/busybox")).expect("a look"), "the image is mounted");
    daemon.ctr(&["images", "unmount", "--rm", &target]).ok();
    daemon.ctr(&["images", "tag", busybox, "example.com/again:1"]).ok();
    assert!(daemon.ctr(&["images", "ls", "-q"]).ok().stdout.contains("example.com/again:1"));
    daemon.ctr(&["images", "label", busybox, "kind=test"]).ok();
    assert!(daemon.ctr(&["images", "ls", "labels.kind==test"]).ok().stdout.contains(busybox.as_str()));
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn content_snapshots_and_leases_can_be_handled_alone() {
    let Fixture { daemon, .. } = &pulled();
    let digests = daemon.ctr(&["content", "ls", "-q"]).ok().stdout;
    assert_eq!(digests.lines().count(), 3, "manifest, config and layer: {digests}");
    let texts: Vec<String> =
        digests.lines().map(|digest| daemon.ctr(&["content", "get", digest]).ok().stdout).collect();
    assert!(
        texts.iter().any(|text| text.contains("\"layers\""))
            && texts.iter().any(|text| text.contains("diff_ids"))
    );
    let first = digests.lines().next().expect("a digest");
    daemon.ctr(&["content", "label", first, "mine=yes"]).ok();
    assert!(daemon.ctr(&["content", "ls", "labels.mine==yes", "-q"]).ok().stdout.contains(first));

    let snapshots = daemon.ctr(&["snapshots", "ls"]).ok().stdout;
    assert!(snapshots.contains("Committed"), "{snapshots}");
    let chain = snapshots
        .lines()
        .nth(1)
        .and_then(|line| line.split_whitespace().next())
        .expect("a snapshot")
        .to_owned();
    assert!(daemon.ctr(&["snapshots", "tree"]).ok().stdout.contains(&chain));
    assert!(daemon.ctr(&["snapshots", "usage"]).ok().stdout.contains("MiB"));
    assert!(daemon.ctr(&["snapshots", "info", &chain]).ok().stdout.contains("\"Kind\": \"Committed\""));
    daemon.ctr(&["snapshots", "prepare", "mine", &chain]).ok();
    assert!(daemon.ctr(&["snapshots", "mounts", "/x", "mine"]).ok().stdout.contains("lowerdir="));
    daemon.ctr(&["snapshots", "rm", &chain]).expect(1);
    daemon.ctr(&["snapshots", "commit", "kept", "mine"]).ok();
    daemon.ctr(&["snapshots", "view", "look", "kept"]).ok();
    // ctr holds a view by nothing: a collection that comes in between takes it, as with containerd.
    let gone = daemon.ctr(&["snapshots", "rm", "look"]);
    assert!(gone.code == 0 || gone.stderr.contains("not found"), "{gone:?}");
    daemon.ctr(&["snapshots", "rm", "kept"]).ok();

    daemon.ctr(&["leases", "create", "--id", "mine", "--expires", "1h", "a=b"]).ok();
    assert!(daemon.ctr(&["leases", "ls"]).ok().stdout.contains("mine"));
    daemon.ctr(&["leases", "rm", "--sync", "mine"]).ok();
    assert!(!daemon.ctr(&["leases", "ls", "-q"]).ok().stdout.contains("mine"));
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn a_container_runs_in_the_foreground() {
    let Fixture { daemon, busybox, .. } = &pulled();
    let output = daemon.ctr(&["run", "--rm", busybox, "one", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((output.code, output.stdout.as_str()), (7, "out\n"), "{output:?}");
    assert!(output.stderr.contains("err"), "{output:?}");
    assert_eq!(daemon.ctr(&["containers", "ls", "-q"]).ok().line(), "");
    let output = daemon.ctr(&[
        "run",
        "--rm",
        "--memory-limit",
        "33554432",
        "--env",
        "A=b",
        "--cwd",
        "/tmp",
        busybox,
        "two",
        "sh",
        "-c",
        "pwd; echo $A",
    ]);
    assert_eq!(output.ok().stdout, "/tmp\nb\n");
    let output = daemon.ctr(&["run", "--rm", "--snapshotter", "native", busybox, "three", "echo", "native"]);
    assert_eq!(output.ok().stdout, "native\n", "unpacked on demand for the other snapshotter");
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn a_detached_task_is_driven_to_its_end() {
    let Fixture { daemon, busybox, .. } = &pulled();
    daemon
        .ctr(&["run", "-d", busybox, "web", "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done"])
        .ok();
    let tasks = daemon.ctr(&["tasks", "ls"]).ok().stdout;
    assert!(tasks.contains("web") && tasks.contains("RUNNING"), "{tasks}");
    assert!(daemon.ctr(&["containers", "ls"]).ok().stdout.contains("web"));
    assert!(daemon.ctr(&["containers", "info", "web"]).ok().stdout.contains("io.containerd.runc.v2"));
    let executed =
        daemon.ctr(&["tasks", "exec", "--exec-id", "x1", "web", "sh", "-c", "echo inside; exit 9"]);
    assert_eq!((executed.code, executed.stdout.as_str()), (9, "inside\n"), "{executed:?}");
    assert!(daemon.ctr(&["tasks", "ps", "web"]).ok().stdout.lines().count() >= 2);
    assert!(daemon.ctr(&["tasks", "metrics", "web"]).ok().stdout.contains("memory"));
    daemon.ctr(&["tasks", "pause", "web"]).ok();
    assert!(daemon.ctr(&["tasks", "ls"]).ok().stdout.contains("PAUSED"));
    daemon.ctr(&["tasks", "resume", "web"]).ok();
    daemon.ctr(&["tasks", "rm", "web"]).expect(1);
    daemon.ctr(&["tasks", "kill", "-s", "SIGTERM", "web"]).ok();
    eventually("the task stops", || daemon.ctr(&["tasks", "ls"]).ok().stdout.contains("STOPPED"));
    let removed = daemon.ctr(&["tasks", "rm", "web"]);
    assert!(removed.stderr.contains("exit code 5"), "the task's exit code is told: {removed:?}");
    daemon.ctr(&["containers", "rm", "web"]).ok();
    assert_eq!(daemon.ctr(&["snapshots", "ls"]).ok().stdout.matches("Active").count(), 0);
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn events_come_in_order() {
    let Fixture { daemon, busybox, .. } = &pulled();
    let mut watcher = std::process::Command::new("ctr")
        .arg("--address")
        .arg(daemon.socket())
        .arg("events")
        .stdout(Stdio::piped())
        .spawn()
        .expect("ctr starts");
    let stdout = watcher.stdout.take().expect("stdout is piped");
    std::thread::sleep(std::time::Duration::from_millis(500));
    daemon.ctr(&["run", "--rm", busybox, "seen", "true"]).ok();
    let mut topics = Vec::new();
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        topics.extend(line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned));
        if topics.last().is_some_and(|topic| topic == "/containers/delete") {
            break;
        }
    }
    watcher.kill().expect("ctr is ours to end");
    watcher.wait().expect("ctr ends");
    let tasks: Vec<_> =
        topics.iter().filter(|topic| topic.starts_with("/tasks/")).map(String::as_str).collect();
    assert_eq!(tasks, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"], "{topics:?}");
    assert!(
        topics.iter().any(|topic| topic == "/snapshot/prepare")
            && topics.iter().any(|topic| topic == "/containers/create")
    );
}

#[test]
#[cfg_attr(
    not(all(have_ctr, have_docker_registry, have_htpasswd, have_skopeo)),
    ignore = "needs ctr, docker-registry, htpasswd and skopeo"
)]
fn a_real_registry_with_basic_authentication_is_pulled_from() {
    let Fixture { daemon, registry, .. } = &Fixture::new();
    let folder = daemon.path().join("registry");
    fs::create_dir_all(&folder).expect("a folder");
    let passwords = folder.join("htpasswd");
    let made =
        std::process::Command::new("htpasswd").args(["-Bbc"]).arg(&passwords).args(["me", "secret"]).output();
    assert!(made.expect("htpasswd runs").status.success());
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let config = folder.join("config.yml");
    fs::write(
        &config,
        format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {0}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\nauth: {{htpasswd: {{realm: tests, path: {1}}}}}\n",
            folder.display(),
            passwords.display()
        ),
    )
    .expect("a file");
    let mut server = std::process::Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker-registry starts");
    eventually("the registry listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let source = format!("docker://{}", registry.reference("library/busybox:latest"));
    let target = format!("docker://127.0.0.1:{port}/private/busybox:1");
    let copied = std::process::Command::new("skopeo")
        .args([
            "copy",
            "-q",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            "--dest-creds",
            "me:secret",
            &source,
            &target,
        ])
        .output()
        .expect("skopeo runs");
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let reference = format!("127.0.0.1:{port}/private/busybox:1");
    daemon.ctr(&["images", "pull", "--plain-http", &reference]).expect(1);
    daemon.ctr(&["images", "pull", "--plain-http", "--user", "me:secret", &reference]).ok();
    assert_eq!(daemon.ctr(&["run", "--rm", &reference, "real", "echo", "real"]).ok().stdout, "real\n");
    server.kill().expect("the registry is ours to end");
    server.wait().expect("the registry ends");
}

fn ctr() -> Ctr {
    Ctr::pulled("ctr", &[])
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn run_takes_every_option() {
    ctr::runs_with_every_option(&ctr());
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn a_task_is_driven_step_by_step() {
    ctr::drives_a_task(&ctr());
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn content_is_written_edited_fetched_and_pruned() {
    ctr::handles_content(&ctr());
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn snapshots_are_mounted_compared_and_unpacked() {
    ctr::handles_snapshots(&ctr());
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn leases_namespaces_events_and_refusals() {
    ctr::handles_the_rest(&ctr());
}

#[test]
#[cfg_attr(not(all(have_ctr, have_docker_registry)), ignore = "needs ctr and docker-registry")]
fn images_are_pushed() {
    let ctr = ctr();
    let registry = PushRegistry::start(&ctr);
    let pushed = format!("{}/pushed/busybox:1", registry.address);
    ctr.run(&["images", "push", "--plain-http", &pushed, &ctr.fixture.busybox]).ok();
    ctr.run(&["images", "pull", "--plain-http", &pushed]).ok();
    let target = format!("{}/pushed/busybox:blob", registry.address);
    let digest =
        ctr.run(&["content", "ls", "-q"]).ok().stdout.lines().next().map(str::to_owned).expect("a blob");
    let kind = "application/octet-stream";
    ctr.run(&["content", "push-object", "--plain-http", &target, &digest, kind]).ok();
    ctr.run(&["images", "push", "--plain-http", &format!("{}/p/x:1", registry.address), "absent:1"])
        .expect(1);
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn a_namespaces_labels_say_what_is_taken_by_default() {
    let Fixture { daemon, busybox, .. } = &Fixture::new();
    let label = |value: &str| {
        let set = format!("containerd.io/defaults/{value}");
        daemon.ctr(&["namespaces", "label", "default", &set]).ok();
    };
    daemon.ctr(&["namespaces", "create", "default", "containerd.io/defaults/snapshotter=native"]).ok();
    daemon.ctl(&["pull", "-q", busybox]).ok();
    let layers = || daemon.ctr(&["snapshots", "--snapshotter", "native", "ls"]).ok().stdout;
    assert!(layers().contains("Committed"), "{}", layers());
    daemon.ctl(&["run", "--name", "kept", busybox, "sh", "-c", "echo mine > /mine"]).ok();
    assert!(daemon.ctr(&["containers", "ls"]).ok().stdout.contains("io.containerd.longshore.v1"));

    // What was made with one snapshotter stays with it.
    label("snapshotter=");
    daemon.ctl(&["start", "-a", "kept"]).ok();
    assert!(layers().contains("Active"), "{}", layers());
    daemon.ctl(&["run", "--rm", busybox, "true"]).ok();
    assert!(daemon.ctr(&["snapshots", "ls"]).ok().stdout.contains("Committed"), "overlayfs again");
    daemon.ctl(&["rm", "kept"]).ok();
    assert!(!layers().contains("Active"), "{}", layers());

    label("runtime=io.containerd.runc.v2");
    daemon.ctl(&["create", "--name", "named", busybox, "true"]).ok();
    assert!(daemon.ctr(&["containers", "ls"]).ok().stdout.contains("io.containerd.runc.v2"));
    label("runtime=io.containerd.other.v1");
    let refused = daemon.ctl(&["run", "--rm", busybox, "true"]);
    assert!(refused.code != 0 && refused.stderr.contains("io.containerd.other.v1"), "{refused:?}");
}
