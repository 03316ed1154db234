//! Namespaces: made, joined, and what depends on having one's own.

use crate::bundle::Bundle;
use longshore_runtime::Error;
use serde_json::json;

const KINDS: &[&str] = &["mnt", "net", "uts", "pid", "ipc", "cgroup"];

fn inode(pid: &str, kind: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()
}

#[test]
fn all_are_new() {
    let bundle = Bundle::new("sleep 100");
    let mut running = bundle.start();
    let pid = running.container().pid().to_string();
    for kind in KINDS {
        assert_ne!(inode(&pid, kind), inode("self", kind), "{kind}");
    }
    assert_eq!(inode(&pid, "user"), inode("self", "user"));
    running.kill();
}

#[test]
fn those_that_are_not_listed_are_the_hosts() {
    let mut bundle = Bundle::new("sleep 100");
    for kind in ["network", "ipc", "cgroup"] {
        bundle.remove_namespace(kind);
    }
    bundle.remove_mount("/dev/mqueue");
    let mut running = bundle.start();
    let pid = running.container().pid().to_string();
    for kind in ["net", "ipc", "cgroup"] {
        assert_eq!(inode(&pid, kind), inode("self", kind), "{kind}");
    }
    running.kill();
}

#[test]
fn joined_by_path() {
    let first = Bundle::new("sleep 100");
    let mut running = first.start();
    let pid = running.container().pid();
    let mut second = Bundle::new("set -- /proc/[0-9]*; echo $#; hostname; sleep 100");
    for (kind, file) in [("network", "net"), ("uts", "uts"), ("ipc", "ipc"), ("pid", "pid")] {
        second.remove_namespace(kind);
        let namespaces = second.spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({ "type": kind, "path": format!("/proc/{pid}/ns/{file}") }));
    }
    second.spec["hostname"] = json!("joined");
    let mut joined = second.start();
    let other = joined.container().pid().to_string();
    for kind in ["net", "uts", "ipc", "pid"] {
        assert_eq!(inode(&other, kind), inode(&pid.to_string(), kind), "{kind}");
    }
    let output = joined.wait_for_output("joined");
    let session = std::fs::read_to_string(format!("/proc/{other}/stat")).unwrap();
    let session: Vec<&str> = session.rsplit(") ").next().unwrap().split(' ').collect();
    assert_eq!(session[3], other, "a session of its own: {session:?}");
    // The first container's process and its own shell, which counts by itself: programs beside it come and go.
    assert_eq!(output.lines().next().unwrap(), "2", "{output}");
    // Our own processes are still born where we are.
    assert_eq!(inode("self", "pid_for_children"), inode("self", "pid"));
    joined.kill();
    running.kill();
}

#[test]
fn the_first_process_is_number_one_with_its_own_hostname_and_loopback() {
    let bundle =
        Bundle::new("echo $$; hostname; ifconfig lo | grep -c UP; cat /proc/self/cgroup | grep -c ':/$'");
    let output = bundle.output();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(&lines[..3], ["1", "testhost", "1"]);
    assert!(lines[3].parse::<u32>().unwrap() > 0);
}

#[test]
fn domain_name_and_sysctls() {
    let mut bundle =
        Bundle::new("cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni");
    bundle.spec["domainname"] = json!("example");
    bundle.spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1", "kernel.shmmni": "4097" });
    assert_eq!(bundle.output(), "example\n1\n4097");
}

#[test]
fn sysctls_of_the_host_are_refused() {
    for (key, value) in
        [("kernel.core_pattern", "x"), ("vm.swappiness", "1"), ("net.ipv4.ip_forward", "1\n2")]
    {
        let mut bundle = Bundle::new("true");
        bundle.spec["linux"]["sysctl"] = json!({ key: value });
        assert!(matches!(bundle.failure(), Error::InvalidSpec { .. }));
    }
    let mut bundle = Bundle::new("true");
    bundle.remove_namespace("network").spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    assert!(matches!(bundle.failure(), Error::InvalidSpec { .. }));
}

#[test]
fn a_hostname_needs_a_uts_namespace() {
    let mut bundle = Bundle::new("true");
    bundle.remove_namespace("uts");
    assert!(matches!(bundle.failure(), Error::InvalidSpec { field, .. } if field == "hostname"));
}

fn with_user_namespace(script: &str) -> Bundle {
    let mut bundle = Bundle::new(script);
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    bundle.spec["linux"]["uidMappings"] = map.clone();
    bundle.spec["linux"]["gidMappings"] = map;
    let chown =
        |path: &std::path::Path| std::os::unix::fs::lchown(path, Some(100_000), Some(100_000)).unwrap();
    chown(&bundle.root());
    for folder in ["", "bin", "dev", "proc", "sys", "tmp", "etc", "root"] {
        chown(&bundle.root().join(folder));
    }
    bundle
}

#[test]
fn a_user_namespace_with_a_map() {
    // The bundle folder is 0700 and root's, as the daemon's are.
    let bundle =
        with_user_namespace("id -u; cat /proc/self/uid_map; touch /mine; echo x > /dev/null; ls /dev/pts");
    let output = bundle.output();
    assert!(output.starts_with('0'), "{output}");
    assert!(output.contains("100000"), "{output}");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(bundle.root().join("mine")).unwrap().uid(), 100_000);
}

#[test]
fn exec_in_a_user_namespace() {
    let bundle = with_user_namespace("echo ready; sleep 100");
    let mut running = bundle.start();
    running.wait_for_output("ready");
    let outcome =
        running.exec(crate::bundle::shell("id -u; touch /by-exec; cat /proc/self/uid_map")).unwrap();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(bundle.root().join("by-exec")).unwrap().uid(), 100_000);
    running.kill();
}

#[test]
fn a_user_namespace_without_a_map_is_refused() {
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    assert!(matches!(bundle.failure(), Error::InvalidSpec { field, .. } if field == "linux.uidMappings"));
}
