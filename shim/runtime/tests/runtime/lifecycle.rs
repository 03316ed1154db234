//! From nothing to a container and back: exit codes, the gate, errors, and what is left.

use crate::bundle::{Bundle, wait};
use longshore_runtime::{Error, RootfsMount};
use serde_json::json;

#[test]
fn runs_and_reports_the_exit_code() {
    let outcome = Bundle::new("echo out; echo err >&2; exit 7").run();
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (7, "out\n", "err\n"));
}

#[test]
fn killed_by_a_signal() {
    let bundle = Bundle::new("kill -9 $$; sleep 100");
    // The first process of a pid namespace is immune to its own signals: let a child die.
    let mut bundle = bundle;
    bundle.args(&["/bin/sh", "-c", "sh -c 'kill -9 $$'; exit $?"]);
    assert_eq!(bundle.run().code, 137);
    let bundle = Bundle::new("sleep 100");
    assert_eq!(bundle.start().kill().code, 137);
}

#[test]
fn waits_at_the_gate_until_started() {
    let bundle = Bundle::new("touch /started");
    let mut running = bundle.create().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(!bundle.root().join("started").exists());
    running.container().start().unwrap();
    assert_eq!(running.finish().code, 0);
    assert!(bundle.root().join("started").exists());
}

#[test]
fn starting_twice_is_an_error() {
    let bundle = Bundle::new("sleep 100");
    let mut running = bundle.start();
    assert!(matches!(running.container().start(), Err(Error::WrongState { .. })));
    running.kill();
}

#[test]
fn a_container_that_was_never_started_can_be_deleted() {
    let bundle = Bundle::new("true");
    drop(bundle.create().unwrap());
}

#[test]
fn the_init_ends_when_its_runtime_goes_away_before_start() {
    let bundle = Bundle::new("touch /started");
    let mut running = bundle.create().unwrap();
    let container = running.container.take().unwrap();
    let (pid, pidfd) = (container.pid(), container.pidfd().try_clone_to_owned().unwrap());
    drop(container);
    assert_eq!(wait(pid, std::os::fd::AsFd::as_fd(&pidfd)), 1);
    longshore_runtime::cgroups::remove_orphan(&bundle.cgroups_path()).unwrap();
    assert!(!bundle.root().join("started").exists());
}

#[test]
fn a_missing_program_is_127() {
    let mut bundle = Bundle::new("");
    bundle.args(&["nosuch"]);
    let error = bundle.failure();
    assert_eq!(error.to_string(), "exec: \"nosuch\": executable file not found in $PATH");
    assert_eq!(error.exit_code(), Some(127));
    bundle.args(&["/nosuch"]);
    let error = bundle.failure();
    assert_eq!(error.to_string(), "exec: \"/nosuch\": stat /nosuch: no such file or directory");
    assert_eq!(error.exit_code(), Some(127));
}

#[test]
fn a_program_that_cannot_be_executed_is_126() {
    let mut bundle = Bundle::new("");
    std::fs::write(bundle.root().join("data"), "data").unwrap();
    bundle.args(&["/data"]);
    let error = bundle.failure();
    assert_eq!(error.to_string(), "exec: \"/data\": permission denied");
    assert_eq!(error.exit_code(), Some(126));
    bundle.args(&["/etc"]);
    let error = bundle.failure();
    assert_eq!(error.to_string(), "exec: \"/etc\": is a directory");
    assert_eq!(error.exit_code(), Some(126));
    std::os::unix::fs::symlink("data", bundle.root().join("run")).unwrap();
    std::fs::set_permissions(bundle.root().join("data"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    bundle.args(&["/run"]);
    let error = bundle.failure();
    assert_eq!(error.to_string(), "exec /run: exec format error");
    assert_eq!(error.exit_code(), Some(126));
}

#[test]
fn a_bad_working_directory_is_named() {
    let mut bundle = Bundle::new("true");
    std::fs::write(bundle.root().join("file"), "").unwrap();
    bundle.spec["process"]["cwd"] = json!("/file");
    let text = bundle.failure().to_string();
    assert_eq!(text, "chdir to cwd (\"/file\") set in config.json failed: not a directory");
}

#[test]
fn a_missing_working_directory_is_made() {
    let mut bundle = Bundle::new("pwd");
    bundle.spec["process"]["cwd"] = json!("/work/../work/dir");
    bundle.spec["root"]["readonly"] = json!(true);
    assert_eq!(bundle.output(), "/work/dir");
}

#[test]
fn no_program_at_all_is_refused() {
    let mut bundle = Bundle::new("");
    bundle.args(&[]);
    assert!(matches!(bundle.failure(), Error::InvalidSpec { field, .. } if field == "process.args"));
}

#[test]
fn unknown_keys_are_ignored_and_odd_versions_refused() {
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["someday"] = json!({ "x": 1 });
    bundle.spec["later"] = json!([1]);
    assert_eq!(bundle.run().code, 0);
    bundle.spec["ociVersion"] = json!("2.0.0");
    assert!(matches!(bundle.failure(), Error::InvalidSpec { field, .. } if field == "ociVersion"));
}

#[test]
fn an_overlay_rootfs_is_mounted_in_the_container_only() {
    let mut bundle = Bundle::new("echo written > /new; cat /bin/marker; grep -c ' / overlay ' /proc/mounts");
    let base = bundle.dir.path().to_owned();
    std::fs::rename(bundle.root(), base.join("lower")).unwrap();
    for folder in ["rootfs", "second", "second/bin", "upper", "work"] {
        std::fs::create_dir(base.join(folder)).unwrap();
    }
    std::fs::write(base.join("second/bin/marker"), "second\n").unwrap();
    let path = |name: &str| base.join(name).display().to_string();
    bundle.rootfs_mounts = vec![RootfsMount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![
            format!("lowerdir={}:{}", path("second"), path("lower")),
            format!("upperdir={}", path("upper")),
            format!("workdir={}", path("work")),
        ],
    }];
    assert_eq!(bundle.output(), "second\n1");
    assert_eq!(std::fs::read_to_string(base.join("upper/new")).unwrap(), "written\n");
    assert_eq!(std::fs::read_dir(base.join("rootfs")).unwrap().count(), 0);
}

#[test]
fn a_rootfs_that_does_not_mount_says_why() {
    let mut bundle = Bundle::new("true");
    bundle.rootfs_mounts = vec![RootfsMount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec!["lowerdir=/no/such/layer".into()],
    }];
    let text = bundle.failure().to_string();
    assert!(text.starts_with("mount the rootfs from \"overlay\""), "{text}");
}

#[test]
fn a_bind_mounted_rootfs_of_the_native_snapshotter() {
    let mut bundle = Bundle::new("touch /new");
    let other = bundle.dir.path().join("snapshot");
    std::fs::rename(bundle.root(), &other).unwrap();
    std::fs::create_dir(bundle.root()).unwrap();
    bundle.rootfs_mounts = vec![RootfsMount {
        kind: "bind".into(),
        source: other.display().to_string(),
        target: String::new(),
        options: vec!["rbind".into(), "rw".into()],
    }];
    assert_eq!(bundle.run().code, 0);
    assert!(other.join("new").exists());
}

#[test]
fn a_failing_create_leaves_nothing() {
    let mut bundle = Bundle::new("true");
    bundle.add_mount(json!({ "destination": "/mnt", "type": "no-such-fs", "source": "x" }));
    let text = bundle.failure().to_string();
    assert_eq!(text, "mount no-such-fs \"x\" at \"/mnt\": no such device");
}

#[test]
fn containers_one_after_the_other_leave_no_descriptors() {
    let bundle = Bundle::new("true");
    bundle.run();
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    for _ in 0..5 {
        bundle.run();
    }
    assert_eq!(count(), before);
}

#[test]
fn delete_does_not_wait_for_processes_that_the_caller_has_yet_to_reap() {
    // The kernel keeps the first process of a pid namespace until all others are reaped, and those are the caller's.
    let bundle = Bundle::new("echo ready; sleep 100");
    let mut running = bundle.start();
    running.wait_for_output("ready");
    let (other, _, _) = running.exec_process(crate::bundle::shell("sleep 100")).unwrap();
    let container = running.container.take().unwrap();
    let (pid, pidfd) = (container.pid(), container.pidfd().try_clone_to_owned().unwrap());
    container.delete().unwrap();
    assert_eq!(wait(other.pid(), other.pidfd()), 137);
    assert_eq!(wait(pid, std::os::fd::AsFd::as_fd(&pidfd)), 137);
}

#[test]
fn without_pivot_root() {
    let mut bundle =
        Bundle::new("ls / | tr '\\n' ' '; touch /made; grep -c longshore-test /proc/self/mountinfo");
    bundle.no_pivot = true;
    let outcome = bundle.run();
    assert!(outcome.stdout.starts_with("bin dev etc proc root sys tmp "), "{outcome:?}");
    assert!(bundle.root().join("made").exists());
}
