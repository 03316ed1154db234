//! Another OCI runtime that is slow, hangs or is killed: it hurts those who asked for it, and nobody else. A script stands in for the
//! runtime; it does what a test allows it to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use longshore_proto::containerd::runc::v1::Options;
use longshore_proto::containerd::task::v3 as task;
use longshore_proto::containerd::v1::types::Status;
use longshore_proto::ttrpc::Code;
use prost::Message;
use prost_types::Any;
use rustix::process::{Pid, Signal};

use crate::client::{Client, TASK, code};
use crate::foreign::{delete, lives, shim_pid, started};
use crate::harness::{ID, Shim, Want, wait_until};

/// Nothing in these tests may take as long as a hold.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A shim with its slow runtime.
struct Slow {
    shim: Shim,
    root: PathBuf,
}

impl Slow {
    fn new() -> Self {
        let shim = started(&Want::sh(""), &[]);
        let root = shim.dir.path().join("root/test");
        fs::create_dir_all(&root).unwrap();
        let slow = Self { shim, root };
        let script = slow.shim.dir.path().join("slow-runtime");
        fs::write(&script, include_str!("slow-runtime.sh")).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        slow.program("exec sleep 1000");
        slow
    }

    fn running() -> Self {
        let mut slow = Self::new();
        let creation = slow.create();
        slow.shim.client.answer::<task::CreateTaskResponse>(creation).unwrap();
        slow.shim.start().unwrap();
        slow
    }

    /// What the next exec runs.
    fn program(&self, script: &str) {
        fs::write(self.root.join("program"), script).unwrap();
    }

    fn hold(&self, what: &str) {
        fs::write(self.root.join(format!("hold-{what}")), "").unwrap();
    }

    fn release(&self, what: &str) {
        fs::remove_file(self.root.join(format!("hold-{what}"))).unwrap();
    }

    /// The process id of a verb that runs.
    fn runtime(&self, verb: &str) -> Pid {
        let number = || fs::read_to_string(self.root.join(format!("pid-{verb}"))).ok()?.trim().parse().ok();
        assert!(wait_until(AT_ONCE, || number().is_some()), "{verb} was not called");
        Pid::from_raw(number().unwrap()).unwrap()
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.root.join("calls")).unwrap();
        text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    }

    fn create(&mut self) -> u32 {
        let script = self.shim.dir.path().join("slow-runtime");
        let options = Options {
            binary_name: script.to_str().unwrap().into(),
            root: self.root.parent().unwrap().to_str().unwrap().into(),
            ..Default::default()
        };
        let mut request = self.shim.create_request(&Want::sh(""));
        let value = options.encode_to_vec();
        request.options = Some(Any { type_url: "containerd.runc.v1.Options".into(), value });
        self.shim.client.start(TASK, "Create", &request)
    }

    fn send_start(&mut self, exec_id: &str) -> u32 {
        let request = task::StartRequest { id: ID.into(), exec_id: exec_id.into() };
        self.shim.client.start(TASK, "Start", &request)
    }

    fn send_kill(&mut self, exec_id: &str, signal: i32) -> u32 {
        let signal = signal.try_into().unwrap();
        let request = task::KillRequest { id: ID.into(), exec_id: exec_id.into(), signal, all: false };
        self.shim.client.start(TASK, "Kill", &request)
    }

    fn send_wait(&mut self) -> u32 {
        self.shim.client.start(TASK, "Wait", &task::WaitRequest { id: ID.into(), exec_id: String::new() })
    }

    fn status(&mut self, exec_id: &str) -> Status {
        self.shim.state(exec_id).unwrap().status()
    }

    fn is_silent(&mut self, stream: u32) -> bool {
        self.shim.client.recv(stream, Duration::from_millis(200)).is_none()
    }

    /// Deletes the container; then the shim leaves, and with it everything of the runtime is gone.
    fn finish(mut self) {
        let pid = shim_pid(&self.shim);
        if !matches!(self.status(""), Status::Stopped) {
            self.shim.kill("", libc::SIGKILL).unwrap();
            self.shim.wait("").unwrap();
        }
        self.shim.delete("").unwrap();
        let left: Vec<_> = fs::read_dir(&self.shim.bundle)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| {
                ["oci-", "exec-", "pty-", "resources-"].iter().any(|start| name.starts_with(start))
            })
            .collect();
        assert_eq!(left, Vec::<String>::new(), "files of commands are left");
        self.shim.client.task::<_, ()>("Shutdown", &task::ShutdownRequest::default()).unwrap();
        assert!(wait_until(AT_ONCE, || !lives(pid)), "the shim stays");
    }
}

#[test]
fn an_exec_that_is_slow_to_start_holds_up_nobody() {
    let mut slow = Slow::running();
    for exec_id in ["one", "two", "three"] {
        slow.shim.exec(exec_id, "", false).unwrap();
    }
    slow.hold("exec");
    let one = slow.send_start("one");
    slow.runtime("exec");
    assert_eq!((slow.status(""), slow.status("one")), (Status::Running, Status::Created));
    slow.shim.client.task::<_, task::PidsResponse>("Pids", &task::PidsRequest { id: ID.into() }).unwrap();
    slow.shim.client.task::<_, ()>("Pause", &task::PauseRequest { id: ID.into() }).unwrap();
    slow.shim.client.task::<_, ()>("Resume", &task::ResumeRequest { id: ID.into() }).unwrap();
    slow.shim.exec("four", "", false).unwrap();
    slow.shim.delete("four").unwrap();
    slow.shim.kill("", 0).unwrap();

    // The container ends while one exec is being started: no further one is, and the end is told after that one's.
    let waiting = slow.send_wait();
    let init = slow.shim.state("").unwrap().pid;
    rustix::process::kill_process(Pid::from_raw(init.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    assert!(wait_until(AT_ONCE, || slow.status("") == Status::Stopped));
    assert_eq!(code(slow.shim.start_exec("two")), Code::NotFound);
    assert!(slow.is_silent(waiting), "the end is told too early");
    slow.release("exec");
    let error = slow.shim.client.answer::<task::StartResponse>(one).unwrap_err();
    assert!(error.message.contains("stopped container"), "{error:?}");
    let exit: task::WaitResponse = slow.shim.client.answer(waiting).unwrap();
    assert_eq!(exit.exit_status, 137);
    assert_eq!((slow.status("one"), slow.status("two")), (Status::Created, Status::Created));
    slow.finish();
}

#[test]
fn what_is_asked_of_a_busy_process_is_done_in_order() {
    let mut slow = Slow::running();
    slow.shim.exec("one", "", false).unwrap();
    slow.hold("exec");
    let start = slow.send_start("one");
    let again = slow.send_start("one");
    let kill = slow.send_kill("one", libc::SIGTERM);
    assert!(slow.is_silent(kill));
    slow.release("exec");
    assert!(slow.shim.client.answer::<task::StartResponse>(start).unwrap().pid > 0);
    assert_eq!(code(slow.shim.client.answer::<task::StartResponse>(again)), Code::FailedPrecondition);
    slow.shim.client.answer::<()>(kill).unwrap();
    assert_eq!(slow.shim.wait("one").unwrap().exit_status, 143);
    slow.shim.delete("one").unwrap();
    slow.finish();
}

#[test]
fn a_process_that_ends_before_its_runtime_is_not_lost() {
    let mut slow = Slow::running();
    // Not as long as it is a shell's of the runtime, which might reap it: then it were lost for good, and not by the shim.
    slow.program("while grep -qs slow-runtime /proc/$PPID/cmdline; do sleep 0.02; done; exit 5");
    slow.shim.exec("one", "", false).unwrap();
    slow.hold("after-exec");
    let start = slow.send_start("one");
    slow.runtime("exec");
    // Time for it to end, and for the shim to take it for an orphan.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(slow.status("one"), Status::Created);
    slow.release("after-exec");
    slow.shim.client.answer::<task::StartResponse>(start).unwrap();
    assert_eq!(slow.shim.wait("one").unwrap().exit_status, 5);

    // And a first process that ends while it is being started ends after that.
    slow.shim.delete("one").unwrap();
    slow.finish();
    let mut slow = Slow::new();
    let creation = slow.create();
    let created: task::CreateTaskResponse = slow.shim.client.answer(creation).unwrap();
    slow.hold("start");
    let start = slow.send_start("");
    slow.runtime("start");
    rustix::process::kill_process(Pid::from_raw(created.pid.try_into().unwrap()).unwrap(), Signal::KILL)
        .unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(slow.status(""), Status::Created);
    slow.release("start");
    slow.shim.client.answer::<task::StartResponse>(start).unwrap();
    assert_eq!(slow.shim.wait("").unwrap().exit_status, 137);
    slow.finish();
}

#[test]
fn nothing_makes_a_sigkill_wait() {
    let mut slow = Slow::running();
    slow.hold("pause");
    let pause = slow.shim.client.start(TASK, "Pause", &task::PauseRequest { id: ID.into() });
    slow.runtime("pause");
    let term = slow.send_kill("", libc::SIGTERM);
    assert!(slow.is_silent(term), "a signal overtakes the runtime");
    slow.shim.kill("", libc::SIGKILL).unwrap();
    assert_eq!(slow.shim.wait("").unwrap().exit_status, 137);
    slow.release("pause");
    slow.shim.client.answer::<()>(pause).unwrap();
    assert_eq!(code(slow.shim.client.answer::<()>(term)), Code::NotFound);
    slow.finish();
}

#[test]
fn a_runtime_that_somebody_kills_is_an_error() {
    let mut slow = Slow::running();
    slow.shim.exec("one", "", false).unwrap();
    slow.hold("after-exec");
    let start = slow.send_start("one");
    rustix::process::kill_process(slow.runtime("exec"), Signal::KILL).unwrap();
    let error = slow.shim.client.answer::<task::StartResponse>(start).unwrap_err();
    assert!(error.message.contains("exec failed") && error.message.contains("SIGKILL"), "{error:?}");
    assert_eq!(slow.status("one"), Status::Created);
    // The process that it had made is nobody's: it is ended.
    let made = || {
        let all = fs::read_dir("/proc").unwrap().flatten();
        let ours = slow.root.join("program");
        all.filter(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(ours.to_str().unwrap())
        })
        .count()
    };
    assert!(wait_until(AT_ONCE, || made() == 0), "the process lives on");
    slow.finish();
}

#[test]
fn a_client_that_leaves_changes_nothing_for_a_container_that_is_being_made() {
    let mut slow = Slow::new();
    slow.hold("create");
    slow.create();
    slow.runtime("create");
    let again = slow.create();
    assert_eq!(
        code(slow.shim.client.answer::<task::CreateTaskResponse>(again)),
        Code::AlreadyExists,
        "a second one of this name"
    );
    // What is asked of it meanwhile is done afterwards; what only looks finds nothing.
    assert_eq!(code(slow.shim.state("")), Code::NotFound);
    slow.shim.client.task::<_, ()>("Shutdown", &task::ShutdownRequest::default()).unwrap();
    let address = fs::read_to_string(slow.shim.bundle.join("address")).unwrap();
    let path = address.strip_prefix("unix://").unwrap();
    slow.shim.client = Client::new(std::os::unix::net::UnixStream::connect(path).unwrap());
    let start = slow.send_start("");
    assert!(slow.is_silent(start));
    slow.release("create");
    assert!(slow.shim.client.answer::<task::StartResponse>(start).unwrap().pid > 0);
    assert_eq!(slow.status(""), Status::Running);
    slow.finish();
}

#[test]
fn a_creation_that_fails_is_taken_back_before_it_is_told() {
    let mut slow = Slow::new();
    slow.hold("after-create");
    let creation = slow.create();
    rustix::process::kill_process(slow.runtime("create"), Signal::KILL).unwrap();
    let error = slow.shim.client.answer::<task::CreateTaskResponse>(creation).unwrap_err();
    assert!(error.message.contains("create failed"), "{error:?}");
    assert_eq!(slow.calls(), ["create", "delete"]);
    slow.release("after-create");
    let creation = slow.create();
    slow.shim.client.answer::<task::CreateTaskResponse>(creation).unwrap();
    slow.finish();
}

#[test]
fn a_shim_that_is_deleted_takes_a_hung_runtime_with_it() {
    let mut slow = Slow::running();
    slow.shim.exec("one", "", false).unwrap();
    slow.hold("exec");
    slow.send_start("one");
    let runtime = slow.runtime("exec");
    let shim = shim_pid(&slow.shim);
    let init = slow.shim.state("").unwrap().pid;
    assert_eq!(delete(&slow.shim).exit_status, 137);
    let pid = u32::try_from(runtime.as_raw_nonzero().get()).unwrap();
    assert!(wait_until(AT_ONCE, || !lives(shim) && !lives(pid) && !lives(init)), "something lives on");
}
