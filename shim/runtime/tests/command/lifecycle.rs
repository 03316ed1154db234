//! The verbs in their order, and their texts where they do not fit.

use crate::bundle::{Bundle, eventually};
use serde_json::{Value, json};

#[test]
fn a_created_container_waits_for_start() {
    let bundle = Bundle::new("echo ran >/tmp/ran; sleep 1000");
    bundle.ok(&["create", "c", "--bundle", ".", "--pid-file", "pid"]);
    let state = bundle.state();
    assert_eq!((&state["status"], &state["id"]), (&json!("created"), &json!("c")));
    assert_eq!(state["bundle"], json!(bundle.dir.path().canonicalize().unwrap()));
    let pid = std::fs::read_to_string(bundle.dir.path().join("pid")).unwrap();
    assert_eq!(pid, state["pid"].to_string());
    assert!(!bundle.dir.path().join("rootfs/tmp/ran").exists());
    assert_eq!(bundle.ok(&["exec", "c", "echo", "in"]), "in\n");
    bundle.fails(&["create", "c"], "container with given ID already exists");
    bundle.ok(&["start", "c"]);
    eventually("the program runs", || bundle.dir.path().join("rootfs/tmp/ran").exists());
    bundle.fails(&["start", "c"], "cannot start an already running container");
    bundle.fails(&["delete", "c"], "cannot delete container c that is not stopped: running");
    bundle.ok(&["kill", "c", "KILL"]);
    bundle.wait_for("stopped");
    assert_eq!(bundle.state()["pid"], 0);
    bundle.fails(&["kill", "c"], "container not running");
    bundle.fails(&["start", "c"], "cannot start a container that has stopped");
    bundle.fails(&["exec", "c", "true"], "cannot exec in a stopped container");
    bundle.ok(&["delete", "c"]);
    bundle.fails(&["state", "c"], "container does not exist");
    bundle.fails(&["delete", "c"], "container does not exist");
    bundle.ok(&["delete", "--force", "c"]);
}

#[test]
fn exit_codes_are_the_programs() {
    let mut bundle = Bundle::new("exit 42");
    assert_eq!(bundle.run(&["run", "c"]).code, 42);
    bundle.spec["process"]["args"] = json!(["nosuch"]);
    bundle.write();
    let done = bundle.run(&["run", "c"]);
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("exec: \\\"nosuch\\\": executable file not found in $PATH"), "{done:?}");
    assert!(!bundle.folder().exists());
}

#[test]
fn a_program_that_cannot_be_executed_is_told_by_start() {
    let mut bundle = Bundle::new("");
    std::fs::write(bundle.dir.path().join("rootfs/bin/junk"), "junk").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bundle.dir.path().join("rootfs/bin/junk"), mode).unwrap();
    bundle.spec["process"]["args"] = json!(["/bin/junk"]);
    bundle.write();
    bundle.ok(&["create", "c"]);
    bundle.fails(&["start", "c"], "exec /bin/junk: exec format error");
    bundle.wait_for("stopped");
    bundle.ok(&["delete", "c"]);
}

#[test]
fn a_paused_container_is_resumed_and_killed() {
    let bundle = Bundle::new("sleep 1000");
    bundle.ok(&["run", "-d", "c"]);
    bundle.ok(&["pause", "c"]);
    assert_eq!(bundle.state()["status"], "paused");
    bundle.fails(&["pause", "c"], "container not running");
    bundle.fails(&["exec", "c", "true"], "cannot exec in a paused container");
    bundle.ok(&["resume", "c"]);
    bundle.fails(&["resume", "c"], "container not paused");
    bundle.ok(&["pause", "c"]);
    bundle.ok(&["kill", "c", "SIGKILL"]);
    bundle.wait_for("stopped");
}

#[test]
fn an_exec_changes_what_it_is_told_to() {
    let bundle = Bundle::new("sleep 1000");
    bundle.ok(&["run", "-d", "c"]);
    let script = "id; echo $A; pwd; exit 3";
    let words = ["exec", "-u", "5:6", "-g", "7", "-e", "A=1", "--cwd", "/tmp", "c", "sh", "-c", script];
    let done = bundle.run(&words);
    assert_eq!((done.code, done.stdout.as_str()), (3, "uid=5 gid=6 groups=7\n1\n/tmp\n"), "{done:?}");
    // CVE-2024-40635: a number that does not fit is not another user.
    bundle.fails(&["exec", "-u", "4294967296", "c", "id"], "is no user or group id");
    assert_eq!(bundle.run(&["exec", "c", "nosuch"]).code, 255);
    let caps = bundle.ok(&[
        "exec",
        "--cap",
        "CAP_SYS_TIME",
        "c",
        "sh",
        "-c",
        "while read l; do case $l in CapEff*) echo $l;; esac; done </proc/self/status",
    ]);
    let mask = u64::from_str_radix(caps.trim().rsplit([' ', '\t']).next().unwrap(), 16).unwrap();
    assert_ne!(mask & 1 << 25, 0, "{caps}");
    let process = json!({ "args": ["echo", "from a file"], "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 } });
    std::fs::write(bundle.dir.path().join("process.json"), process.to_string()).unwrap();
    assert_eq!(bundle.ok(&["exec", "--process", "process.json", "c"]), "from a file\n");
    bundle.ok(&["exec", "-p", "process.json", "--detach", "--pid-file", "exec.pid", "c"]);
    assert!(std::fs::read_to_string(bundle.dir.path().join("exec.pid")).unwrap().parse::<i32>().unwrap() > 1);
}

#[test]
fn limits_change_while_it_runs() {
    let bundle = Bundle::new("sleep 1000");
    bundle.ok(&["run", "-d", "c"]);
    bundle.ok(&["update", "--memory", "64m", "--pids-limit", "20", "c"]);
    let stats: Value = serde_json::from_str(&bundle.ok(&["events", "--stats", "c"])).unwrap();
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 64 << 20);
    assert_eq!(stats["data"]["pids"]["limit"], 20);
    std::fs::write(bundle.dir.path().join("r.json"), r#"{"memory":{"limit":83886080}}"#).unwrap();
    bundle.ok(&["update", "-r", "r.json", "c"]);
    let stats: Value = serde_json::from_str(&bundle.ok(&["events", "--stats", "c"])).unwrap();
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 80 << 20);
    let pids: Vec<i32> = serde_json::from_str(&bundle.ok(&["ps", "-f", "json", "c"])).unwrap();
    assert_eq!(i64::from(pids[0]), bundle.state()["pid"].as_i64().unwrap());
}

#[test]
fn errors_are_lines_of_json_in_the_log() {
    let bundle = Bundle::new("true");
    let done = bundle.run(&["--log", "log", "--log-format", "json", "state", "nope"]);
    assert_eq!((done.code, done.stderr.as_str()), (1, "container does not exist\n"));
    let line = std::fs::read_to_string(bundle.dir.path().join("log")).unwrap();
    let entry: Value = serde_json::from_str(line.trim_end()).unwrap();
    assert_eq!((&entry["level"], &entry["msg"]), (&json!("error"), &json!("container does not exist")));
    assert_eq!(entry["time"].as_str().unwrap().len(), "2026-11-22T10:05:11Z".len());
    let version = bundle.ok(&["--version"]);
    assert!(version.starts_with("longshore-runtime version "), "{version}");
}

#[test]
fn poststart_hooks_run_in_start_and_poststop_hooks_in_delete() {
    let mut bundle = Bundle::new("sleep 1000");
    let file = |name: &str| bundle.dir.path().join(name);
    let hook = |name: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", format!("cat >{}", file(name).display())] }]);
    let hooks = json!({ "poststart": hook("poststart"), "poststop": hook("poststop") });
    let (poststart, poststop) = (file("poststart"), file("poststop"));
    bundle.spec["hooks"] = hooks;
    bundle.write();
    bundle.ok(&["create", "c"]);
    assert!(!poststart.exists());
    bundle.ok(&["start", "c"]);
    let told: Value = serde_json::from_slice(&std::fs::read(poststart).unwrap()).unwrap();
    assert_eq!(told["pid"], bundle.state()["pid"]);
    assert!(!poststop.exists());
    bundle.ok(&["delete", "--force", "c"]);
    assert!(poststop.exists());
}

#[test]
fn a_failing_poststop_hook_is_a_warning() {
    let mut bundle = Bundle::new("true");
    bundle.spec["hooks"] = json!({ "poststop": [{ "path": "/bin/false" }] });
    bundle.write();
    bundle.ok(&["create", "c"]);
    let done = bundle.run(&["delete", "--force", "c"]);
    assert!(
        done.code == 0 && done.stderr.contains("level=warn") && done.stderr.contains("poststop"),
        "{done:?}"
    );
}
