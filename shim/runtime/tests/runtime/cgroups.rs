//! Limits, figures, pausing, running out of memory, and removal.

use crate::bundle::Bundle;
use longshore_runtime::cgroups::{CgroupPaths, Mode, mode, remove_orphan};
use serde_json::json;
use std::path::Path;

/// Reads a control file of the container, wherever this host has the controller.
fn control(bundle: &Bundle, controller: &str, v1: &str, v2: &str) -> String {
    let below = bundle.cgroups_path();
    let path = match mode() {
        Mode::V2 => format!("/sys/fs/cgroup{below}/{v2}"),
        _ => format!("/sys/fs/cgroup/{controller}{below}/{v1}"),
    };
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
}

#[test]
fn limits_are_in_the_files() {
    let mut bundle = Bundle::new("sleep 100");
    let resources = &mut bundle.spec["linux"]["resources"];
    resources["memory"] = json!({ "limit": 67_108_864, "reservation": 33_554_432 });
    resources["cpu"] = json!({ "shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0" });
    resources["pids"] = json!({ "limit": 33 });
    let running = bundle.start();
    assert_eq!(control(&bundle, "memory", "memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(control(&bundle, "memory", "memory.soft_limit_in_bytes", "memory.low"), "33554432");
    assert_eq!(control(&bundle, "pids", "pids.max", "pids.max"), "33");
    assert_eq!(control(&bundle, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    if mode() != Mode::V2 {
        assert_eq!(control(&bundle, "cpu", "cpu.shares", ""), "512");
        assert_eq!(control(&bundle, "cpu", "cpu.cfs_quota_us", ""), "50000");
    }
    running.kill();
}

#[test]
fn limits_can_be_changed() {
    let mut bundle = Bundle::new("sleep 100");
    bundle.spec["linux"]["resources"]["memory"] = json!({ "limit": 67_108_864, "swap": 67_108_864 });
    let mut running = bundle.start();
    for limit in [134_217_728i64, 33_554_432] {
        let update = json!({ "memory": { "limit": limit, "swap": limit }, "pids": { "limit": 44 }, "cpu": { "shares": 100 } });
        running.container().update(&serde_json::from_value(update).unwrap()).unwrap();
        assert_eq!(control(&bundle, "memory", "memory.limit_in_bytes", "memory.max"), limit.to_string());
    }
    assert_eq!(control(&bundle, "pids", "pids.max", "pids.max"), "44");
    let update = json!({ "memory": { "limit": 4096, "checkBeforeUpdate": true } });
    assert!(running.container().update(&serde_json::from_value(update).unwrap()).is_err());
    running.kill();
}

#[test]
fn the_pids_limit_holds() {
    let mut bundle = Bundle::new("for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; wait");
    bundle.spec["linux"]["resources"]["pids"] = json!({ "limit": 4 });
    let outcome = bundle.run();
    assert_ne!(outcome.code, 0);
    assert!(outcome.stderr.contains("fork"), "{outcome:?}");
}

#[test]
fn running_out_of_memory_is_told_apart() {
    let mut bundle = Bundle::new("exec dd if=/dev/zero of=/dev/null bs=200M count=1");
    bundle.spec["linux"]["resources"]["memory"] = json!({ "limit": 20_971_520, "swap": 20_971_520 });
    let mut running = bundle.start();
    let container = running.container();
    let fd = container.oom_fd().unwrap().try_clone_to_owned().unwrap();
    let code = crate::bundle::wait(container.pid(), container.pidfd());
    assert_eq!(code, 137);
    assert!(container.oom_kills() > 0);
    let flags = rustix::event::PollFlags::IN | rustix::event::PollFlags::PRI;
    let mut poll = [rustix::event::PollFd::new(&fd, flags)];
    assert_eq!(rustix::event::poll(&mut poll, Some(&Default::default())).unwrap(), 1);
    running.container.take().unwrap().delete().unwrap();

    let bundle = Bundle::new("sleep 100");
    let mut running = bundle.start();
    running.container().kill(libc::SIGKILL).unwrap();
    let container = running.container();
    assert_eq!(crate::bundle::wait(container.pid(), container.pidfd()), 137);
    assert_eq!(container.oom_kills(), 0);
    running.container.take().unwrap().delete().unwrap();
}

#[test]
fn devices_are_denied_unless_allowed() {
    let script = "mknod /tmp/x c 10 229 && (: < /tmp/x) 2>&1 | grep -c 'not permitted'";
    let bundle = Bundle::new(script);
    assert_eq!(bundle.run().stdout, "1\n");
    let mut bundle = Bundle::new(script);
    bundle.spec["linux"]["resources"]["devices"] = json!([{ "allow": false, "access": "rwm" }, { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm" }]);
    assert_eq!(bundle.run().stdout, "0\n");
    // Everything allowed, as for a privileged container.
    let mut bundle = Bundle::new(script);
    bundle.spec["linux"]["resources"]["devices"] = json!([{ "allow": true, "access": "rwm" }]);
    assert_eq!(bundle.run().stdout, "0\n");
}

#[test]
fn pause_and_resume() {
    let bundle = Bundle::new("i=0; while true; do i=$((i+1)); echo $i; sleep 0.01; done");
    let mut running = bundle.start();
    running.wait_for_output("3\n");
    running.container().pause().unwrap();
    let before = running.stdout();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(running.stdout(), before);
    let paused = running.exec(crate::bundle::shell("true")).err().unwrap();
    assert_eq!(paused.to_string(), "cannot exec in a container that is paused");
    running.container().resume().unwrap();
    let last: u32 = before.lines().last().unwrap().parse().unwrap();
    running.wait_for_output(&format!("\n{}\n", last + 3));
    running.kill();
}

#[test]
fn a_paused_container_can_be_deleted() {
    let bundle = Bundle::new("sleep 100");
    let mut running = bundle.start();
    running.container().pause().unwrap();
    drop(running);
}

#[test]
fn figures() {
    let mut bundle =
        Bundle::new("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 100 & echo done; wait");
    bundle.spec["linux"]["resources"]["memory"] = json!({ "limit": 67_108_864 });
    bundle.spec["linux"]["resources"]["pids"] = json!({ "limit": 10 });
    let mut running = bundle.start();
    running.wait_for_output("done");
    let stats = running.container().stats().unwrap();
    let memory = stats.memory.unwrap();
    assert_eq!(memory.usage.limit, 67_108_864);
    assert!(memory.usage.usage > 0 && memory.get("pgfault") > 0);
    assert!(stats.cpu.unwrap().total > 1_000_000);
    let pids = stats.pids.unwrap();
    assert_eq!((pids.current, pids.limit), (2, 10));
    assert_eq!(running.container().pids().unwrap().len(), 2);
    running.kill();
}

#[test]
fn kill_all_reaches_every_process() {
    let mut bundle = Bundle::new("sleep 100 & sleep 100 & setsid sleep 100 & echo ready; wait");
    bundle.remove_namespace("pid");
    let mut running = bundle.start();
    running.wait_for_output("ready");
    assert_eq!(running.container().pids().unwrap().len(), 4);
    running.container().kill_all(libc::SIGKILL).unwrap();
    assert_eq!(running.finish().code, 137);
}

#[test]
fn delete_ends_what_is_left() {
    // Without a pid namespace the others outlive the first process.
    let mut bundle = Bundle::new("setsid sleep 100 & setsid sleep 100 & exit 3");
    bundle.remove_namespace("pid");
    assert_eq!(bundle.run().code, 3);
}

#[test]
fn cgroups_of_a_dead_shim_are_removed() {
    let bundle = Bundle::new("echo ready; sleep 100");
    let mut running = bundle.start();
    running.wait_for_output("ready");
    let container = running.container.take().unwrap();
    let (pid, pidfd) = (container.pid(), container.pidfd().try_clone_to_owned().unwrap());
    std::mem::drop(container);
    let killer = bundle.cgroups_path();
    let helper = std::thread::spawn(move || remove_orphan(&killer));
    assert_eq!(crate::bundle::wait(pid, std::os::fd::AsFd::as_fd(&pidfd)), 137);
    helper.join().unwrap().unwrap();
    remove_orphan(&bundle.cgroups_path()).unwrap();
}

#[test]
fn a_cgroup_in_use_is_refused() {
    let bundle = Bundle::new("sleep 100");
    let running = bundle.start();
    let mut second = Bundle::new("true");
    second.spec["linux"]["cgroupsPath"] = json!(bundle.cgroups_path());
    let text = second.failure().to_string();
    assert!(text.contains("has processes in it"), "{text}");
    assert!(CgroupPaths::open(&bundle.cgroups_path()).unwrap().is_populated().unwrap());
    running.kill();
}

#[test]
fn impossible_paths_and_limits_are_refused() {
    for path in ["/", "/a/../..", "system.slice:x:y"] {
        let mut bundle = Bundle::new("true");
        bundle.spec["linux"]["cgroupsPath"] = json!(path);
        bundle.failure();
    }
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["resources"]["memory"] = json!({ "limit": 1024, "swappiness": 101 });
    bundle.failure();
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["resources"]["cpu"] = json!({ "cpus": "4095" });
    let text = bundle.failure().to_string();
    assert!(text.contains("cpuset.cpus"), "{text}");
    assert!(!Path::new("/sys/fs/cgroup/memory").join(bundle.cgroups_path().trim_start_matches('/')).exists());
}

#[test]
fn without_a_cgroup_path_there_is_a_default() {
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    let mut running = bundle.start();
    assert_eq!(running.container().cgroups().path(), format!("longshore/{}", bundle.id));
    running.finish();
    // Unless somebody else uses it, the default parent goes too.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
        let _ = std::fs::remove_dir(hierarchy.unwrap().path().join("longshore"));
    }
    let _ = std::fs::remove_dir("/sys/fs/cgroup/longshore");
}

#[test]
fn devices_are_denied_if_the_config_says_nothing_of_them() {
    let mut bundle = Bundle::new(
        "mknod /tmp/x c 10 229 && (: < /tmp/x) 2>&1 | grep -c 'not permitted'; echo x > /dev/null",
    );
    bundle.spec["linux"].as_object_mut().unwrap().remove("resources");
    assert_eq!(bundle.output(), "1");
}

#[test]
fn device_rules_change_live() {
    let open =
        "mknod /tmp/x c 10 229 2>/dev/null; (: < /tmp/x) 2>&1 | grep -c 'not permitted'; echo x > /dev/null";
    let bundle = Bundle::new("echo ready; sleep 100");
    let mut running = bundle.start();
    running.wait_for_output("ready");
    let mut process = crate::bundle::shell(open);
    process["capabilities"] = bundle.spec["process"]["capabilities"].clone();
    let rule =
        |allow: bool| json!({ "allow": allow, "type": "c", "major": 10, "minor": 229, "access": "rwm" });
    for (rules, denied) in [
        (json!([{ "allow": false, "access": "rwm" }]), "1\n"),
        (json!([{ "allow": false, "access": "rwm" }, rule(true)]), "0\n"),
        (json!([{ "allow": true, "access": "rwm" }, rule(false)]), "1\n"),
        (json!([{ "allow": true, "access": "rwm" }]), "0\n"),
        (json!([{ "allow": false, "access": "rwm" }]), "1\n"),
    ] {
        running.container().update(&serde_json::from_value(json!({ "devices": rules })).unwrap()).unwrap();
        assert_eq!(running.exec(process.clone()).unwrap().stdout, denied, "{rules}");
    }
    running.kill();
}

#[test]
fn more_cgroups_below_than_descriptors_are_removed() {
    let bundle = Bundle::new("echo ready; sleep 100");
    let mut running = bundle.start();
    running.wait_for_output("ready");
    let below = match mode() {
        Mode::V2 => format!("/sys/fs/cgroup{}", bundle.cgroups_path()),
        _ => format!("/sys/fs/cgroup/pids{}", bundle.cgroups_path()),
    };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let few = rustix::process::Rlimit { current: Some(64), maximum: limit.maximum };
    for number in 0..100 {
        std::fs::create_dir(format!("{below}/{number}")).unwrap();
    }
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
    assert_eq!(running.container().pids().unwrap().len(), 1);
    running.kill();
}

#[test]
fn real_time_signals_reach_every_process() {
    let bundle = Bundle::new("trap 'exit 7' 36; echo ready; while true; do sleep 0.05; done");
    let mut running = bundle.start();
    running.wait_for_output("ready");
    running.container().kill_all(36).unwrap();
    assert_eq!(running.finish().code, 7);
}
