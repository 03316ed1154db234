//! Published weaknesses of other runtimes that this one must not have, each named by its id.

use crate::bundle::{Bundle, shell};
use longshore_runtime::Error;
use serde_json::json;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

/// Somebody of the container's own user, with more capabilities than a further process, looks at that before and after its
/// `execve`: nothing but its not being dumpable is in the way.
fn look_at_a_waiting_process(mut bundle: Bundle) {
    let all = json!(["CAP_DAC_OVERRIDE", "CAP_KILL"]);
    bundle.spec["process"]["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all });
    let mut running = bundle.start();
    running.wait_for_output("ready");
    // Inside the container's pid namespace already.
    let (mut waiting, _, _) = running.exec_waiting(shell("exec sleep 100")).unwrap();
    let mut look = shell(
        "for p in /proc/[0-9]*; do [ $p = /proc/1 ] || [ $p = /proc/$$ ] || ls -l $p/fd/0 $p/exe; done",
    );
    look["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all });
    let outcome = running.exec(look.clone()).unwrap();
    assert!(outcome.stderr.contains("Permission denied"), "{outcome:?}");
    assert!(!outcome.stdout.contains("->"), "{outcome:?}");
    waiting.start().unwrap();
    let outcome = running.exec(look).unwrap();
    assert!(
        outcome.stdout.contains("/bin/busybox") && outcome.stdout.contains("-> /dev/null"),
        "{outcome:?}"
    );
    waiting.kill(libc::SIGKILL).unwrap();
    crate::bundle::wait(waiting.pid(), waiting.pidfd());
    running.kill();
}

#[test]
fn cve_2016_9962_a_process_that_is_being_set_up_cannot_be_looked_into() {
    look_at_a_waiting_process(Bundle::new("echo ready; sleep 100"));
}

#[test]
fn cve_2016_9962_nor_can_it_in_a_user_namespace() {
    let mut bundle = Bundle::new("echo ready; sleep 100");
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    bundle.spec["linux"]["uidMappings"] = map.clone();
    bundle.spec["linux"]["gidMappings"] = map;
    for folder in ["", "bin", "dev", "proc", "sys", "tmp", "etc", "root"] {
        std::os::unix::fs::lchown(bundle.root().join(folder), Some(100_000), Some(100_000)).unwrap();
    }
    look_at_a_waiting_process(bundle);
}

/// A container's program that stops every process which appears beside it, and then looks into it.
fn stop_and_look(secret: &std::path::Path) -> String {
    format!(
        "echo ready; while :; do i=2; while [ $i -lt 400 ]; do i=$((i+1)); kill -STOP $i 2>/dev/null || continue; \
         cat /proc/$i/root{} && echo LEAK; echo x > /proc/$i/root{0}.2 && echo LEAK; \
         for f in /proc/$i/fd/*; do readlink $f; done; echo stopped; kill -KILL $i; done; done",
        secret.display()
    )
}

/// A container that stops every process which appears beside it, and then looks into it with all rights that a debugger has.
#[test]
fn cve_2016_9962_a_stopped_exec_shows_nothing_of_the_host_and_holds_nobody_up() {
    let mut bundle = Bundle::new("");
    let secret = bundle.dir.path().join("secret");
    std::fs::write(&secret, "host\n").unwrap();
    let attack = stop_and_look(&secret);
    bundle.args(&["/bin/sh", "-c", &attack]);
    let all = json!(["CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SYS_PTRACE"]);
    bundle.spec["process"]["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all });
    let mut running = bundle.start();
    running.wait_for_output("ready");
    let (mut failed, until) = (0, Instant::now() + Duration::from_secs(20));
    while failed < 5 && Instant::now() < until {
        let began = Instant::now();
        // Stopped and killed as its program, or before, when the runtime says so.
        failed += usize::from(running.exec(shell("true")).is_err());
        assert!(began.elapsed() < Duration::from_secs(15), "an exec was held up for {:?}", began.elapsed());
    }
    let seen = running.stdout();
    running.kill();
    assert!(failed > 0, "no exec was ever met before it was its program: {seen}");
    assert!(seen.contains("stopped") && !seen.contains("LEAK") && !seen.contains("host\n"), "{seen}");
    assert!(!seen.contains("/sys/fs/cgroup") && !seen.contains("cgroup.procs"), "{seen}");
    assert!(!secret.with_extension("2").exists());
}

/// The same attack on the first process of another container that joins the attacker's process ids, as in a pod.
#[test]
fn cve_2016_9962_a_container_that_joins_process_ids_shows_nothing_of_the_host() {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = kernel.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    if (numbers.next().unwrap(), numbers.next().unwrap()) < (6, 18) {
        eprintln!("skipped: before Linux 6.18 a procfs is made by a process in its pid namespace");
        return;
    }
    let mut bundle = Bundle::new("");
    let secret = bundle.dir.path().join("secret");
    std::fs::write(&secret, "host\n").unwrap();
    bundle.args(&["/bin/sh", "-c", &stop_and_look(&secret)]);
    let all = json!(["CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SYS_PTRACE"]);
    bundle.spec["process"]["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all });
    let mut running = bundle.start();
    running.wait_for_output("ready");
    let (mut met, until) = (0, Instant::now() + Duration::from_secs(20));
    while met < 5 && Instant::now() < until {
        let mut second = Bundle::new("ls /proc/self/root/bin/sh && echo mine; ls -d /proc/1 && echo ours");
        second.remove_namespace("pid");
        let path = format!("/proc/{}/ns/pid", running.container().pid());
        second.spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "type": "pid", "path": path }));
        let began = Instant::now();
        let outcome = second.create().and_then(|mut other| other.container().start().map(|()| other));
        // Killed while it was being set up, or as its program.
        let killed = outcome.map_or(true, |other| other.finish().code != 0);
        met += usize::from(killed);
        assert!(began.elapsed() < Duration::from_secs(15), "a create was held up for {:?}", began.elapsed());
    }
    let seen = running.stdout();
    running.kill();
    assert!(met > 0, "no container was ever met: {seen}");
    assert!(seen.contains("stopped") && !seen.contains("LEAK") && !seen.contains("host\n"), "{seen}");
    assert!(!seen.contains("/sys/fs/cgroup") && !seen.contains("cgroup.procs"), "{seen}");
    assert!(!secret.with_extension("2").exists());
}

/// One that is stopped for good.
#[test]
fn an_exec_that_stands_still_is_given_up() {
    let mut bundle = Bundle::new("");
    let attack = "echo ready; while :; do i=2; while [ $i -lt 400 ]; do i=$((i+1)); kill -STOP $i 2>/dev/null; done; done";
    bundle.args(&["/bin/sh", "-c", attack]);
    let mut running = bundle.start();
    running.wait_for_output("ready");
    let until = Instant::now() + Duration::from_secs(20);
    let stuck = loop {
        let mut process = match running.exec_waiting(shell("true")) {
            Ok((process, ..)) => process,
            Err(error) => break error,
        };
        let started = process.start();
        // A container does not end before those that were put into it are reaped.
        let _ = process.kill(libc::SIGKILL);
        crate::bundle::wait(process.pid(), process.pidfd());
        match started {
            Ok(()) => assert!(Instant::now() < until, "no exec was ever stopped"),
            Err(error) => break error,
        }
    };
    assert!(matches!(stuck, Error::Stuck { .. }), "{stuck}");
    running.kill();
}

#[test]
fn cve_2019_5736_the_runtime_cannot_be_reached_through_proc_self_exe() {
    let mut bundle = Bundle::new("echo ready; sleep 100");
    symlink("/proc/self/exe", bundle.root().join("evil")).unwrap();
    for program in ["/evil", "/proc/self/exe", "/proc/1/exe"] {
        bundle.args(&[program, "-c", "echo never"]);
        let error = bundle.failure();
        assert!(matches!(error, Error::Exec { errno: libc::ELOOP, .. }), "{error}");
    }
    bundle.args(&["/bin/sh", "-c", "echo ready; sleep 100"]);
    let mut running = bundle.start();
    running.wait_for_output("ready");
    let mut process = shell("");
    process["args"] = json!(["/evil"]);
    assert!(matches!(running.exec(process).unwrap_err(), Error::Exec { errno: libc::ELOOP, .. }));
    running.kill();
}

#[test]
fn cve_2019_16884_links_over_proc_and_sys_are_errors() {
    for name in ["proc", "sys"] {
        let bundle = Bundle::new("true");
        std::fs::remove_dir(bundle.root().join(name)).unwrap();
        symlink("tmp", bundle.root().join(name)).unwrap();
        let text = bundle.failure().to_string();
        assert!(text.contains(&format!("\"/{name}\"")) && text.contains("symbolic link"), "{text}");
    }
}

#[test]
fn cve_2019_19921_a_volume_over_proc_is_an_error() {
    let mut bundle = Bundle::new("true");
    let volume = bundle.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    bundle.remove_mount("/proc");
    bundle
        .add_mount(json!({ "destination": "/proc", "type": "bind", "source": volume, "options": ["rbind"] }));
    assert!(matches!(bundle.failure(), Error::InvalidSpec { .. }));
}

#[test]
fn cve_2023_27561_a_proc_that_is_a_file_is_an_error() {
    let bundle = Bundle::new("true");
    std::fs::remove_dir(bundle.root().join("proc")).unwrap();
    std::fs::write(bundle.root().join("proc"), "").unwrap();
    let text = bundle.failure().to_string();
    assert!(text.contains("\"/proc\"") && text.contains("not a directory"), "{text}");
}

#[test]
fn cve_2019_18837_a_rootfs_that_is_a_link_is_an_error() {
    let bundle = Bundle::new("touch /changed");
    let real = bundle.dir.path().join("real");
    std::fs::rename(bundle.root(), &real).unwrap();
    symlink(&real, bundle.root()).unwrap();
    bundle.failure();
    assert!(!real.join("changed").exists());
}

#[test]
fn cve_2021_30465_a_mount_target_that_is_swapped_stays_in_the_root() {
    let mut bundle = Bundle::new("true");
    let shared = bundle.dir.path().join("shared");
    std::fs::create_dir_all(shared.join("real/target")).unwrap();
    let outside = bundle.dir.path().join("outside");
    std::fs::create_dir_all(outside.join("target")).unwrap();
    bundle.add_mount(
        json!({ "destination": "/shared", "type": "bind", "source": shared, "options": ["rbind"] }),
    );
    bundle.add_mount(json!({ "destination": "/shared/swap/target", "type": "tmpfs", "source": "tmpfs" }));
    symlink("real", shared.join("swap")).unwrap();
    let (stop, flag) = std::sync::mpsc::channel::<()>();
    let attacker = std::thread::spawn({
        let (shared, outside) = (shared.clone(), outside.clone());
        move || {
            symlink(format!("/../../../../../..{}", outside.display()), shared.join("bad")).unwrap();
            symlink("real", shared.join("good")).unwrap();
            while flag.try_recv().is_err() {
                for name in ["bad", "good"] {
                    let _ = symlink(std::fs::read_link(shared.join(name)).unwrap(), shared.join("next"));
                    let _ = std::fs::rename(shared.join("next"), shared.join("swap"));
                }
            }
        }
    });
    for _ in 0..30 {
        if let Ok(mut running) = bundle.create() {
            let pid = running.container().pid();
            let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
            // Wherever the link led: the mount is inside the container's root, so it is in sight there.
            assert!(
                mounts.lines().any(|line| line.split(' ').nth(4).unwrap().ends_with("/target")),
                "{mounts}"
            );
        }
    }
    stop.send(()).unwrap();
    attacker.join().unwrap();
    assert_eq!(std::fs::read_dir(outside.join("target")).unwrap().count(), 0);
}

#[test]
fn cve_2024_45310_making_a_target_makes_nothing_outside() {
    let mut bundle = Bundle::new("true");
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), bundle.root().join("link")).unwrap();
    let file = bundle.dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    bundle.add_mount(
        json!({ "destination": "/link/new/file", "type": "bind", "source": file, "options": ["bind"] }),
    );
    let _ = bundle.create();
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn cve_2021_43784_huge_id_maps_are_refused() {
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    let map: Vec<_> =
        (0..5000).map(|n| json!({ "containerID": n, "hostID": 100_000 + n, "size": 1 })).collect();
    bundle.spec["linux"]["uidMappings"] = json!(map);
    bundle.spec["linux"]["gidMappings"] = json!(map);
    let text = bundle.failure().to_string();
    assert!(text.contains("the kernel's limit"), "{text}");
}

#[test]
fn cve_2022_24769_no_inheritable_capabilities_unless_asked_for() {
    let bundle = Bundle::new("grep CapInh /proc/self/status; sleep 100");
    let mut running = bundle.start();
    assert!(running.wait_for_output("CapInh").contains("0000000000000000"));
    let mut process = shell("grep CapInh /proc/self/status");
    let all = json!(["CAP_CHOWN"]);
    process["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all });
    assert!(running.exec(process).unwrap().stdout.contains("0000000000000000"));
    running.kill();
}

#[test]
fn cve_2023_25809_cgroups_are_read_only_without_a_cgroup_namespace() {
    let mut bundle =
        Bundle::new("for f in /sys/fs/cgroup/*; do mkdir $f/escape 2>/dev/null && echo $f; done; true");
    bundle.remove_namespace("cgroup");
    assert_eq!(bundle.output(), "");
}

#[test]
fn cve_2024_21626_no_descriptor_of_the_host_is_left_open() {
    let bundle = Bundle::new("ls -1 /proc/self/fd | tr '\\n' ' '");
    // 3 is the folder that ls reads.
    assert_eq!(bundle.output(), "0 1 2 3");
    for n in 3..64 {
        let mut bundle = Bundle::new("pwd; ls");
        bundle.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{n}"));
        let error = bundle.failure().to_string();
        assert!(error.starts_with("chdir to cwd"), "{error}");
        if n > 8 && n % 8 != 0 {
            continue;
        }
        let mut bundle = Bundle::new("");
        bundle.args(&[&format!("/proc/self/fd/{n}/bin/sh"), "-c", "true"]);
        bundle.failure();
    }
}

#[test]
fn cve_2024_21626_exec_has_none_either() {
    let bundle = Bundle::new("echo ready; sleep 100");
    let mut running = bundle.start();
    running.wait_for_output("ready");
    assert_eq!(running.exec(shell("ls -1 /proc/self/fd | tr '\\n' ' '")).unwrap().stdout, "0 1 2 3 ");
    for n in 3..40 {
        let mut process = shell("pwd");
        process["cwd"] = json!(format!("/proc/self/fd/{n}"));
        assert!(running.exec(process).is_err());
    }
    running.kill();
}

#[test]
fn cve_2025_31133_a_null_device_that_is_none_is_an_error() {
    // Without a /dev mount the rootfs's own /dev is used.
    let mut bundle = Bundle::new("true");
    for mount in ["/dev", "/dev/pts", "/dev/mqueue", "/dev/shm"] {
        bundle.remove_mount(mount);
    }
    symlink("/proc/sys/kernel/core_pattern", bundle.root().join("dev/null")).unwrap();
    let text = bundle.failure().to_string();
    assert!(text.contains("\"/dev/null\"") && text.contains("not safe"), "{text}");
}

#[test]
fn cve_2026_88264_devices_and_console_are_not_followed_in_the_rootfs() {
    let mut bundle = Bundle::new("true");
    bundle.remove_mount("/dev").remove_mount("/dev/mqueue").remove_mount("/dev/shm");
    let victim = bundle.root().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    std::fs::create_dir(bundle.root().join("dev/pts")).unwrap();
    symlink("/victim", bundle.root().join("dev/console")).unwrap();
    bundle.spec["process"]["terminal"] = json!(true);
    let error = bundle.create_with(longshore_runtime::Stdio::Terminal).err().unwrap().to_string();
    assert!(error.contains("terminal"), "{error}");
    assert_eq!(std::fs::read_to_string(victim).unwrap(), "untouched");
}

#[test]
fn cve_2026_41579_a_dev_that_is_a_link_is_an_error() {
    let mut bundle = Bundle::new("true");
    for mount in ["/dev", "/dev/pts", "/dev/mqueue", "/dev/shm"] {
        bundle.remove_mount(mount);
    }
    std::fs::remove_dir(bundle.root().join("dev")).unwrap();
    symlink("/tmp", bundle.root().join("dev")).unwrap();
    bundle.failure();
    assert_eq!(std::fs::read_dir(bundle.root().join("tmp")).unwrap().count(), 0);
}

#[test]
fn cve_2026_30892_the_group_of_a_user_is_as_given() {
    let bundle = Bundle::new("echo ready; sleep 100");
    let mut running = bundle.start();
    running.wait_for_output("ready");
    let mut process = shell("echo $(id -u):$(id -g)");
    process["user"] = json!({ "uid": 1, "gid": 0 });
    assert_eq!(running.exec(process).unwrap().stdout, "1:0\n");
    running.kill();
}

#[test]
fn cve_2026_47262_a_passwd_that_is_a_fifo_or_huge_does_not_hold_anybody_up() {
    let mut bundle = Bundle::new("echo $HOME");
    bundle.spec["process"]["env"] = json!(["PATH=/bin"]);
    let passwd = bundle.root().join("etc/passwd");
    rustix::fs::mknodat(rustix::fs::CWD, &passwd, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    assert_eq!(bundle.output(), "/");
    std::fs::remove_file(&passwd).unwrap();
    std::fs::File::create(&passwd).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(bundle.output(), "/");
}

#[test]
fn ghsa_7ww5_masked_paths_cover_folders_below_sys() {
    let mut bundle = Bundle::new("ls /sys/devices/virtual/mem | wc -l");
    bundle.spec["linux"]["maskedPaths"] = json!(["/sys/devices/virtual/mem"]);
    assert_eq!(bundle.output(), "0");
}
