//! Cgroups made by systemd; `make test-vm` runs these in a machine that booted one.

use crate::bundle::{Bundle, Running, shell};
use longshore_runtime::cgroups::{CgroupPaths, remove_orphan};
use serde_json::json;
use std::process::Command;

fn systemd(script: &str, name: &str) -> Bundle {
    let mut bundle = Bundle::new(script);
    bundle.systemd = true;
    bundle.spec["linux"]["cgroupsPath"] = json!(format!("longshore-test.slice:ls:{name}"));
    bundle
}

fn show(unit: &str, property: &str) -> String {
    let output = Command::new("systemctl").args(["show", "--value", "-p", property, unit]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn is_v2() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A control file, by its name on v2.
fn control(running: &mut Running, file: &str) -> String {
    let group = running.container().cgroups().path().to_owned();
    let read = |path: String| {
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
    };
    let v1 = |controller: &str, file: &str| read(format!("/sys/fs/cgroup/{controller}/{group}/{file}"));
    match file {
        _ if is_v2() => read(format!("/sys/fs/cgroup/{group}/{file}")),
        "memory.max" => v1("memory", "memory.limit_in_bytes"),
        "cpu.max" => format!("{} {}", v1("cpu", "cpu.cfs_quota_us"), v1("cpu", "cpu.cfs_period_us")),
        file => v1(file.split('.').next().unwrap(), file),
    }
}

/// The memory limit that systemd knows.
fn memory(unit: &str) -> String {
    show(unit, if is_v2() { "MemoryMax" } else { "MemoryLimit" })
}

/// Every cgroup that the process sees is the root.
fn sees_roots(text: &str) -> bool {
    !text.is_empty() && text.lines().all(|line| line.ends_with(":/"))
}

#[test]
fn without_systemd_the_driver_is_refused() {
    if std::path::Path::new("/run/systemd/system").exists() {
        return;
    }
    let text = systemd("true", "none").failure().to_string();
    assert!(text.contains("systemd") && text.contains("cgroupfs"), "{text}");
}

#[test]
#[ignore = "needs a booted systemd: make test-vm"]
fn a_scope_holds_the_container_and_its_limits() {
    let mut bundle = systemd("echo ready; sleep 100", "limits");
    bundle.spec["linux"]["resources"] = json!({
        "devices": [{ "allow": false, "access": "rwm" }],
        "memory": { "limit": 67_108_864, "reservation": 33_554_432 },
        "cpu": { "shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0" },
        "pids": { "limit": 33 }
    });
    bundle.spec["annotations"] = json!({
        "org.systemd.property.TimeoutStopSec": "uint64 7",
        "org.systemd.property.CollectMode": "'inactive-or-failed'"
    });
    let mut running = bundle.start();
    running.wait_for_output("ready");
    let unit = "ls-limits.scope";
    assert_eq!(running.container().cgroups().path(), "longshore.slice/longshore-test.slice/ls-limits.scope");
    assert_eq!(show(unit, "ActiveState"), "active");
    assert_eq!(show(unit, "Slice"), "longshore-test.slice");
    assert_eq!(show(unit, "Delegate"), "yes");
    assert_eq!((memory(unit), show(unit, "TasksMax")), ("67108864".into(), "33".into()));
    assert_eq!(show(unit, "CPUQuotaPerSecUSec"), "500ms");
    assert_eq!(show(unit, "TimeoutStopUSec"), "7s");
    assert_eq!(show(unit, "CollectMode"), "inactive-or-failed");
    for (file, value) in
        [("memory.max", "67108864"), ("pids.max", "33"), ("cpu.max", "50000 100000"), ("cpuset.cpus", "0")]
    {
        assert_eq!(control(&mut running, file), value, "{file}");
    }
    // Only the container is in it: what held the scope is gone.
    assert_eq!(running.container().pids().unwrap().len(), 1);
    let update = json!({ "memory": { "limit": 134_217_728 }, "pids": { "limit": 44 }, "cpu": { "quota": 20_000, "period": 100_000 } });
    running.container().update(&serde_json::from_value(update).unwrap()).unwrap();
    // systemd applies its own view again, and has ours.
    assert!(Command::new("systemctl").arg("daemon-reload").status().unwrap().success());
    assert_eq!((memory(unit), show(unit, "TasksMax")), ("134217728".into(), "44".into()));
    for (file, value) in [("memory.max", "134217728"), ("pids.max", "44"), ("cpu.max", "20000 100000")] {
        assert_eq!(control(&mut running, file), value, "{file}");
    }
    let seen = running.exec(shell("cat /proc/self/cgroup; echo x > /dev/null")).unwrap().stdout;
    assert!(sees_roots(&seen), "{seen}");
    running.kill();
    assert_eq!(show(unit, "LoadState"), "not-found");
}

#[test]
#[ignore = "needs a booted systemd: make test-vm"]
fn devices_are_allowed_by_both_filters() {
    let open = "mknod /tmp/x c 10 229 2>/dev/null; (: < /tmp/x) 2>&1 | grep -c 'not permitted'";
    let mut bundle = systemd("echo ready; sleep 100", "devices");
    bundle.spec["linux"]["resources"] = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
    let mut running = bundle.start();
    running.wait_for_output("ready");
    let mut process = shell(open);
    process["capabilities"] = bundle.spec["process"]["capabilities"].clone();
    assert_eq!(running.exec(process.clone()).unwrap().stdout, "1\n");
    let allowed = json!({ "devices": [
        { "allow": false, "access": "rwm" }, { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm" }
    ] });
    running.container().update(&serde_json::from_value(allowed).unwrap()).unwrap();
    assert_eq!(running.exec(process.clone()).unwrap().stdout, "0\n");
    running
        .container()
        .update(&serde_json::from_value(json!({ "devices": [{ "allow": false, "access": "rwm" }] })).unwrap())
        .unwrap();
    assert_eq!(running.exec(process).unwrap().stdout, "1\n");
    running.kill();
}

#[test]
#[ignore = "needs a booted systemd: make test-vm"]
fn units_have_usual_names_and_are_found_again() {
    let mut bundle = systemd("echo ready; sleep 100", "x");
    bundle.spec["linux"]["cgroupsPath"] = json!("");
    let mut running = bundle.start();
    running.wait_for_output("ready");
    let path = format!("system.slice/longshore-{}.scope", bundle.id);
    assert_eq!(running.container().cgroups().path(), path);
    let record = running.container().cgroups().record();
    let again = CgroupPaths::open(&record).unwrap();
    assert_eq!((again.path(), again.pids().unwrap().len()), (path.as_str(), 1));
    again.kill_all(libc::SIGKILL).unwrap();
    assert_eq!(running.finish().code, 137);
    remove_orphan(&record).unwrap();
    assert!(CgroupPaths::open(&path).unwrap().hierarchies().is_empty());
}

#[test]
#[ignore = "needs a booted systemd: make test-vm"]
fn a_name_can_be_taken_once_and_again_later() {
    for _ in 0..2 {
        assert_eq!(systemd("echo first", "again").output(), "first");
    }
    let first = systemd("sleep 100", "taken");
    let running = first.start();
    let text = systemd("true", "taken").failure().to_string();
    assert!(text.contains("start ls-taken.scope"), "{text}");
    running.kill();
}

#[test]
#[ignore = "needs a booted systemd: make test-vm"]
fn what_cannot_be_a_unit_is_refused() {
    for (path, annotation) in [
        ("/plain", None),
        ("a:b:c", None),
        ("longshore-test.slice:ls:x", Some(("TimeoutStopSec", "soon"))),
        ("longshore-test.slice:ls:x", Some(("NoSuchProperty", "'x'"))),
    ] {
        let mut bundle = systemd("true", "x");
        bundle.spec["linux"]["cgroupsPath"] = json!(path);
        if let Some((name, value)) = annotation {
            bundle.spec["annotations"] = json!({ (format!("org.systemd.property.{name}")): value });
        }
        let text = bundle.failure().to_string();
        assert!(
            ["cgroupsPath", "annotations", "NoSuchProperty"].iter().any(|part| text.contains(part)),
            "{text}"
        );
    }
    assert_eq!(show("ls-x.scope", "LoadState"), "not-found");
}

#[test]
#[ignore = "needs a booted systemd: make test-vm"]
fn a_slice_is_the_containers_own_or_refused() {
    let name = "longshore-test-own.slice";
    let mut bundle = systemd("echo ready; sleep 100", "x");
    bundle.spec["linux"]["cgroupsPath"] = json!(format!("::{name}"));
    bundle.spec["linux"]["resources"] = json!({
        "devices": [{ "allow": false, "access": "rwm" }], "memory": { "limit": 67_108_864 }, "pids": { "limit": 33 }
    });
    let mut running = bundle.start();
    running.wait_for_output("ready");
    let path = "longshore.slice/longshore-test.slice/longshore-test-own.slice";
    assert_eq!(running.container().cgroups().path(), path);
    assert_eq!(show(name, "ActiveState"), "active");
    assert_eq!((memory(name), show(name, "TasksMax")), ("67108864".into(), "33".into()));
    assert_eq!(control(&mut running, "memory.max"), "67108864");
    assert_eq!(running.container().pids().unwrap().len(), 1);
    // Another container must not get in, nor end it.
    let mut other = systemd("true", "x");
    other.spec["linux"]["cgroupsPath"] = json!(format!("::{name}"));
    let text = other.failure().to_string();
    assert!(text.contains("exists already"), "{text}");
    assert_eq!(running.container().pids().unwrap().len(), 1);
    running.kill();
    assert!(CgroupPaths::open(path).unwrap().hierarchies().is_empty());
    assert_ne!(show(name, "ActiveState"), "active");
}
