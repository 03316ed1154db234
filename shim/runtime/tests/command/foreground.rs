//! `run` and `exec` that stay: signals, exit codes, stdin, orphans.

use crate::bundle::{Bundle, eventually};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Write;
use std::process::Stdio;

#[test]
fn signals_go_to_the_container() {
    let bundle =
        Bundle::new("trap 'echo usr1; exit 21' USR1; echo ready >/tmp/ready; while :; do sleep 0.05; done");
    let mut child = bundle.command(&["run", "c"]).stdout(Stdio::piped()).spawn().unwrap();
    eventually("it runs", || bundle.dir.path().join("rootfs/tmp/ready").exists());
    kill_process(Pid::from_child(&child), Signal::USR1).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(21));
    assert!(!bundle.folder().exists());
}

#[test]
fn stdin_reaches_the_container() {
    let bundle = Bundle::new("cat; exit 5");
    let mut child =
        bundle.command(&["run", "c"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(5), b"typed\n".as_slice()));
}

#[test]
fn a_container_that_is_kept_is_stopped() {
    let bundle = Bundle::new("exit 4");
    assert_eq!(bundle.run(&["run", "--keep", "c"]).code, 4);
    assert_eq!(bundle.state()["status"], "stopped");
    bundle.ok(&["delete", "c"]);
}

#[test]
fn what_an_exec_leaves_behind_dies_with_the_container() {
    let mut bundle = Bundle::new("sleep 1000");
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    bundle.write();
    bundle.ok(&["run", "-d", "c"]);
    bundle.ok(&["exec", "-d", "c", "sleep", "1000"]);
    // Without a pid namespace SIGKILL to the first process must not leave the other.
    bundle.ok(&["kill", "c", "KILL"]);
    bundle.wait_for("stopped");
    eventually("no process is left", || bundle.ok(&["ps", "-f", "json", "c"]) == "null\n");
}

#[test]
fn a_signal_is_an_exit_code() {
    let bundle = Bundle::new("echo ready >/tmp/ready; sleep 1000");
    let mut child = bundle.command(&["run", "c"]).spawn().unwrap();
    eventually("it runs", || bundle.dir.path().join("rootfs/tmp/ready").exists());
    bundle.ok(&["kill", "c", "KILL"]);
    assert_eq!(child.wait().unwrap().code(), Some(137));
}
