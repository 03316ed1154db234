//! The shim's `SystemdCgroup`, in the machine of `make test-vm` that booted systemd.

use std::fs;
use std::process::Command;
use std::time::Duration;

use longshore_proto::containerd::runc::v1::Options as RuncOptions;
use longshore_proto::containerd::task::v3 as task;
use prost::Message;
use prost_types::Any;
use serde_json::json;

use crate::foreign::{delete, lives, shim_pid, started};
use crate::harness::{ID, Want, wait_until};

fn show(unit: &str, property: &str) -> String {
    let output = Command::new("systemctl").args(["show", "--value", "-p", property, unit]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn is_v2() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn request(shim: &crate::harness::Shim, want: &Want) -> task::CreateTaskRequest {
    let options = RuncOptions { systemd_cgroup: true, ..Default::default() };
    let options = Any { type_url: "containerd.runc.v1.Options".into(), value: options.encode_to_vec() };
    task::CreateTaskRequest { options: Some(options), ..shim.create_request(want) }
}

#[test]
#[ignore = "needs a booted systemd: make test-vm"]
fn a_scope_goes_with_its_container() {
    let mut want = Want::sh("exec sleep 1000");
    want.adjust = Some(|config| {
        config["linux"]["cgroupsPath"] = json!("longshore-test.slice:shim:asked");
        config["linux"]["resources"] = json!({ "memory": { "limit": 67_108_864 } });
    });
    let mut shim = started(&want, &[]);
    let created: task::CreateTaskResponse = {
        let request = request(&shim, &want);
        shim.client.task("Create", &request).unwrap()
    };
    shim.start().unwrap();
    let unit = "shim-asked.scope";
    let limit = if is_v2() { "MemoryMax" } else { "MemoryLimit" };
    assert_eq!((show(unit, "ActiveState"), show(unit, limit)), ("active".into(), "67108864".into()));
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", created.pid)).unwrap();
    let path = format!(":/longshore.slice/longshore-test.slice/{unit}");
    // v1 has hierarchies that Linux makes but nobody mounts.
    let there = groups.lines().filter(|line| line.ends_with(&path)).count();
    assert!(there == groups.lines().count() || !is_v2() && there > 5, "{groups}");
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.delete("").unwrap();
    assert!(wait_until(Duration::from_secs(10), || show(unit, "LoadState") == "not-found"), "{unit} stays");
}

/// Its name is nowhere in the configuration.
#[test]
#[ignore = "needs a booted systemd: make test-vm"]
fn delete_after_the_shims_death_removes_a_scope_with_the_usual_name() {
    let mut want = Want::sh("exec sleep 1000");
    want.adjust = Some(|config| drop(config["linux"].as_object_mut().unwrap().remove("cgroupsPath")));
    let mut shim = started(&want, &[]);
    let created: task::CreateTaskResponse = {
        let request = request(&shim, &want);
        shim.client.task("Create", &request).unwrap()
    };
    shim.start().unwrap();
    let unit = format!("longshore-{ID}.scope");
    assert_eq!(show(&unit, "ActiveState"), "active");
    let pid = rustix::process::Pid::from_raw(shim_pid(&shim).try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert!(wait_until(Duration::from_secs(10), || !lives(shim_pid(&shim))));
    assert!(lives(created.pid), "containers outlive their shim");
    let response = delete(&shim);
    assert_eq!((response.pid, response.exit_status), (created.pid, 137));
    assert!(wait_until(Duration::from_secs(10), || show(&unit, "LoadState") == "not-found"), "{unit} stays");
    assert!(!lives(created.pid));
}
