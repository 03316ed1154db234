//! Hooks of every moment.

use crate::bundle::Bundle;
use longshore_runtime::Error;
use serde_json::{Value, json};

fn hook(script: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"] })
}

#[test]
fn run_in_order_with_the_state_on_stdin() {
    let mut bundle = Bundle::new("cat /from-start-hook");
    let log = bundle.dir.path().join("log");
    let out = |name: &str| hook(&format!("printf '{name} ' >> {0}; cat >> {0}; echo >> {0}", log.display()));
    bundle.spec["annotations"] = json!({ "key": "value" });
    bundle.spec["hooks"] = json!({
        "prestart": [out("prestart")],
        "createRuntime": [out("createRuntime"), out("second")],
        "createContainer": [out("createContainer")],
        "startContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", "cat > /from-start-hook"] }],
        "poststart": [out("poststart")],
        "poststop": [out("poststop")],
    });
    let mut running = bundle.create().unwrap();
    let pid = running.container().pid();
    running.container().start().unwrap();
    let inside: Value = serde_json::from_str(&running.finish().stdout).unwrap();
    assert_eq!((&inside["status"], &inside["pid"]), (&json!("created"), &json!(1)));
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<(String, Value)> = text
        .lines()
        .map(|line| {
            let (name, state) = line.split_once(' ').unwrap();
            (name.to_owned(), serde_json::from_str(state).unwrap())
        })
        .collect();
    let names: Vec<&str> = lines.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["prestart", "createRuntime", "second", "createContainer", "poststart", "poststop"]);
    let (first, last) = (&lines[0].1, &lines[5].1);
    assert_eq!(first["pid"], json!(pid));
    assert_eq!(first["status"], "creating");
    assert_eq!(first["id"], json!(bundle.id));
    assert_eq!(first["bundle"], json!(bundle.dir.path()));
    assert_eq!(first["annotations"]["key"], "value");
    assert_eq!(lines[4].1["status"], "running");
    assert_eq!((&last["status"], &last["pid"]), (&json!("stopped"), &json!(0)));
}

#[test]
fn create_runtime_hooks_find_the_namespaces_and_the_root() {
    let mut bundle = Bundle::new("cat /from-hook; ifconfig | grep -c dummy");
    let root = bundle.root();
    // What network and GPU hooks do: enter the mount namespace by pid and change the root at its path.
    let script = format!(
        "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); nsenter -t $pid -m sh -c 'mount | grep -q {0}/proc && echo hooked > {0}/from-hook'",
        root.display()
    );
    bundle.spec["hooks"] = json!({ "createRuntime": [hook(&script)] });
    assert_eq!(bundle.run().stdout, "hooked\n0\n");
}

#[test]
fn a_failing_hook_fails_the_container() {
    for moment in ["prestart", "createRuntime", "createContainer"] {
        let mut bundle = Bundle::new("touch /ran");
        bundle.spec["hooks"] = json!({ moment: [hook("exit 3")] });
        let error = bundle.failure();
        assert!(matches!(&error, Error::Hook { kind, .. } if *kind == moment), "{error}");
        assert!(error.to_string().ends_with("exited with code 3"), "{error}");
        assert!(!bundle.root().join("ran").exists());
    }
    let mut bundle = Bundle::new("touch /ran");
    bundle.spec["hooks"] = json!({ "startContainer": [{ "path": "/no/such/hook" }] });
    let error = bundle.failure();
    assert!(error.to_string().ends_with("cannot be executed: no such file or directory"), "{error}");
}

#[test]
fn a_hook_that_hangs_is_killed() {
    for moment in ["createRuntime", "createContainer"] {
        let mut bundle = Bundle::new("true");
        let mut slow = hook("exec sleep 100");
        slow["timeout"] = json!(1);
        bundle.spec["hooks"] = json!({ moment: [slow] });
        let error = bundle.failure().to_string();
        assert!(error.contains("ran longer than its timeout of 1 s"), "{error}");
    }
}

#[test]
fn a_timeout_that_no_clock_can_express_never_passes() {
    let mut bundle = Bundle::new("true");
    let mut quick = hook("true");
    quick["timeout"] = json!(i64::MAX);
    bundle.spec["hooks"] =
        json!({ "createRuntime": [quick], "createContainer": [quick], "startContainer": [quick] });
    bundle.output();
}

#[test]
fn a_failing_poststart_hook_kills_the_container() {
    let mut bundle = Bundle::new("sleep 100");
    bundle.spec["hooks"] = json!({ "poststart": [hook("exit 1")] });
    let mut running = bundle.create().unwrap();
    assert!(matches!(running.container().start(), Err(Error::Hook { kind: "poststart", .. })));
    assert_eq!(running.finish().code, 137);
}

#[test]
fn a_failing_poststop_hook_is_a_warning_and_the_next_ones_run() {
    let mut bundle = Bundle::new("true");
    let mark = bundle.dir.path().join("mark");
    bundle.spec["hooks"] =
        json!({ "poststop": [hook("exit 3"), hook(&format!("touch {}", mark.display()))] });
    let mut running = bundle.start();
    let container = running.container.take().unwrap();
    crate::bundle::wait(container.pid(), container.pidfd());
    let warnings = container.delete().unwrap();
    assert!(warnings.len() == 1 && warnings[0].ends_with("exited with code 3"), "{warnings:?}");
    assert!(mark.exists());
}

#[test]
fn a_process_that_is_being_made_holds_nothing_open_for_others() {
    use std::os::unix::fs::MetadataExt;
    let mut bundle = Bundle::new("echo runs");
    let seen = bundle.dir.path().join("seen");
    // Whoever waits for the end of this pipe waits for no container.
    let (_reader, writer) = std::io::pipe().unwrap();
    let pipe =
        std::fs::metadata(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer))).unwrap();
    let script = format!(
        "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); for fd in /proc/$pid/fd/*; do readlink $fd; done > {}",
        seen.display()
    );
    bundle.spec["hooks"] = json!({ "createRuntime": [hook(&script)] });
    assert_eq!(bundle.output(), "runs");
    let seen = std::fs::read_to_string(&seen).unwrap();
    assert!(seen.contains("socket:"), "its channel: {seen}");
    assert!(!seen.contains(&format!("pipe:[{}]", pipe.ino())), "{seen}");
}
