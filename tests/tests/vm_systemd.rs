//! The unit as it is installed, under a booted systemd; `make test-vm` runs these in such a machine.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use longshore_tests::daemon::{Output, eventually, program, run};
use longshore_tests::image;

const UNIT: &str = include_str!("../../supervisor/packaging/longshored.service.in");
const CONFIG: &str = include_str!("../../supervisor/packaging/config.toml");
const USERS: &str = include_str!("../../supervisor/packaging/longshore.sysusers");
const FOLDERS: &str = include_str!("../../supervisor/packaging/longshore.tmpfiles");

fn tool(name: &str, words: &[&str]) -> Output {
    run(Command::new(name).args(words)).expect("it runs")
}

/// `longshore …` with the daemon at its usual place.
fn longshore(words: &[&str]) -> Output {
    run(Command::new(program("longshore")).args(words)).expect("longshore runs")
}

fn main_pid() -> u32 {
    let shown = tool("systemctl", &["show", "-P", "MainPID", "longshored"]).ok();
    shown.line().parse().expect("a process id")
}

fn container_pid() -> u32 {
    let shown = longshore(&["inspect", "-f", "{{.State.Pid}}", "stays"]).ok();
    shown.line().parse().expect("a process id")
}

fn is_sleeping(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.starts_with(b"sleep\0"))
}

/// What `make install`, and the scripts of the package, leave on a host.
fn install() {
    let programs = program("longshored");
    let folder = programs.parent().expect("a folder").display().to_string();
    for (path, text) in [
        ("/etc/systemd/system/longshored.service", UNIT.replace("@BINDIR@", &folder)),
        ("/etc/longshore/config.toml", CONFIG.replace("#group = ", "group = ")),
        ("/etc/sysusers.d/longshore.conf", USERS.to_owned()),
        ("/etc/tmpfiles.d/longshore.conf", FOLDERS.to_owned()),
    ] {
        fs::create_dir_all(Path::new(path).parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    tool("systemd-sysusers", &["/etc/sysusers.d/longshore.conf"]).ok();
    tool("systemd-tmpfiles", &["--create", "/etc/tmpfiles.d/longshore.conf"]).ok();
    tool("systemctl", &["daemon-reload"]).ok();
}

#[test]
#[ignore = "needs a booted systemd: make test-vm"]
fn containers_outlive_their_daemons_unit() {
    install();
    tool("systemctl", &["enable", "longshored"]).ok();
    assert!(Path::new("/etc/systemd/system/multi-user.target.wants/longshored.service").exists());
    tool("systemctl", &["start", "longshored"]).ok();
    // What comes after the unit finds the socket answering, and its group may use it.
    assert!(longshore(&["version"]).ok().stdout.contains("Server:"));
    let group = fs::read_to_string("/etc/group").expect("groups");
    let group = group.lines().find_map(|line| line.strip_prefix("longshore:")).expect("our group");
    let socket = fs::metadata("/run/longshore/longshore.sock").expect("the socket");
    assert_eq!(group.split(':').nth(1), Some(socket.gid().to_string().as_str()));
    assert_eq!(socket.mode() & 0o777, 0o660);

    let layer = tempfile::NamedTempFile::new().expect("a file");
    fs::write(layer.path(), image::busybox_layer().expect("busybox").bytes()).expect("a file");
    longshore(&["import", "-c", "ENV PATH=/bin", &layer.path().display().to_string(), "busybox:1"]).ok();
    let script = "echo up; exec sleep 100000";
    let words = ["run", "-d", "--network", "none", "--restart", "always", "--name", "stays", "-m", "64m"];
    longshore(&[&words[..], &["busybox:1", "sh", "-c", script]].concat()).ok();
    let (pid, first) = (container_pid(), main_pid());
    eventually("the program runs", || is_sleeping(pid));
    let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroup");
    assert!(!group.contains("longshored.service"), "systemd ends what is in there: {group}");

    tool("systemctl", &["restart", "longshored"]).ok();
    let second = main_pid();
    assert_ne!(second, first);
    assert!(is_sleeping(pid) && container_pid() == pid);
    assert_eq!(longshore(&["exec", "stays", "echo", "within"]).ok().line(), "within");
    assert_eq!(longshore(&["logs", "stays"]).ok().line(), "up");

    // systemd starts a daemon again that was killed.
    tool("systemctl", &["kill", "-s", "KILL", "--kill-whom=main", "longshored"]).ok();
    eventually("another daemon answers", || {
        ![0, second].contains(&main_pid()) && longshore(&["version"]).code == 0
    });
    assert!(is_sleeping(pid) && container_pid() == pid);

    // Stopped, the unit has no process but the shims, which hold the containers.
    tool("systemctl", &["stop", "longshored"]).ok();
    assert_eq!(tool("systemctl", &["is-active", "longshored"]).line(), "inactive");
    assert!(is_sleeping(pid));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::SIGKILL)
        .expect("killed");
    tool("systemctl", &["start", "longshored"]).ok();
    eventually("its policy has started it again", || container_pid() > 0 && is_sleeping(container_pid()));
    assert_ne!(container_pid(), pid);
    longshore(&["rm", "-f", "stays"]).ok();
    tool("systemctl", &["disable", "--now", "longshored"]).ok();
}
