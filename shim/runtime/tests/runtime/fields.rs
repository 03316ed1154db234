//! Fields of `config.json` that few configs have: each does what the specification says, or names itself in an error.

use crate::bundle::{Bundle, shell};
use longshore_runtime::{Error, RootfsMount};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

fn add_namespace(bundle: &mut Bundle, namespace: Value) {
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(namespace);
}

fn invalid_field(error: &Error) -> &str {
    match error {
        Error::InvalidSpec { field, .. } => field,
        other => panic!("{other}"),
    }
}

fn inode(pid: i32, kind: &str) -> std::path::PathBuf {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

fn own_rootfs(bundle: &Bundle, id: u32) {
    for folder in ["", "bin", "dev", "proc", "sys", "tmp", "etc", "root"] {
        std::os::unix::fs::lchown(bundle.root().join(folder), Some(id), Some(id)).unwrap();
    }
}

fn with_user_namespace(script: &str) -> Bundle {
    let mut bundle = Bundle::new(script);
    add_namespace(&mut bundle, json!({ "type": "user" }));
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    bundle.spec["linux"]["uidMappings"] = map.clone();
    bundle.spec["linux"]["gidMappings"] = map;
    own_rootfs(&bundle, 100_000);
    bundle
}

#[test]
fn a_time_namespace_has_its_own_clocks() {
    for user in [false, true] {
        let script = "cut -d. -f1 /proc/uptime; tr -s ' ' < /proc/self/timens_offsets; sleep 100";
        let mut bundle = if user { with_user_namespace(script) } else { Bundle::new(script) };
        add_namespace(&mut bundle, json!({ "type": "time" }));
        bundle.spec["linux"]["timeOffsets"] =
            json!({ "boottime": { "secs": 1_000_000, "nanosecs": 5 }, "monotonic": { "secs": 86_400 } });
        let mut running = bundle.start();
        let output = running.wait_for_output("boottime");
        let uptime: u64 = output.lines().next().unwrap().parse().unwrap();
        assert!(uptime > 1_000_000, "{output}");
        assert!(output.contains("monotonic 86400 0") && output.contains("boottime 1000000 5"), "{output}");
        let pid = running.container().pid();
        assert_ne!(inode(pid, "time"), inode(std::process::id() as i32, "time"));
        let outcome = running.exec(shell("cut -d. -f1 /proc/uptime")).unwrap();
        assert!(outcome.stdout.trim().parse::<u64>().unwrap() > 1_000_000, "{outcome:?}");
        // Everything of ours stays where it is.
        assert_eq!(
            inode(std::process::id() as i32, "time_for_children"),
            inode(std::process::id() as i32, "time")
        );
        running.kill();
    }
}

#[test]
fn time_offsets_need_a_time_namespace_and_a_clock() {
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1 } });
    assert_eq!(invalid_field(&bundle.failure()), "linux.timeOffsets");
    add_namespace(&mut bundle, json!({ "type": "time" }));
    bundle.spec["linux"]["timeOffsets"] = json!({ "realtime": { "secs": 1 } });
    assert_eq!(invalid_field(&bundle.failure()), "linux.timeOffsets");
}

#[test]
fn a_user_namespace_is_joined_by_path() {
    let first = with_user_namespace("sleep 100");
    let mut running = first.start();
    let pid = running.container().pid();
    let mut second =
        Bundle::new("id -u; tr -s ' ' < /proc/self/uid_map; touch /mine; hostname; echo ready; sleep 100");
    own_rootfs(&second, 100_000);
    add_namespace(&mut second, json!({ "type": "user", "path": format!("/proc/{pid}/ns/user") }));
    let mut joined = second.start();
    let output = joined.wait_for_output("ready");
    assert_eq!(output, "0\n 0 100000 65536\ntesthost\nready\n");
    let other = joined.container().pid();
    assert_eq!(inode(other, "user"), inode(pid, "user"));
    for kind in ["mnt", "pid", "net", "uts", "ipc", "cgroup"] {
        assert_ne!(inode(other, kind), inode(pid, kind), "{kind}");
    }
    assert_eq!(std::fs::metadata(second.root().join("mine")).unwrap().uid(), 100_000);
    let outcome = joined.exec(shell("id -u; touch /by-exec")).unwrap();
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, "0\n"));
    joined.kill();
    // With its maps beside it, as containerd writes it; they must be the right ones.
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    second.spec["linux"]["uidMappings"] = map.clone();
    second.spec["linux"]["gidMappings"] = map;
    second.args(&["/bin/true"]);
    assert_eq!(second.run().code, 0);
    second.spec["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 5, "size": 1 }]);
    assert_eq!(invalid_field(&second.failure()), "linux.uidMappings");
    running.kill();
}

#[test]
fn namespaces_of_the_host_and_of_others_are_joined_beside_a_user_namespace() {
    let pod = Bundle::new("sleep 100");
    let mut running = pod.start();
    let pid = running.container().pid();
    let mut bundle = with_user_namespace("echo ready; sleep 100");
    for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")] {
        bundle.remove_namespace(kind);
        add_namespace(&mut bundle, json!({ "type": kind, "path": format!("/proc/{pid}/ns/{file}") }));
    }
    // Neither belongs to the container's user namespace, which may not mount or set them.
    bundle.remove_mount("/dev/mqueue").remove_mount("/sys").remove_mount("/sys/fs/cgroup");
    bundle.remove_mount("/proc");
    bundle.add_mount(
        json!({ "destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"] }),
    );
    bundle.spec["hostname"] = json!("");
    bundle.spec["linux"]["maskedPaths"] = json!([]);
    bundle.spec["linux"]["readonlyPaths"] = json!([]);
    let mut joined = bundle.start();
    joined.wait_for_output("ready");
    let other = joined.container().pid();
    for kind in ["net", "ipc", "uts", "pid"] {
        assert_eq!(inode(other, kind), inode(pid, kind), "{kind}");
    }
    assert_eq!(joined.exec(shell("true")).unwrap().code, 0);
    joined.kill();
    running.kill();
}

#[test]
fn a_mount_namespace_is_joined_by_path() {
    let mut holder = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", "echo over; exec sleep 100"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut word = [0; 4];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut word).unwrap();
    let pid = holder.id() as i32;
    let mut bundle = Bundle::new("ls /; echo ready; sleep 100");
    bundle.remove_namespace("mount");
    add_namespace(&mut bundle, json!({ "type": "mount", "path": format!("/proc/{pid}/ns/mnt") }));
    let mut running = bundle.start();
    let output = running.wait_for_output("ready");
    assert!(output.starts_with("bin\ndev\netc\n"), "{output}");
    assert_eq!(inode(running.container().pid(), "mnt"), inode(pid, "mnt"));
    running.kill();
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_namespace_path_must_be_what_the_config_says() {
    for (kind, path) in [
        ("mount", "/proc/self/ns/mnt"),
        ("ipc", "/proc/self/ns/net"),
        ("ipc", "/dev/null"),
        ("ipc", "/etc/passwd"),
    ] {
        let mut bundle = Bundle::new("true");
        bundle.remove_namespace(kind);
        add_namespace(&mut bundle, json!({ "type": kind, "path": path }));
        assert_eq!(invalid_field(&bundle.failure()), "linux.namespaces", "{path}");
    }
}

#[test]
fn owners_of_a_bind_mount_are_mapped() {
    let mut bundle = Bundle::new("stat -c %u:%g /plain/file /mapped/file; touch /mapped/new");
    let volume = bundle.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "").unwrap();
    std::os::unix::fs::chown(volume.join("file"), Some(1000), Some(1001)).unwrap();
    std::os::unix::fs::chown(&volume, Some(7), Some(7)).unwrap();
    bundle.add_mount(json!({ "destination": "/plain", "source": volume, "options": ["rbind"] }));
    // Mappings imply the option.
    bundle.add_mount(json!({ "destination": "/mapped", "source": volume, "options": ["rbind"],
        "uidMappings": [{ "containerID": 1000, "hostID": 2000, "size": 1 }, { "containerID": 7, "hostID": 0, "size": 1 }],
        "gidMappings": [{ "containerID": 1001, "hostID": 3000, "size": 1 }, { "containerID": 7, "hostID": 0, "size": 1 }] }));
    assert_eq!(bundle.output(), "1000:1001\n2000:3000");
    let made = std::fs::metadata(volume.join("new")).unwrap();
    assert_eq!((made.uid(), made.gid()), (7, 7));
}

#[test]
fn idmap_without_mappings_is_the_user_namespaces() {
    for option in ["idmap", "ridmap"] {
        let mut bundle =
            with_user_namespace("stat -c %u:%g /volume; touch /volume/new; stat -c %u /volume/below");
        let volume = bundle.dir.path().join("volume");
        std::fs::create_dir_all(volume.join("below")).unwrap();
        let mount = json!({ "destination": "/volume", "source": volume, "options": ["rbind", option] });
        bundle.add_mount(mount.clone());
        assert_eq!(bundle.output(), "0:0\n0");
        assert_eq!(std::fs::metadata(volume.join("new")).unwrap().uid(), 0);
        let mut plain = Bundle::new("true");
        plain.add_mount(mount);
        assert!(invalid_field(&plain.failure()).starts_with("mounts["));
    }
}

#[test]
fn only_bind_mounts_can_be_mapped_and_by_both_maps() {
    let map = json!([{ "containerID": 0, "hostID": 1, "size": 1 }]);
    let mut bundle = Bundle::new("true");
    bundle.add_mount(json!({ "destination": "/x", "type": "tmpfs", "options": ["idmap"] }));
    assert!(invalid_field(&bundle.failure()).starts_with("mounts["));
    let mut bundle = Bundle::new("true");
    bundle
        .add_mount(json!({ "destination": "/x", "source": "/tmp", "options": ["bind"], "uidMappings": map }));
    assert!(invalid_field(&bundle.failure()).ends_with(".uidMappings"));
    let mut bundle = Bundle::new("true");
    bundle.add_mount(json!({ "destination": "/x", "source": "/proc", "options": ["bind"], "uidMappings": map, "gidMappings": map }));
    assert!(invalid_field(&bundle.failure()).ends_with(".uidMappings"));
}

#[test]
fn a_tmpfs_starts_with_what_it_hides() {
    let mut bundle = Bundle::new(
        "cat /data/sub/file; readlink /data/link; stat -c '%a %u %g %Y' /data/sub/file /data/sub; ls /empty; stat -c %a /data /empty; touch /data/new",
    );
    let data = bundle.root().join("data");
    std::fs::create_dir_all(data.join("sub")).unwrap();
    std::fs::create_dir(bundle.root().join("empty")).unwrap();
    std::fs::write(data.join("sub/file"), "contents\n").unwrap();
    std::os::unix::fs::symlink("/etc/shadow", data.join("link")).unwrap();
    let script = format!(
        "cd {}; chmod 751 . ; chmod 640 sub/file; chown 5:6 sub/file; touch -d @1000000 sub/file; chmod 2775 sub; touch -d @2000000 sub; touch ../empty/x; mknod pipe p",
        data.display()
    );
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    bundle.add_mount(json!({ "destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "tmpcopyup"] }));
    bundle.add_mount(
        json!({ "destination": "/empty", "type": "tmpfs", "source": "tmpfs", "options": ["mode=700"] }),
    );
    assert_eq!(bundle.output(), "contents\n/etc/shadow\n640 5 6 1000000\n2775 0 0 2000000\n751\n700");
    assert!(!data.join("new").exists());
}

#[test]
fn what_is_mounted_can_be_remounted() {
    let mut bundle = Bundle::new(
        "for d in /a /b; do grep \" $d \" /proc/self/mountinfo | cut -d' ' -f6; done; touch /a/x 2>/dev/null || echo sealed; df /a | tail -1 | tr -s ' ' | cut -d' ' -f2",
    );
    let volume = bundle.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    bundle.add_mount(
        json!({ "destination": "/a", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=64k"] }),
    );
    bundle.add_mount(
        json!({ "destination": "/a", "type": "tmpfs", "options": ["remount", "ro", "noexec", "size=128k"] }),
    );
    bundle.add_mount(json!({ "destination": "/b", "source": volume, "options": ["rbind", "nosuid"] }));
    bundle.add_mount(json!({ "destination": "/b", "options": ["remount", "bind", "nodev"] }));
    let output = bundle.output();
    assert_eq!(output, "ro,noexec,relatime\nrw,nodev,relatime\nsealed\n128", "{output}");
    let mut bundle = Bundle::new("true");
    bundle.add_mount(json!({ "destination": "/tmp", "type": "tmpfs", "options": ["remount", "ro"] }));
    let text = bundle.failure().to_string();
    assert!(text.contains("remount \"/tmp\"") && text.contains("earlier mount"), "{text}");
}

#[test]
fn every_recursive_attribute_reaches_below() {
    let mut bundle = Bundle::new("grep -E ' /data(/below)? ' /proc/self/mountinfo | cut -d' ' -f6");
    let volume = bundle.dir.path().join("volume");
    std::fs::create_dir_all(volume.join("below")).unwrap();
    let script = format!("mount -t tmpfs none {0}/below && mount --make-private {0}/below", volume.display());
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    let cases = [
        ("rro", "ro"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnodiratime", "nodiratime"),
        ("rnoatime", "noatime"),
        ("rnosymfollow", "nosymfollow"),
        ("rrelatime", "relatime"),
    ];
    let mut seen = Vec::new();
    for (option, flag) in cases {
        bundle.remove_mount("/data");
        bundle.add_mount(json!({ "destination": "/data", "source": volume, "options": ["rbind", option] }));
        seen.push((option, flag, bundle.run().stdout));
    }
    let _ = Command::new("umount").arg(volume.join("below")).status();
    for (option, flag, output) in seen {
        assert_eq!(output.lines().count(), 2, "{option}: {output}");
        assert!(output.lines().all(|line| line.split(',').any(|f| f == flag)), "{option}: {output}");
    }
}

#[test]
fn flags_of_the_file_system_are_told_to_it() {
    let mut bundle = Bundle::new("grep ' /data ' /proc/self/mountinfo | sed 's/.* - //' | cut -d' ' -f3");
    bundle.add_mount(json!({ "destination": "/data", "type": "tmpfs", "source": "tmpfs",
        "options": ["sync", "dirsync", "lazytime", "defaults", "loud", "iversion", "x-comment", "size=1m"] }));
    let output = bundle.output();
    for flag in ["sync", "dirsync", "lazytime", "size=1024k"] {
        assert!(output.split(',').any(|f| f == flag), "{flag}: {output}");
    }
}

#[test]
fn memory_policies() {
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        let mut bundle = Bundle::new("true");
        bundle.spec["linux"]["memoryPolicy"] = json!({ "mode": "MPOL_BIND", "nodes": "0" });
        let text = bundle.failure().to_string();
        assert!(text.contains("linux.memoryPolicy"), "{text}");
        return;
    }
    for (policy, shown) in [
        (json!({ "mode": "MPOL_BIND", "nodes": "0" }), "bind:0"),
        (json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"] }), "bind=static:0"),
        (
            json!({ "mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"] }),
            "interleave=relative:0",
        ),
        (json!({ "mode": "MPOL_PREFERRED", "nodes": "0" }), "prefer:0"),
        (json!({ "mode": "MPOL_PREFERRED_MANY", "nodes": "0" }), "prefer (many):0"),
        (json!({ "mode": "MPOL_WEIGHTED_INTERLEAVE", "nodes": "0" }), "weighted interleave:0"),
        (json!({ "mode": "MPOL_LOCAL" }), "local"),
        (json!({ "mode": "MPOL_DEFAULT" }), "default"),
    ] {
        let mut bundle = Bundle::new("head -1 /proc/self/numa_maps; sleep 100");
        bundle.spec["linux"]["memoryPolicy"] = policy.clone();
        let mut running = bundle.start();
        let output = running.wait_for_output("\n");
        assert!(output.contains(&format!(" {shown} ")), "{policy}: {output}");
        let outcome = running.exec(shell("head -1 /proc/self/numa_maps")).unwrap();
        assert!(outcome.stdout.contains(&format!(" {shown} ")), "{policy}: {outcome:?}");
        running.kill();
    }
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["memoryPolicy"] = json!({ "mode": "MPOL_BIND", "nodes": "900" });
    let text = bundle.failure().to_string();
    assert!(text.contains("linux.memoryPolicy") && text.contains("memory nodes"), "{text}");
}

/// A network namespace for this thread alone, so that the host's devices are not touched.
fn in_a_network_of_its_own(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: a namespace of the network has no memory in it.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
        test();
    });
    thread.join().unwrap();
}

#[test]
fn network_devices_move_with_their_addresses() {
    in_a_network_of_its_own(|| {
        let script = "ip link add lt0 type veth peer name lt1 && ip addr add 10.91.0.1/24 dev lt0 && ip addr add fd91::1/64 dev lt0 nodad && ip link set lt0 mtu 1400 && ip link set lt0 up && ip link set lt1 up";
        assert!(Command::new("sh").args(["-c", script]).status().unwrap().success());
        let mut bundle = Bundle::new("/bin/busybox ip addr show dev inside");
        bundle.spec["linux"]["netDevices"] = json!({ "lt0": { "name": "inside" } });
        let output = bundle.output();
        for part in ["10.91.0.1/24", "fd91::1/64", "mtu 1400", ",UP"] {
            assert!(output.contains(part), "{part}: {output}");
        }
        let mut bundle = Bundle::new("true");
        bundle.spec["linux"]["netDevices"] = json!({ "lt0": {} });
        let error = bundle.failure();
        assert_eq!(invalid_field(&error), "linux.netDevices[\"lt0\"]");
    });
}

#[test]
fn network_devices_come_back_if_the_container_does_not_come_to_be() {
    in_a_network_of_its_own(|| {
        let script = "ip link add lt0 type veth peer name lt1 && ip link add lt2 type veth peer name lt3 && ip addr add 10.91.0.1/24 dev lt0 && ip link set lt0 up && ip link set lt1 up";
        assert!(Command::new("sh").args(["-c", script]).status().unwrap().success());
        let show = |device: &str| {
            let output = Command::new("ip").args(["addr", "show", "dev", device]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let mut bundle = Bundle::new("");
        bundle.args(&["/no/such/program"]);
        bundle.spec["linux"]["netDevices"] = json!({ "lt0": { "name": "inside" }, "lt2": {} });
        assert!(matches!(bundle.failure(), Error::Exec { .. }));
        let (first, second) = (show("lt0"), show("lt2"));
        assert!(first.contains("10.91.0.1/24") && first.contains(",UP"), "{first}");
        assert!(second.contains("lt2") && !second.contains(",UP"), "{second}");
        // One of two cannot be moved: the other one stays.
        bundle.args(&["true"]);
        bundle.spec["linux"]["netDevices"] = json!({ "lt0": { "name": "same" }, "lt2": { "name": "same" } });
        assert_eq!(invalid_field(&bundle.failure()), "linux.netDevices[\"lt2\"]");
        let first = show("lt0");
        assert!(first.contains("10.91.0.1/24") && first.contains(",UP"), "{first}");
    });
}

#[test]
fn network_devices_keep_or_are_given_their_names() {
    in_a_network_of_its_own(|| {
        let script = "ip link add lt0 type veth peer name lt1";
        assert!(Command::new("sh").args(["-c", script]).status().unwrap().success());
        let mut bundle = Bundle::new("ls /sys/class/net");
        bundle.spec["linux"]["netDevices"] = json!({ "lt0": {}, "lt1": { "name": "eth%d" } });
        assert_eq!(bundle.output(), "eth0\nlo\nlt0");
        let mut bundle = Bundle::new("true");
        let script = "ip link add lt0 type veth peer name lt1";
        assert!(Command::new("sh").args(["-c", script]).status().unwrap().success());
        bundle.spec["linux"]["netDevices"] = json!({ "lt0": { "name": "lo" } });
        assert_eq!(invalid_field(&bundle.failure()), "linux.netDevices[\"lt0\"]");
        bundle.remove_namespace("network");
        assert_eq!(invalid_field(&bundle.failure()), "linux.netDevices[\"lt0\"]");
    });
}

#[test]
fn personality_and_its_flags() {
    let mut bundle = Bundle::new("cat /proc/self/personality; uname -m");
    std::os::unix::fs::symlink("busybox", bundle.root().join("bin/uname")).unwrap();
    bundle.spec["linux"]["personality"] = json!({ "domain": "LINUX32", "flags": ["ADDR_NO_RANDOMIZE"] });
    let output = bundle.output();
    assert!(output.starts_with("00040008\n"), "{output}");
    bundle.spec["linux"]["personality"]["flags"] = json!(["NO_SUCH_FLAG"]);
    assert_eq!(invalid_field(&bundle.failure()), "linux.personality.flags");
}

/// Scheduling policy and nice value of a process, from its stat.
const POLICY: &str = "sed 's/.*) //' /proc/self/stat | cut -d' ' -f17,39";

fn with_scheduler(scheduler: Value) -> Bundle {
    let mut bundle = Bundle::new(POLICY);
    bundle.spec["process"]["scheduler"] = scheduler;
    bundle
}

#[test]
fn schedulers() {
    assert_eq!(with_scheduler(json!({ "policy": "SCHED_BATCH", "nice": 7 })).output(), "7 3");
    assert_eq!(with_scheduler(json!({ "policy": "SCHED_IDLE" })).output(), "0 5");
    let reset = json!({ "policy": "SCHED_BATCH", "nice": -5, "flags": ["SCHED_FLAG_RESET_ON_FORK"] });
    // Through the loader, as only it knows the specification's word for it.
    let bytes = json!({ "ociVersion": "1.2.0", "process": { "cwd": "/", "user": {}, "scheduler": reset } })
        .to_string();
    let spec = longshore_runtime::load_spec(bytes.as_bytes()).unwrap();
    let scheduler = spec.process().as_ref().unwrap().scheduler().clone().unwrap();
    let bundle = with_scheduler(serde_json::to_value(scheduler).unwrap());
    // sed is forked by the shell, so that what it has is the reset.
    assert_eq!(bundle.output(), "0 3");
}

#[test]
fn deadlines_and_clamps_are_honoured_or_named() {
    let deadline = json!({ "policy": "SCHED_DEADLINE", "runtime": 10_000_000, "deadline": 30_000_000, "period": 30_000_000 });
    let clamp = json!({ "policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_UTIL_CLAMP_MIN", "SCHED_FLAG_UTIL_CLAMP_MAX"] });
    for (scheduler, policy) in [(deadline, "6"), (clamp, "0")] {
        let mut bundle = with_scheduler(scheduler.clone());
        // A deadline process may not fork.
        bundle.args(&["/bin/cat", "/proc/self/stat"]);
        match bundle.create() {
            Ok(mut running) => {
                running.container().start().unwrap();
                let outcome = running.finish();
                assert_eq!(outcome.stdout.split(' ').nth(40), Some(policy), "{outcome:?}");
            }
            Err(error) => assert!(error.to_string().contains("scheduling policy"), "{scheduler}: {error}"),
        }
    }
}

#[test]
fn io_priorities() {
    let mut bundle = Bundle::new("/bin/busybox ionice");
    bundle.spec["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 3 });
    assert_eq!(bundle.output(), "best-effort: prio 3");
    bundle.spec["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 });
    assert_eq!(invalid_field(&bundle.failure()), "process.ioPriority.priority");
}

#[test]
fn processors_of_a_further_process() {
    let bundle = Bundle::new("echo ready; sleep 100");
    let mut running = bundle.start();
    running.wait_for_output("ready");
    let before = rustix::thread::sched_getaffinity(None).unwrap();
    for affinity in
        [json!({ "initial": "0" }), json!({ "final": "0" }), json!({ "initial": "1", "final": "0" })]
    {
        let mut process = shell("grep Cpus_allowed_list /proc/self/status");
        process["execCPUAffinity"] = affinity.clone();
        let outcome = running.exec(process).unwrap();
        if affinity["final"].is_string() || std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
        {
            assert_eq!(outcome.stdout, "Cpus_allowed_list:\t0\n", "{affinity}");
        }
    }
    assert_eq!(rustix::thread::sched_getaffinity(None).unwrap(), before);
    let mut process = shell("true");
    process["execCPUAffinity"] = json!({ "initial": "1000" });
    assert!(running.exec(process).is_err());
    assert_eq!(rustix::thread::sched_getaffinity(None).unwrap(), before);
    running.kill();
}

#[test]
fn resctrl_is_refused_where_there_is_none() {
    if std::path::Path::new("/sys/fs/resctrl/schemata").exists() {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["intelRdt"] = json!({ "l3CacheSchema": "L3:0=f" });
    let error = bundle.failure();
    assert_eq!(invalid_field(&error), "linux.intelRdt");
    assert!(error.to_string().contains("/sys/fs/resctrl"), "{error}");
}

#[test]
fn without_a_mount_namespace_the_mounts_are_nobodys() {
    let mut bundle = Bundle::new(
        "ls /; cat /proc/self/comm; echo x > /dev/null; touch /ro/x 2>/dev/null || echo sealed; cat /proc/keys | wc -c; echo ready; sleep 100",
    );
    bundle.remove_namespace("mount");
    bundle.add_mount(
        json!({ "destination": "/ro", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "private"] }),
    );
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut running = bundle.start();
    let output = running.wait_for_output("ready");
    assert!(
        output.starts_with("bin\ndev\netc\nproc\nro\n") && output.contains("\ncat\nsealed\n0\nready"),
        "{output}"
    );
    assert_eq!(inode(running.container().pid(), "mnt"), inode(std::process::id() as i32, "mnt"));
    let outcome = running.exec(shell("ls /; cat /proc/self/comm; pwd")).unwrap();
    assert!(
        outcome.stdout.starts_with("bin\ndev\netc\n") && outcome.stdout.ends_with("cat\n/\n"),
        "{outcome:?}"
    );
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    running.kill();
    bundle.spec["linux"]["namespaces"] = json!([]);
    bundle.spec["hostname"] = json!("");
    bundle.remove_mount("/sys").remove_mount("/dev/mqueue").args(&["/bin/true"]);
    assert_eq!(bundle.run().code, 0);
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
}

fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// What a snapshotter says of a snapshot whose owners are to be shifted: the layers belong to the host's root on disk, and to the
/// container's in the container.
#[test]
fn a_rootfs_of_layers_with_shifted_owners() {
    let mut bundle =
        Bundle::new("stat -c %u /bin/busybox /bin; echo hi > /new; stat -c %u /new; touch /bin/more");
    add_namespace(&mut bundle, json!({ "type": "user" }));
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    bundle.spec["linux"]["uidMappings"] = map.clone();
    bundle.spec["linux"]["gidMappings"] = map;
    let layer = bundle.dir.path().join("layer");
    std::fs::rename(bundle.root(), &layer).unwrap();
    std::fs::create_dir(bundle.root()).unwrap();
    let (upper, work) = (bundle.dir.path().join("upper"), bundle.dir.path().join("work"));
    std::fs::create_dir(&upper).unwrap();
    std::fs::create_dir(&work).unwrap();
    std::os::unix::fs::lchown(&upper, Some(100_000), Some(100_000)).unwrap();
    let mount = |options: &[&str]| RootfsMount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: [
            format!("lowerdir={}", layer.display()),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", work.display()),
        ]
        .into_iter()
        .chain(options.iter().map(|option| (*option).to_owned()))
        .collect(),
    };
    bundle.rootfs_mounts = vec![mount(&["uidmap=0:100000:65536"])];
    assert_eq!(invalid_field(&bundle.failure()), "rootfs mount");
    bundle.rootfs_mounts = vec![mount(&["uidmap=0:100000:65536", "gidmap=nonsense"])];
    assert_eq!(invalid_field(&bundle.failure()), "rootfs mount");

    bundle.rootfs_mounts = vec![mount(&["uidmap=0:100000:65536", "gidmap=0:100000:65536"])];
    let running = match bundle.create() {
        // A kernel before 6.15 has no such layers: the error says so.
        Err(Error::NotBuilt { feature }) if kernel() < (6, 15) => {
            return assert!(feature.contains("uidmap"), "{feature}");
        }
        other => other.unwrap(),
    };
    drop(running);
    let outcome = bundle.run();
    assert_eq!((outcome.stdout.as_str(), outcome.code), ("0\n0\n0\n", 0), "{outcome:?}");
    assert_eq!(std::fs::metadata(upper.join("new")).unwrap().uid(), 100_000);
    assert_eq!(std::fs::metadata(layer.join("bin/busybox")).unwrap().uid(), 0);
}
