//! Further processes in a running container.

use crate::bundle::{Bundle, Running, shell};
use longshore_runtime::{Error, ExecOptions, Stdio};
use serde_json::json;

fn ready(bundle: &Bundle) -> Running {
    let mut running = bundle.start();
    running.wait_for_output("ready");
    running
}

#[test]
fn joins_everything_of_the_container() {
    let bundle = Bundle::new("echo ready; sleep 100");
    let mut running = ready(&bundle);
    let outcome = running.exec(shell("hostname; ls / | tr '\\n' ' '; test -d /proc/1 && exit 9")).unwrap();
    assert_eq!(outcome.code, 9, "{outcome:?}");
    assert!(outcome.stdout.starts_with("testhost\nbin dev etc"), "{outcome:?}");
    let (process, _, _) = running.exec_process(shell("sleep 100")).unwrap();
    let (pid, init) = (process.pid(), running.container().pid());
    for kind in ["mnt", "net", "uts", "pid", "ipc", "cgroup"] {
        let link = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(link(pid), link(init), "{kind}");
    }
    let groups = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(groups(pid), groups(init));
    assert!(running.container().pids().unwrap().contains(&pid));
    process.kill(libc::SIGTERM).unwrap();
    assert_eq!(crate::bundle::wait(pid, process.pidfd()), 128 + libc::SIGTERM);
    assert!(matches!(process.kill(0), Err(Error::NotRunning)));
    running.kill();
}

#[test]
fn has_its_own_user_environment_and_folder() {
    let bundle = Bundle::new("echo ready; sleep 100");
    let mut running = ready(&bundle);
    let mut process = shell("id -u; id -g; id -G; pwd; env | sort");
    process["user"] = json!({ "uid": 1, "gid": 2, "additionalGids": [2, 3] });
    process["cwd"] = json!("/tmp");
    process["env"] = json!(["PATH=/bin", "A=b", "HOME=/tmp"]);
    let outcome = running.exec(process).unwrap();
    assert_eq!(outcome.stdout, "1\n2\n2 3\n/tmp\nA=b\nHOME=/tmp\nPATH=/bin\nPWD=/tmp\nSHLVL=1\n");
    running.kill();
}

#[test]
fn waits_at_its_gate() {
    let bundle = Bundle::new("echo ready; sleep 100");
    let mut running = ready(&bundle);
    let spec = serde_json::from_value(shell("touch /by-exec")).unwrap();
    let (stdio, _, _) = crate::bundle::files();
    let options =
        ExecOptions { process: &spec, stdio, console_size: None, ignore_paused: false, preserve_fds: 0 };
    let mut process = running.container().exec(options).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(!bundle.root().join("by-exec").exists());
    process.start().unwrap();
    assert_eq!(crate::bundle::wait(process.pid(), process.pidfd()), 0);
    assert!(bundle.root().join("by-exec").exists());
    running.kill();
}

#[test]
fn errors_are_those_of_the_first_process() {
    let bundle = Bundle::new("echo ready; sleep 100");
    let mut running = ready(&bundle);
    let mut process = shell("");
    process["args"] = json!(["nosuch"]);
    let error = running.exec(process.clone()).unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.exit_code()),
        ("exec: \"nosuch\": executable file not found in $PATH", Some(127))
    );
    process["args"] = json!(["/bin/true"]);
    process["cwd"] = json!("/no/such/folder");
    let error = running.exec(process).unwrap_err();
    assert_eq!(
        error.to_string(),
        "chdir to cwd (\"/no/such/folder\") set in config.json failed: no such file or directory"
    );
    assert!(!bundle.root().join("no").exists());
    running.kill();
}

#[test]
fn needs_a_running_container() {
    let bundle = Bundle::new("true");
    let mut running = bundle.start();
    let container = running.container();
    crate::bundle::wait(container.pid(), container.pidfd());
    assert!(matches!(running.exec(shell("true")), Err(Error::NotRunning)));
    running.container.take().unwrap().delete().unwrap();
}

#[test]
fn in_a_terminal() {
    let bundle = Bundle::new("echo ready; sleep 100");
    let mut running = ready(&bundle);
    let mut process = shell("tty; stty size; exit 4");
    process["terminal"] = json!(true);
    let spec = serde_json::from_value(process).unwrap();
    let options = ExecOptions {
        process: &spec,
        stdio: Stdio::Terminal,
        console_size: Some((101, 33)),
        ignore_paused: false,
        preserve_fds: 0,
    };
    let mut process = running.container().exec(options).unwrap();
    let master = process.take_terminal().unwrap();
    process.start().unwrap();
    let output = crate::process::drain(master);
    assert_eq!(crate::bundle::wait(process.pid(), process.pidfd()), 4);
    assert_eq!(output, "/dev/pts/0\r\n33 101\r\n");
    running.kill();
}

#[test]
fn many_at_once() {
    let bundle = Bundle::new("echo ready; sleep 100");
    let mut running = ready(&bundle);
    let started: Vec<_> =
        (0..10).map(|n| running.exec_process(shell(&format!("exit {n}"))).unwrap().0).collect();
    for (n, process) in started.iter().enumerate() {
        assert_eq!(crate::bundle::wait(process.pid(), process.pidfd()), n as i32);
    }
    running.kill();
}
