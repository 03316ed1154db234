//! Published races: an attacker swaps what a path leads to while containers are made. Two seconds each; with
//! `LONGSHORE_LONG=1` thirty.

use crate::bundle::{Bundle, files};
use longshore_runtime::Stdio;
use serde_json::json;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn duration() -> Duration {
    Duration::from_secs(if std::env::var_os("LONGSHORE_LONG").is_some() { 30 } else { 2 })
}

/// Swaps a name between things as fast as it can until it is dropped.
struct Attacker {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Attacker {
    /// Exchanges two names atomically, over and over.
    fn exchanging(a: PathBuf, b: PathBuf) -> Attacker {
        Attacker::doing(move || {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            let _ = renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE);
        })
    }

    fn doing(swap: impl Fn() + Send + 'static) -> Attacker {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut swaps = 0;
            while !seen.load(Ordering::Relaxed) {
                swap();
                swaps += 1;
            }
            swaps
        });
        Attacker { stop, thread: Some(thread) }
    }

    fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let swaps = self.thread.take().unwrap().join().unwrap();
        assert!(swaps > 10, "the attacker came to {swaps} swaps only");
    }
}

fn attack(attacker: Attacker, mut attempt: impl FnMut()) {
    let end = Instant::now() + duration();
    let mut attempts = 0;
    while Instant::now() < end {
        attempt();
        attempts += 1;
    }
    attacker.stop();
    assert!(attempts > 0, "no attempt was made");
}

/// Everything below a folder with type, mode and size.
fn listing(path: &Path) -> String {
    let output =
        std::process::Command::new("find").arg(path).args(["-printf", "%P %y %m %s %l\n"]).output().unwrap();
    let mut lines: Vec<&str> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// A volume with two names that are exchanged: `swap`, a folder, and `other`, a link to a folder of the host.
fn volume(bundle: &Bundle) -> (PathBuf, PathBuf) {
    let (shared, outside) = (bundle.dir.path().join("shared"), bundle.dir.path().join("outside"));
    std::fs::create_dir_all(shared.join("swap/target")).unwrap();
    std::fs::create_dir_all(outside.join("target")).unwrap();
    std::fs::write(outside.join("file"), "untouched").unwrap();
    symlink(format!("/../../../../../..{}", outside.display()), shared.join("other")).unwrap();
    (shared, outside)
}

#[test]
fn cve_2021_30465_a_mount_target_that_is_swapped_all_the_time_stays_in_the_root() {
    let mut bundle = Bundle::new("true");
    let (shared, outside) = volume(&bundle);
    bundle.add_mount(json!({ "destination": "/shared", "source": shared, "options": ["rbind"] }));
    bundle.add_mount(json!({ "destination": "/shared/swap/target", "type": "tmpfs", "source": "tmpfs" }));
    let before = listing(&outside);
    let attacker = Attacker::exchanging(shared.join("swap"), shared.join("other"));
    attack(attacker, || {
        let Ok(mut running) = bundle.create() else { return };
        let pid = running.container().pid();
        let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let inside = |line: &str| line.split(' ').nth(4).unwrap().ends_with("/target");
        assert!(mounts.lines().any(inside), "mounted elsewhere: {mounts}");
    });
    assert_eq!(listing(&outside), before);
}

#[test]
fn cve_2024_45310_targets_that_are_made_are_made_inside_only() {
    let mut bundle = Bundle::new("true");
    let (shared, outside) = volume(&bundle);
    let file = bundle.dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    bundle.add_mount(json!({ "destination": "/shared", "source": shared, "options": ["rbind"] }));
    bundle.add_mount(
        json!({ "destination": "/shared/swap/new/deep/file", "source": file, "options": ["bind"] }),
    );
    bundle
        .add_mount(json!({ "destination": "/shared/swap/folder/deep", "type": "tmpfs", "source": "tmpfs" }));
    let before = listing(&outside);
    let attacker = Attacker::exchanging(shared.join("swap"), shared.join("other"));
    attack(attacker, || {
        let _ = bundle.create();
        for name in ["swap", "other"] {
            let _ = std::fs::remove_dir_all(shared.join(name).join("new"));
            let _ = std::fs::remove_dir_all(shared.join(name).join("folder"));
        }
    });
    assert_eq!(listing(&outside), before);
}

#[test]
fn cve_2025_52565_a_console_that_is_swapped_is_not_mounted_elsewhere() {
    let mut bundle = Bundle::new("true");
    let dev = bundle.dir.path().join("dev");
    let victim = bundle.root().join("victim");
    std::fs::create_dir(&dev).unwrap();
    std::fs::create_dir(dev.join("pts")).unwrap();
    std::fs::write(&victim, "untouched").unwrap();
    std::fs::write(dev.join("console"), "").unwrap();
    symlink("/victim", dev.join("other")).unwrap();
    for mount in ["/dev", "/dev/pts", "/dev/mqueue", "/dev/shm"] {
        bundle.remove_mount(mount);
    }
    bundle.add_mount(json!({ "destination": "/dev", "source": dev, "options": ["rbind"] }));
    bundle.add_mount(json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"] }));
    bundle.spec["process"]["terminal"] = json!(true);
    let attacker = Attacker::exchanging(dev.join("console"), dev.join("other"));
    let mut made = 0;
    attack(attacker, || {
        let Ok(container) = bundle.create_with(Stdio::Terminal) else { return };
        let (pid, pidfd) = (container.pid(), container.pidfd().try_clone_to_owned().unwrap());
        let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        assert!(!mounts.lines().any(|line| line.split(' ').nth(4) == Some("/victim")), "{mounts}");
        made += 1;
        let _ = container.delete();
        crate::bundle::wait(pid, std::os::fd::AsFd::as_fd(&pidfd));
    });
    assert!(made > 0, "no container was ever made");
    assert_eq!(std::fs::read_to_string(victim).unwrap(), "untouched");
}

#[test]
fn cve_2025_31133_a_null_device_that_is_swapped_unmasks_nothing() {
    let mut bundle = Bundle::new("true");
    let dev = bundle.dir.path().join("dev");
    std::fs::create_dir(&dev).unwrap();
    let (null, other) = (dev.join("null"), dev.join("other"));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &null,
        rustix::fs::FileType::CharacterDevice,
        0o666.into(),
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    symlink("/proc/sys/kernel/core_pattern", &other).unwrap();
    for mount in ["/dev", "/dev/pts", "/dev/mqueue", "/dev/shm"] {
        bundle.remove_mount(mount);
    }
    bundle.add_mount(json!({ "destination": "/dev", "source": dev, "options": ["rbind"] }));
    bundle.spec["linux"]["maskedPaths"] = json!(["/proc/keys", "/proc/timer_list"]);
    bundle.args(&["/bin/cat", "/proc/keys", "/proc/timer_list"]);
    let attacker = Attacker::exchanging(null, other);
    attack(attacker, || {
        let outcome = bundle.run();
        assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""), "{outcome:?}");
    });
}

#[test]
fn cve_2025_31133_a_device_that_is_swapped_is_the_device_or_an_error() {
    let mut bundle = Bundle::new("true");
    for mount in ["/dev", "/dev/pts", "/dev/mqueue", "/dev/shm"] {
        bundle.remove_mount(mount);
    }
    // The rootfs's own /dev, in which a neighbour that shares the rootfs swaps.
    let dev = bundle.root().join("dev");
    let victim = bundle.dir.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    symlink(format!("/../../../..{}", victim.display()), dev.join("other")).unwrap();
    let null = dev.join("null");
    let other = dev.join("other");
    let attacker = Attacker::doing(move || {
        let _ = std::fs::rename(&other, &null);
        let _ = std::fs::rename(&null, &other);
    });
    attack(attacker, || {
        let _ = bundle.create();
    });
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&victim).unwrap().permissions().mode() & 0o777, 0o644);
}

#[test]
fn cve_2018_15664_a_working_directory_that_is_swapped_is_inside() {
    let mut bundle = Bundle::new("true");
    let (shared, outside) = volume(&bundle);
    bundle.add_mount(json!({ "destination": "/shared", "source": shared, "options": ["rbind"] }));
    bundle.spec["process"]["cwd"] = json!("/shared/swap/new/cwd");
    bundle.args(&["/bin/touch", "mark"]);
    let before = listing(&outside);
    let attacker = Attacker::exchanging(shared.join("swap"), shared.join("other"));
    attack(attacker, || {
        let (stdio, _, _) = files();
        if let Ok(mut container) = bundle.create_with(stdio) {
            let _ = container.start();
            crate::bundle::wait(container.pid(), container.pidfd());
            let _ = container.delete();
        }
    });
    assert_eq!(listing(&outside), before);
}

#[test]
fn cve_2019_5736_a_program_that_is_swapped_for_the_runtime_changes_nothing() {
    let mut bundle = Bundle::new("");
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_longshore-runtime"));
    let copy = bundle.dir.path().join("runtime");
    std::fs::copy(&binary, &copy).unwrap();
    symlink("/proc/self/exe", bundle.root().join("other")).unwrap();
    std::fs::write(bundle.root().join("program"), "#!/bin/sh\nexit 0\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(bundle.root().join("program"), PermissionsExt::from_mode(0o755)).unwrap();
    // Whatever runs as the runtime's file tries to write to it.
    std::fs::write(bundle.root().join("evil"), "#!/proc/self/exe\n").unwrap();
    std::fs::set_permissions(bundle.root().join("evil"), PermissionsExt::from_mode(0o755)).unwrap();
    bundle.args(&["/program"]);
    std::fs::write(bundle.dir.path().join("config.json"), bundle.spec.to_string()).unwrap();
    let root = bundle.dir.path().join("state");
    let attacker = Attacker::exchanging(bundle.root().join("program"), bundle.root().join("other"));
    attack(attacker, || {
        let run = std::process::Command::new(&copy)
            .arg("--root")
            .arg(&root)
            .args(["run", "--bundle"])
            .arg(bundle.dir.path())
            .arg(&bundle.id)
            .output()
            .unwrap();
        let _ = std::process::Command::new(&copy)
            .arg("--root")
            .arg(&root)
            .args(["delete", "--force", &bundle.id])
            .output();
        assert!(run.status.code().is_some(), "{run:?}");
    });
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(&binary).unwrap());
}
