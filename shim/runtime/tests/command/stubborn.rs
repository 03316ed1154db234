//! Containers that do not want to end, and commands that must not end the wrong one.

use crate::bundle::{Bundle, done, eventually};
use serde_json::json;

/// Its first thread ends, another one lives on: in /proc the process is a zombie.
const LEADERLESS: &str = "#include <pthread.h>\n#include <unistd.h>\n\
    static void *stay(void *a) { for (;;) pause(); return a; }\n\
    int main(void) { pthread_t t; pthread_create(&t, 0, stay, 0); pthread_exit(0); }\n";

#[test]
fn a_process_whose_first_thread_has_ended_lives_and_is_killed() {
    let mut bundle = Bundle::new("");
    let source = bundle.dir.path().join("leaderless.c");
    std::fs::write(&source, LEADERLESS).unwrap();
    let program = bundle.dir.path().join("rootfs/bin/leaderless");
    let built = std::process::Command::new("cc")
        .args(["-static", "-pthread", "-o"])
        .arg(&program)
        .arg(&source)
        .status();
    assert!(built.unwrap().success());
    bundle.spec["process"]["args"] = json!(["/bin/leaderless"]);
    bundle.write();
    bundle.ok(&["run", "-d", "c"]);
    let stat = format!("/proc/{}/stat", bundle.state()["pid"]);
    eventually("the first thread has ended", || std::fs::read_to_string(&stat).unwrap().contains(") Z "));
    assert_eq!(bundle.state()["status"], "running");
    bundle.fails(&["delete", "c"], "that is not stopped: running");
    bundle.ok(&["kill", "--all", "c", "KILL"]);
    bundle.wait_for("stopped");
    bundle.ok(&["delete", "c"]);
    bundle.ok(&["run", "-d", "c"]);
    bundle.ok(&["delete", "--force", "c"]);
}

#[test]
fn real_time_signals_reach_all() {
    let bundle = Bundle::new("sleep 1000");
    bundle.ok(&["run", "-d", "c"]);
    bundle.ok(&["exec", "-d", "c", "sleep", "1001"]);
    let before: Vec<i32> = serde_json::from_str(&bundle.ok(&["ps", "-f", "json", "c"])).unwrap();
    bundle.ok(&["kill", "--all", "c", "36"]);
    eventually("all but the first process, which may ignore it, have ended", || {
        let now: Option<Vec<i32>> = serde_json::from_str(&bundle.ok(&["ps", "-f", "json", "c"])).unwrap();
        now.map_or(0, |pids| pids.len()) < before.len()
    });
}

#[test]
fn deleting_a_container_spares_another_one_in_a_cgroup_of_the_same_name() {
    let bundle = Bundle::new("sleep 1000");
    bundle.ok(&["run", "-d", "c"]);
    bundle.ok(&["kill", "c", "KILL"]);
    bundle.wait_for("stopped");
    // The name is free again once the cgroup is gone, and the next one takes it.
    longshore_runtime::cgroups::remove_orphan(&format!("/{}/c", bundle.id)).unwrap();
    bundle.ok(&["run", "-d", "d"]);
    bundle.ok(&["delete", "c"]);
    let state: serde_json::Value = serde_json::from_str(&bundle.ok(&["state", "d"])).unwrap();
    assert_eq!(state["status"], "running");
    bundle.ok(&["delete", "--force", "d"]);
}

#[test]
fn a_container_whose_start_hangs_is_deleted_by_force() {
    let mut bundle = Bundle::new("true");
    bundle.spec["hooks"] = json!({ "startContainer": [{ "path": "/bin/sleep", "args": ["sleep", "1000"] }] });
    bundle.write();
    bundle.ok(&["create", "c"]);
    let mut start = bundle.command(&["start", "c"]).spawn().unwrap();
    eventually("the hook runs", || !bundle.folder().join("gate").exists());
    bundle.ok(&["delete", "--force", "c"]);
    start.wait().unwrap();
    assert!(!bundle.folder().exists());
}

#[test]
fn descriptors_that_are_promised_must_be_there() {
    let bundle = Bundle::new("true");
    let runtime = crate::bundle::program();
    let script = format!("export LISTEN_FDS=60 LISTEN_PID=$$; exec {runtime} --root state run c");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script]).current_dir(bundle.dir.path());
    let done = done(command);
    assert!(done.code != 0 && done.stderr.contains("LISTEN_FDS is 60"), "{done:?}");
}

#[test]
fn an_interval_beyond_reason_is_refused() {
    let bundle = Bundle::new("sleep 1000");
    bundle.ok(&["run", "-d", "c"]);
    bundle.fails(&["events", "--interval", "10000000000000000000s", "c"], "interval");
}
