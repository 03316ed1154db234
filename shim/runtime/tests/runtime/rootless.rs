//! Containers of ordinary users: each test calls itself once more as one. `make test-vm` has such users: `many` with
//! subordinate ids, `single` without.

use crate::bundle::Bundle;
use serde_json::json;
use std::os::unix::process::CommandExt;
use std::process::Command;

const MANY: u32 = 1000;
const SINGLE: u32 = 1001;

/// Runs a test's body as a user: the test calls itself as that user, and then forks, as only a process of one thread can
/// enter a user namespace.
fn as_user(user: u32, test: &str, body: impl FnOnce()) {
    if !rustix::process::geteuid().is_root() {
        return in_a_fork(body);
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("XDG_RUNTIME_DIR", format!("/run/user/{user}"))
        .uid(user)
        .gid(user)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("1 passed"), "{out}\n{err}");
}

fn in_a_fork(body: impl FnOnce()) {
    // SAFETY: the other threads of a test's process do nothing but wait for it, so that none of them holds a lock.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err();
        std::process::exit(i32::from(failed));
    }
    let pid = rustix::process::Pid::from_raw(pid);
    let status = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).unwrap().unwrap().1;
    assert_eq!(status.exit_status(), Some(0));
}

fn rootless(script: &str) -> Bundle {
    let mut bundle = Bundle::new(script);
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    bundle.spec["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    bundle
}

#[test]
#[ignore = "needs the users of the machine of make test-vm"]
fn subordinate_ids_are_mapped() {
    as_user(MANY, "rootless::subordinate_ids_are_mapped", || {
        let mut bundle = rootless(
            "cat /proc/self/uid_map; id -u; chown 33:33 /tmp && stat -c %u /tmp; cat /proc/self/setgroups",
        );
        let ids = json!([{ "containerID": 0, "hostID": MANY, "size": 1 }, { "containerID": 1, "hostID": 100_000, "size": 65536 }]);
        bundle.spec["linux"]["uidMappings"] = ids.clone();
        bundle.spec["linux"]["gidMappings"] = ids;
        let words: Vec<String> = bundle.output().split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, ["0", "1000", "1", "1", "100000", "65536", "0", "33", "allow"]);
    });
}

#[test]
#[ignore = "needs the users of the machine of make test-vm"]
fn without_maps_there_are_the_usual_ones() {
    as_user(MANY, "rootless::without_maps_there_are_the_usual_ones", || {
        let words: Vec<String> =
            rootless("cat /proc/self/gid_map").output().split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, ["0", "1000", "1", "1", "100000", "65536"]);
    });
}

#[test]
#[ignore = "needs the users of the machine of make test-vm"]
fn a_user_without_further_ids_has_his_own() {
    as_user(SINGLE, "rootless::a_user_without_further_ids_has_his_own", || {
        // The usual devpts is given to group 5, which is not there.
        let bundle = rootless(
            "cat /proc/self/uid_map; cat /proc/self/setgroups; echo x > /dev/null; hostname; mount | grep -c mqueue; sleep 100",
        );
        let mut running = bundle.start();
        let text = running.wait_for_output("testhost\n1\n");
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words, ["0", "1001", "1", "deny", "testhost", "1"]);
        let outcome = running.exec(crate::bundle::shell("id -u; ls /proc | grep -c '^[0-9]'")).unwrap();
        assert!(outcome.stdout.starts_with("0\n"), "{outcome:?}");
        running.kill();
    });
}

#[test]
#[ignore = "needs the users of the machine of make test-vm"]
fn ids_of_others_are_refused() {
    as_user(MANY, "rootless::ids_of_others_are_refused", || {
        let mut bundle = rootless("true");
        let ids = json!([{ "containerID": 0, "hostID": 0, "size": 1 }]);
        bundle.spec["linux"]["uidMappings"] = ids.clone();
        bundle.spec["linux"]["gidMappings"] = ids;
        let text = bundle.failure().to_string();
        assert!(text.contains("newgidmap refused") && text.contains("/etc/subgid"), "{text}");
    });
}

#[test]
#[ignore = "needs the users of the machine of make test-vm"]
fn the_hosts_namespaces_can_be_shared() {
    as_user(SINGLE, "rootless::the_hosts_namespaces_can_be_shared", || {
        // Neither sysfs nor mqueue can be mounted then: the host's are shown.
        let mut bundle =
            rootless("test -d /sys/class/net/lo && mount | grep -c -e ' /sys type sysfs' -e ' /dev/mqueue '");
        bundle.remove_namespace("network").remove_namespace("ipc").remove_mount("/sys/fs/cgroup");
        bundle.output();
    });
}

#[test]
#[ignore = "needs the users of the machine of make test-vm"]
fn limits_without_a_cgroup_are_refused() {
    as_user(SINGLE, "rootless::limits_without_a_cgroup_are_refused", || {
        let mut bundle = rootless("true");
        bundle.spec["linux"]["resources"]["pids"] = json!({ "limit": 10 });
        let text = bundle.failure().to_string();
        assert!(text.contains("pids"), "{text}");
    });
}

#[test]
#[ignore = "needs the users and the systemd of the machine of make test-vm"]
fn a_users_systemd_delegates_a_cgroup() {
    if !std::path::Path::new("/run/systemd/system").exists() {
        return;
    }
    if rustix::process::geteuid().is_root() {
        let started = Command::new("systemctl").args(["start", "user@1000.service"]).status().unwrap();
        assert!(started.success());
    }
    as_user(MANY, "rootless::a_users_systemd_delegates_a_cgroup", || {
        let mut bundle = rootless("cat /proc/self/cgroup; sleep 100");
        bundle.systemd = true;
        bundle.spec["linux"]["resources"] =
            json!({ "pids": { "limit": 12 }, "memory": { "limit": 50_331_648 } });
        let mut running = bundle.start();
        running.wait_for_output("0::/\n");
        let path = running.container().cgroups().path().to_owned();
        assert!(path.starts_with("user.slice/user-1000.slice/user@1000.service/"), "{path}");
        let max = std::fs::read_to_string(format!("/sys/fs/cgroup/{path}/pids.max")).unwrap();
        assert_eq!(max, "12\n");
        assert_eq!(running.exec(crate::bundle::shell("cat /proc/self/cgroup")).unwrap().stdout, "0::/\n");
        running.container().pause().unwrap();
        running.container().resume().unwrap();
        running.kill();
    });
}
