//! What a container sees of files: mounts, masks, devices, the root.

use crate::bundle::Bundle;
use longshore_runtime::Error;
use serde_json::json;

#[test]
fn the_usual_mounts_and_devices() {
    let bundle = Bundle::new(
        "ls -1 /dev | tr '\\n' ' '; echo; cat /dev/zero | head -c 3 | wc -c; echo x > /dev/full || echo full; readlink /dev/ptmx; readlink /dev/fd",
    );
    let output = bundle.output();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero ");
    assert_eq!(lines[1], "3");
    assert_eq!(lines[2], "full");
    assert_eq!(&lines[3..], ["pts/ptmx", "/proc/self/fd"]);
}

#[test]
fn nothing_of_the_host_is_in_sight() {
    let bundle = Bundle::new("cat /proc/self/mountinfo");
    let output = bundle.output();
    for line in output.lines() {
        let target = line.split(' ').nth(4).unwrap();
        let known = ["/proc", "/dev", "/sys"].iter().any(|top| target.starts_with(top));
        assert!(target == "/" || known, "{line}");
    }
}

#[test]
fn masked_and_read_only_paths() {
    let bundle = Bundle::new(
        "cat /proc/keys | wc -c; ls /sys/firmware | wc -l; touch /sys/firmware/x 2>/dev/null || echo masked; \
         echo 1 2>/dev/null > /proc/sys/kernel/printk || echo read-only; (: > /proc/sysrq-trigger) 2>/dev/null || echo sealed",
    );
    assert_eq!(bundle.output(), "0\n0\nmasked\nread-only\nsealed");
}

#[test]
fn bind_mounts_of_folders_and_files() {
    let mut bundle = Bundle::new(
        "cat /data/file /etc/single; echo more >> /data/file; echo x > /etc/single || echo read-only",
    );
    let volume = bundle.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "volume\n").unwrap();
    std::fs::write(bundle.dir.path().join("single"), "single\n").unwrap();
    let single = bundle.dir.path().join("single");
    bundle.add_mount(
        json!({ "destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "rprivate"] }),
    );
    bundle.add_mount(
        json!({ "destination": "/etc/single", "type": "bind", "source": single, "options": ["bind", "ro"] }),
    );
    assert_eq!(bundle.output(), "volume\nsingle\nread-only");
    assert_eq!(std::fs::read_to_string(volume.join("file")).unwrap(), "volume\nmore\n");
}

#[test]
fn bind_mount_flags() {
    let mut bundle = Bundle::new("grep ' /data ' /proc/self/mountinfo");
    let volume = bundle.dir.path().to_owned();
    bundle.add_mount(json!({ "destination": "/data", "source": volume,
        "options": ["rbind", "ro", "nosuid", "nodev", "noexec", "noatime", "rprivate"] }));
    let output = bundle.output();
    let flags = output.split(' ').nth(5).unwrap();
    for flag in ["ro", "nosuid", "nodev", "noexec", "noatime"] {
        assert!(flags.split(',').any(|f| f == flag), "{flag}: {output}");
    }
    assert!(!output.contains("shared:") && !output.contains("master:"), "{output}");
}

#[test]
fn a_missing_bind_source_is_named() {
    let mut bundle = Bundle::new("true");
    bundle.add_mount(
        json!({ "destination": "/x", "type": "bind", "source": "/no/such/volume", "options": ["bind"] }),
    );
    let error = bundle.failure();
    assert_eq!(
        error.to_string(),
        "open the source of a bind mount \"/no/such/volume\": No such file or directory (os error 2)"
    );
}

#[test]
fn recursive_read_only_reaches_mounts_below() {
    let mut bundle = Bundle::new("touch /data/below/x 2>/dev/null && echo plain || echo refused");
    let volume = bundle.dir.path().join("volume");
    std::fs::create_dir_all(volume.join("below")).unwrap();
    let script = format!("mount -t tmpfs none {0}/below && mount --make-private {0}/below", volume.display());
    assert!(std::process::Command::new("sh").args(["-c", &script]).status().unwrap().success());
    let mut mount =
        json!({ "destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "ro"] });
    bundle.add_mount(mount.clone());
    let plain = bundle.run();
    bundle.remove_mount("/data");
    mount["options"] = json!(["rbind", "rro"]);
    bundle.add_mount(mount);
    let recursive = bundle.run();
    let _ = std::process::Command::new("umount").arg(volume.join("below")).status();
    assert_eq!((plain.stdout.as_str(), recursive.stdout.as_str()), ("plain\n", "refused\n"));
}

#[test]
fn a_tmpfs_that_is_read_only_holds_the_mounts_below_it() {
    let mut bundle = Bundle::new("ls /ro; touch /ro/x 2>/dev/null || echo sealed; stat -f -c %T /ro/below");
    let volume = bundle.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    bundle.add_mount(
        json!({ "destination": "/ro", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "size=64k"] }),
    );
    bundle.add_mount(json!({ "destination": "/ro/below", "type": "tmpfs", "source": "tmpfs" }));
    assert_eq!(bundle.output(), "below\nsealed\ntmpfs");
}

#[test]
fn a_read_only_root() {
    let mut bundle = Bundle::new("touch /x 2>/dev/null || echo sealed; touch /dev/shm/x && echo shm");
    bundle.spec["root"]["readonly"] = json!(true);
    assert_eq!(bundle.output(), "sealed\nshm");
}

#[test]
fn devices_of_the_config() {
    let mut bundle = Bundle::new(
        "stat -c '%F %a %t:%T %u' /dev/extra/fuse; stat -c %F /dev/fifo; echo x > /dev/extra/fuse || echo denied",
    );
    bundle.spec["linux"]["devices"] = json!([
        { "path": "/dev/extra/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 12, "gid": 13 },
        { "path": "/dev/fifo", "type": "p", "fileMode": 0o600 }
    ]);
    assert_eq!(bundle.output(), "character special file 640 a:e5 12\nfifo\ndenied");
}

#[test]
fn the_cgroup_mount_shows_the_container_only() {
    let bundle = Bundle::new(
        "ls /sys/fs/cgroup/memory | grep -c limit_in_bytes; cat /sys/fs/cgroup/pids/tasks | wc -l; ls -d /sys/fs/cgroup/pids/*/ 2>/dev/null | wc -l; touch /sys/fs/cgroup/x 2>/dev/null || echo sealed",
    );
    if longshore_runtime::cgroups::mode() == longshore_runtime::cgroups::Mode::V2 {
        return;
    }
    let output = bundle.output();
    assert!(output.ends_with("\n0\nsealed"), "{output}");
}

#[test]
fn nothing_but_procfs_goes_over_proc() {
    let mut bundle = Bundle::new("true");
    bundle.remove_mount("/proc");
    bundle.add_mount(json!({ "destination": "/proc", "type": "tmpfs", "source": "tmpfs" }));
    assert!(matches!(bundle.failure(), Error::InvalidSpec { .. }));
    let mut bundle = Bundle::new("true");
    bundle.add_mount(json!({ "destination": "/proc/self/attr", "type": "tmpfs", "source": "tmpfs" }));
    assert!(matches!(bundle.failure(), Error::InvalidSpec { .. }));
}

#[test]
fn propagation_of_the_root() {
    for (propagation, expected) in [("shared", "shared:"), ("private", ""), ("unbindable", "unbindable")] {
        let mut bundle = Bundle::new(
            "grep ' / / ' /proc/self/mountinfo | head -n 1; grep -m1 ' / rw' /proc/self/mountinfo",
        );
        bundle.spec["linux"]["rootfsPropagation"] = json!(propagation);
        let outcome = bundle.run();
        let line = outcome.stdout.lines().last().unwrap_or_default().to_owned();
        assert!(line.contains(expected), "{propagation}: {outcome:?}");
        assert!(!expected.is_empty() || !line.contains("shared:"), "{line}");
    }
}

#[test]
fn a_target_behind_a_dangling_link_is_made_inside_the_root() {
    let mut bundle = Bundle::new("cat /etc/resolv.conf; readlink /etc/resolv.conf");
    std::os::unix::fs::symlink("../run/resolve/stub.conf", bundle.root().join("etc/resolv.conf")).unwrap();
    std::fs::write(bundle.dir.path().join("resolv"), "nameserver 1.2.3.4\n").unwrap();
    // A relative source starts at the bundle.
    bundle.add_mount(json!({ "destination": "/etc/resolv.conf", "type": "bind", "source": "resolv", "options": ["bind", "ro"] }));
    assert_eq!(bundle.output(), "nameserver 1.2.3.4\n../run/resolve/stub.conf");
    assert!(bundle.root().join("run/resolve/stub.conf").is_file());
}
