//! The command `longshore-runtime` in runc's place: under the distribution's podman, under a real containerd with its own
//! shim (Debian's, or the one in `LONGSHORE_CONTAINERD_HEAD`), and under dockerd on that containerd.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use longshore_tests::containerd::RUNC;
use longshore_tests::daemon::{Output, eventually, program, run};
use longshore_tests::docker::{Dockerd, Networks};
use longshore_tests::pty::Terminal;
use longshore_tests::registry::Registry;
use longshore_tests::{Containerd, image, leaks};

fn runtime() -> String {
    program("longshore-runtime").display().to_string()
}

/// A control file of the only container that runs below a parent.
fn control(parent: &str, controller: &str, file: &str) -> String {
    let folder = Path::new("/sys/fs/cgroup").join(controller).join(parent);
    let children = fs::read_dir(&folder).expect("the parent cgroup").flatten().map(|entry| entry.path());
    let runs = |group: &PathBuf| {
        let procs = fs::read_to_string(group.join("cgroup.procs"));
        // podman's own processes are in a cgroup beside the containers'.
        !group.ends_with("conmon") && procs.is_ok_and(|text| !text.is_empty())
    };
    let found: Vec<PathBuf> = children.filter(runs).map(|group| group.join(file)).collect();
    assert_eq!(found.len(), 1, "one container in {folder:?}");
    fs::read_to_string(&found[0]).expect("a control file").trim().to_owned()
}

/// Whether the host has a v1 hierarchy for memory, in which the tests look for limits.
fn has_v1_memory() -> bool {
    Path::new("/sys/fs/cgroup/memory/cgroup.procs").exists()
}

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// podman with everything in a folder of its own.
struct Podman {
    folder: tempfile::TempDir,
    cgroup_parent: String,
}

/// Low limits: a host without CAP_SYS_RESOURCE refuses podman's own.
const CONFIG: &str = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
    [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";

impl Podman {
    /// With busybox.
    fn new() -> Podman {
        let folder = tempfile::Builder::new().prefix(leaks::PREFIX).tempdir().expect("a folder");
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let cgroup_parent = format!("{}{}-podman{number}", leaks::PREFIX, std::process::id());
        let podman = Podman { folder, cgroup_parent };
        fs::write(podman.path("containers.conf"), CONFIG).expect("a file");
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = {:?}\nrunroot = {:?}\n",
            podman.path("root"),
            podman.path("run")
        );
        fs::write(podman.path("storage.conf"), storage).expect("a file");
        // By a script, as podman tells --runtime-flag to some of its calls only.
        let script = format!("#!/bin/sh\nexec {} --root {:?} \"$@\"\n", runtime(), podman.path("state"));
        fs::write(podman.path("longshore-runtime"), script).expect("a file");
        fs::set_permissions(podman.path("longshore-runtime"), fs::Permissions::from_mode(0o755))
            .expect("a mode");
        let archive = podman.path("busybox.tar");
        fs::write(&archive, image::busybox_layer().expect("busybox").bytes()).expect("a file");
        podman.podman(&["import", "-q", &archive.display().to_string(), "busybox"]).ok();
        podman
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("podman");
        command
            .env("CONTAINERS_CONF", self.path("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.path("storage.conf"))
            .env(leaks::MARK, "1")
            .arg("--root")
            .arg(self.path("root"))
            .arg("--runroot")
            .arg(self.path("run"))
            .arg("--tmpdir")
            .arg(self.path("tmp"))
            .args(["--cgroup-manager=cgroupfs", "--runtime"])
            .arg(self.path("longshore-runtime"))
            .args(args);
        command
    }

    #[track_caller]
    fn podman(&self, args: &[&str]) -> Output {
        run(&mut self.command(args)).expect("podman runs")
    }

    fn words<'a>(&'a self, parent: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        ["run", "--network", "none", "--cgroup-parent", parent]
            .into_iter()
            .chain(more.iter().copied())
            .collect()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = run(&mut self.command(&["rm", "-f", "-t", "0", "-a"]));
        // podman itself leaves the cgroups of its conmon.
        let theirs = |left: &String| left.ends_with("/conmon") || left.ends_with(&self.cgroup_parent);
        let left = leaks::sweep(self.folder.path(), &self.cgroup_parent, &[]);
        let left: Vec<String> = left.into_iter().filter(|left| !theirs(left)).collect();
        assert!(left.is_empty() || std::thread::panicking(), "left behind: {left:#?}");
    }
}

#[test]
#[cfg_attr(not(have_podman), ignore = "needs podman")]
fn podman_drives_a_container_to_its_end() {
    let podman = Podman::new();
    let parent = format!("/{}", podman.cgroup_parent);
    let run = |more: &[&str]| podman.podman(&podman.words(&parent, more));
    let output = run(&["--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (3, "out\n", "err\n"));
    let output = run(&["--rm", "busybox", "nosuch"]);
    assert_eq!(output.code, 127, "{output:?}");
    let output = run(&["--rm", "busybox", "/etc"]);
    assert_eq!(output.code, 126, "{output:?}");
    run(&["-d", "--name", "one", "--memory", "64m", "--pids-limit", "50", "busybox", "sleep", "1000"]).ok();
    if has_v1_memory() {
        assert_eq!(control(&podman.cgroup_parent, "memory", "memory.limit_in_bytes"), "67108864");
        podman.podman(&["update", "--memory", "80m", "one"]).ok();
        assert_eq!(control(&podman.cgroup_parent, "memory", "memory.limit_in_bytes"), "83886080");
    }
    assert_eq!(podman.podman(&["exec", "one", "sh", "-c", "exit 9"]).code, 9);
    assert_eq!(podman.podman(&["exec", "one", "nosuch"]).code, 127);
    let output = podman.podman(&[
        "exec",
        "-u",
        "5",
        "-w",
        "/tmp",
        "-e",
        "X=1",
        "one",
        "sh",
        "-c",
        "id -u; pwd; echo $X",
    ]);
    assert_eq!(output.ok().stdout, "5\n/tmp\n1\n");
    podman.podman(&["pause", "one"]).ok();
    assert_eq!(podman.podman(&["inspect", "-f", "{{.State.Status}}", "one"]).ok().line(), "paused");
    podman.podman(&["unpause", "one"]).ok();
    podman.podman(&["kill", "one"]).ok();
    assert_eq!(podman.podman(&["wait", "one"]).ok().line(), "137");
    podman.podman(&["start", "one"]).ok();
    podman.podman(&["rm", "-f", "-t", "0", "one"]).ok();
}

#[test]
#[cfg_attr(not(have_podman), ignore = "needs podman")]
fn podman_gives_a_terminal() {
    let podman = Podman::new();
    let parent = format!("/{}", podman.cgroup_parent);
    let words = podman.words(&parent, &["-it", "--rm", "busybox", "sh"]);
    talk(podman.command(&words));
}

/// Types at a shell in a container whose terminal has 100 columns.
fn talk(command: Command) {
    let mut terminal = Terminal::spawn(command, 100, 30).expect("a terminal");
    // Callers tell the size a moment after the start.
    terminal.send("until [ \"$(stty size 2>&1)\" = '30 100' ]; do sleep 0.1; done; tty; echo $((40 + 2))\n");
    terminal.expect("/dev/pts/0");
    terminal.expect("42");
    terminal.send("exit 7\n");
    assert_eq!(terminal.wait(), 7, "{:?}", terminal.shown());
}

#[test]
#[cfg_attr(
    not(all(have_containerd, have_containerd_shim_runc_v2, have_ctr)),
    ignore = "needs containerd with its ctr and shim"
)]
fn containerd_drives_a_container_to_its_end() {
    let containerd = Containerd::with_its_own_shim();
    let registry = Registry::start().expect("a registry");
    let busybox = containerd.pull_busybox(&registry).expect("busybox");
    let binary = runtime();
    let ours = ["--runc-binary", binary.as_str()];
    let with = |more: &[&'static str]| -> Vec<String> {
        ours.iter().map(|word| (*word).to_owned()).chain(more.iter().map(|word| (*word).to_owned())).collect()
    };
    let run = |id: &str, more: &[&'static str], words: &[&str]| {
        let flags = with(more);
        containerd.run(RUNC, id, &flags.iter().map(String::as_str).collect::<Vec<_>>(), &busybox, words)
    };
    let output = run("short", &["--rm"], &["sh", "-c", "echo out; exit 6"]);
    assert_eq!((output.code, output.stdout.as_str()), (6, "out\n"), "{output:?}");
    let output = run("none", &["--rm"], &["nosuch"]);
    assert!(output.stderr.contains("executable file not found in $PATH"), "{output:?}");
    run("one", &["-d", "--memory-limit", "67108864"], &["sleep", "1000"]).ok();
    if has_v1_memory() {
        assert_eq!(control(containerd.cgroup_parent(), "memory", "memory.limit_in_bytes"), "67108864");
    }
    assert_eq!(containerd.exec("one", "e1", &["sh", "-c", "exit 9"]).code, 9);
    let output = containerd.exec("one", "e2", &["nosuch"]);
    assert!(output.stderr.contains("executable file not found in $PATH"), "{output:?}");
    assert!(containerd.ctr(&["tasks", "ps", "one"]).ok().stdout.lines().count() >= 2);
    containerd.ctr(&["tasks", "metrics", "one"]).ok();
    containerd.ctr(&["tasks", "pause", "one"]).ok();
    assert_eq!(containerd.status("one"), "PAUSED");
    containerd.ctr(&["tasks", "resume", "one"]).ok();
    containerd.ctr(&["tasks", "kill", "-s", "SIGKILL", "one"]).ok();
    eventually("the task has stopped", || containerd.status("one") == "STOPPED");
    containerd.ctr(&["tasks", "rm", "one"]);
    containerd.ctr(&["containers", "rm", "one"]).ok();
    let flags = with(&["--rm", "-t"]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    talk(containerd.run_command(RUNC, "talk", &flags, &busybox, &["sh"]));
}

#[test]
#[cfg_attr(
    not(all(have_dockerd, have_containerd, have_containerd_shim_runc_v2)),
    ignore = "needs dockerd and containerd with its shim"
)]
fn dockerd_drives_a_container_to_its_end() {
    let containerd = Containerd::with_its_own_shim();
    let added = format!("--add-runtime=ours={}", runtime());
    let docker = Dockerd::start_on(&containerd, Networks::None, &[&added, "--default-runtime=ours"])
        .expect("dockerd starts");
    let archive = containerd.path().join("busybox.tar");
    fs::write(&archive, image::busybox_layer().expect("busybox").bytes()).expect("a file");
    docker.docker(&["import", &archive.display().to_string(), "busybox"]).ok();
    let output = docker.docker(&["run", "--rm", "busybox", "sh", "-c", "echo out; exit 6"]);
    assert_eq!((output.code, output.stdout.as_str()), (6, "out\n"), "{output:?}");
    assert_eq!(docker.docker(&["run", "--rm", "busybox", "nosuch"]).code, 127);
    assert_eq!(docker.docker(&["run", "--rm", "busybox", "/etc"]).code, 126);
    docker
        .docker(&[
            "run",
            "-d",
            "--name",
            "one",
            "-m",
            "64m",
            "--pids-limit",
            "50",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    assert_eq!(docker.docker(&["inspect", "-f", "{{.HostConfig.Runtime}}", "one"]).ok().line(), "ours");
    if has_v1_memory() {
        assert_eq!(control(containerd.cgroup_parent(), "memory", "memory.limit_in_bytes"), "67108864");
    }
    docker.docker(&["update", "-m", "80m", "--memory-swap", "-1", "one"]).ok();
    if has_v1_memory() {
        assert_eq!(control(containerd.cgroup_parent(), "memory", "memory.limit_in_bytes"), "83886080");
    }
    assert_eq!(docker.docker(&["exec", "one", "sh", "-c", "exit 9"]).code, 9);
    // What dockerd makes of any runtime's "executable file not found in $PATH" differs by its edition.
    assert!(matches!(docker.docker(&["exec", "one", "nosuch"]).code, 126 | 127));
    assert!(docker.docker(&["top", "one"]).ok().stdout.contains("sleep 1000"));
    docker.docker(&["pause", "one"]).ok();
    assert_eq!(docker.docker(&["inspect", "-f", "{{.State.Status}}", "one"]).ok().line(), "paused");
    docker.docker(&["unpause", "one"]).ok();
    docker.docker(&["kill", "one"]).ok();
    assert_eq!(docker.docker(&["wait", "one"]).ok().line(), "137");
    docker.docker(&["rm", "one"]).ok();
    talk(docker.client("docker", &["run", "-it", "--rm", "busybox", "sh"]));
}
