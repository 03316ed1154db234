//! What only a host with nothing but the unified hierarchy shows; `make test-vm` runs these in a machine that has it.

use crate::bundle::{Bundle, Outcome, shell, wait};
use longshore_runtime::cgroups::{Mode, mode};
use serde_json::{Value, json};
use std::os::fd::AsFd;
use std::path::PathBuf;

fn folder(bundle: &Bundle) -> PathBuf {
    assert_eq!(mode(), Mode::V2, "this host is no pure cgroup v2 host");
    PathBuf::from(format!("/sys/fs/cgroup{}", bundle.cgroups_path()))
}

fn read(bundle: &Bundle, file: &str) -> String {
    let path = folder(bundle).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}")).trim().to_owned()
}

fn update(bundle: &mut crate::bundle::Running, resources: Value) {
    bundle.container().update(&serde_json::from_value(resources).unwrap()).unwrap();
}

#[test]
#[ignore = "needs a pure cgroup v2 host: make test-vm"]
fn every_limit_is_in_its_file_and_changes_live() {
    let mut bundle = Bundle::new("sleep 100");
    bundle.spec["linux"]["resources"] = json!({
        "memory": { "limit": 67_108_864, "swap": 100_663_296, "reservation": 33_554_432 },
        "cpu": { "shares": 512, "quota": 50_000, "period": 100_000, "burst": 10_000, "cpus": "0", "mems": "0" },
        "pids": { "limit": 33 },
        "blockIO": { "weight": 500 },
        "unified": { "memory.high": "60000000", "cpu.weight.nice": "5" }
    });
    let mut running = bundle.start();
    assert_eq!(read(&bundle, "memory.max"), "67108864");
    assert_eq!(read(&bundle, "memory.low"), "33554432");
    assert_eq!(read(&bundle, "memory.high"), "59998208");
    assert_eq!(read(&bundle, "cpu.max"), "50000 100000");
    assert_eq!(read(&bundle, "cpu.max.burst"), "10000");
    assert_eq!(read(&bundle, "cpu.weight.nice"), "5");
    assert_eq!(read(&bundle, "cpuset.cpus"), "0");
    assert_eq!(read(&bundle, "pids.max"), "33");
    let resources = json!({
        "memory": { "limit": 134_217_728 }, "cpu": { "quota": -1, "cpus": "0-1" }, "pids": { "limit": -1 },
        "unified": { "memory.high": "max" }
    });
    update(&mut running, resources);
    assert_eq!(read(&bundle, "memory.max"), "134217728");
    assert_eq!(read(&bundle, "memory.high"), "max");
    assert_eq!(read(&bundle, "cpu.max"), "max 100000");
    assert_eq!(read(&bundle, "cpuset.cpus"), "0-1");
    assert_eq!(read(&bundle, "pids.max"), "max");
    update(&mut running, json!({ "cpu": { "idle": 1 } }));
    assert_eq!(read(&bundle, "cpu.idle"), "1");
    running.kill();
}

#[test]
#[ignore = "needs a pure cgroup v2 host: make test-vm"]
fn io_is_throttled_by_device() {
    let major = 259; // The machine's disk, /dev/nvme0n1.
    let mut bundle = Bundle::new("sleep 100");
    bundle.spec["linux"]["resources"]["blockIO"] =
        json!({ "throttleReadBpsDevice": [{ "major": major, "minor": 0, "rate": 1_048_576 }] });
    let running = bundle.start();
    let limits = read(&bundle, "io.max");
    assert!(limits.contains("rbps=1048576"), "{limits}");
    running.kill();
}

#[test]
#[ignore = "needs a pure cgroup v2 host: make test-vm"]
fn huge_pages_are_limited() {
    let mut bundle = Bundle::new("sleep 100");
    bundle.spec["linux"]["resources"]["hugepageLimits"] = json!([{ "pageSize": "2MB", "limit": 4_194_304 }]);
    let running = bundle.start();
    assert_eq!(read(&bundle, "hugetlb.2MB.max"), "4194304");
    running.kill();
}

#[test]
#[ignore = "needs a pure cgroup v2 host: make test-vm"]
fn processes_are_born_in_their_cgroup() {
    // With the limit at one no process can be moved in beside the first, but an exec is refused at its birth: EAGAIN.
    let mut bundle = Bundle::new("echo ready; read x < /dev/zero");
    bundle.spec["linux"]["resources"]["pids"] = json!({ "limit": 1 });
    let mut running = bundle.start();
    running.wait_for_output("ready");
    let refused = running.exec(shell("true")).unwrap_err().to_string();
    assert!(refused.contains("clone the process"), "{refused}");
    let events = read(&bundle, "pids.events");
    assert_ne!(events, "max 0");
    running.kill();
    // And inside, nothing above shows.
    assert_eq!(Bundle::new("cat /proc/self/cgroup").output(), "0::/");
}

#[test]
#[ignore = "needs a pure cgroup v2 host: make test-vm"]
fn frozen_containers_are_killed() {
    let bundle = Bundle::new("setsid sleep 100 & setsid sleep 100 & echo ready; wait");
    let mut running = bundle.start();
    running.wait_for_output("ready");
    running.container().pause().unwrap();
    assert!(read(&bundle, "cgroup.events").contains("frozen 1"));
    running.container().kill_all(libc::SIGKILL).unwrap();
    let pidfd = running.container().pidfd().try_clone_to_owned().unwrap();
    assert_eq!(wait(running.container().pid(), pidfd.as_fd()), 137);
    running.container.take().unwrap().delete().unwrap();
}

#[test]
#[ignore = "needs a pure cgroup v2 host: make test-vm"]
fn a_container_can_delegate_to_containers_of_its_own() {
    // As an init with cgroups would: leave the top, hand the controllers down, limit a child.
    let script = "mkdir /sys/fs/cgroup/top /sys/fs/cgroup/child && echo 1 > /sys/fs/cgroup/top/cgroup.procs \
         && echo '+pids +memory' > /sys/fs/cgroup/cgroup.subtree_control && echo 2 > /sys/fs/cgroup/child/pids.max \
         && sh -c 'echo $$ > /sys/fs/cgroup/child/cgroup.procs; cat /sys/fs/cgroup/child/pids.max; cat /proc/self/cgroup'";
    let mut bundle = Bundle::new(script);
    bundle.remove_mount("/sys/fs/cgroup");
    bundle.add_mount(
        json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"] }),
    );
    let Outcome { code, stdout, stderr } = bundle.run();
    assert_eq!((code, stdout.as_str()), (0, "2\n0::/child\n"), "{stderr}");
    // Its own limits are not for it to lift: nsdelegate, which criu takes from the whole host when it mounts the hierarchy.
    let again = ["-o", "remount,nsdelegate,memory_recursiveprot", "/sys/fs/cgroup"];
    assert!(std::process::Command::new("mount").args(again).status().unwrap().success());
    let mut bundle = Bundle::new("echo max > /sys/fs/cgroup/pids.max && echo lifted || echo kept");
    bundle.spec["linux"]["resources"]["pids"] = json!({ "limit": 20 });
    bundle.remove_mount("/sys/fs/cgroup");
    bundle.add_mount(
        json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"] }),
    );
    assert_eq!(bundle.output(), "kept");
}
