//! One shim for the containers of a pod: what hangs in one of them holds up none of the others.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use longshore_proto::containerd::task::v3 as task;
use longshore_proto::containerd::v1::types::Status;
use longshore_proto::longshore::shim::v1 as proto;
use longshore_proto::ttrpc::{CallError, Code};
use prost_types::Any;
use serde_json::{Value, json};

use crate::client::{Reply, SHIM, TASK, code};
use crate::harness::{ID, Shim, Want, wait_until};

/// The container that nothing happens to.
const OTHER: &str = "other";

/// An answer of a loop that waits for nobody comes within this; what would hold it up lasts longer.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The shim of a pod without containers.
fn pod() -> Shim {
    let mut shim = Shim::new();
    let bundle = shim.bundle.to_str().unwrap().to_owned();
    let request =
        proto::AssignRequest { namespace: "test".to_owned(), id: ID.to_owned(), bundle, shared: true };
    shim.client.call::<_, proto::AssignResponse>(SHIM, "Assign", &request).unwrap();
    shim
}

/// The request for one more container, whose bundle is there then.
fn prepared(
    shim: &mut Shim,
    id: &str,
    want: &Want,
    adjust: impl FnOnce(&mut Value),
) -> task::CreateTaskRequest {
    let bundle = shim.dir.path().join(id);
    fs::create_dir_all(bundle.join("rootfs")).unwrap();
    let own = std::mem::replace(&mut shim.bundle, bundle.clone());
    shim.write_config(want);
    let request = shim.create_request(want);
    shim.bundle = own;
    let file = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["linux"]["cgroupsPath"] = json!(format!("{}/{id}", shim.cgroup));
    adjust(&mut config);
    fs::write(&file, config.to_string()).unwrap();
    task::CreateTaskRequest { id: id.to_owned(), bundle: bundle.to_str().unwrap().to_owned(), ..request }
}

fn create(shim: &mut Shim, id: &str, adjust: impl FnOnce(&mut Value)) {
    let request = prepared(shim, id, &Want::sh("sleep 100"), adjust);
    shim.client.task::<_, task::CreateTaskResponse>("Create", &request).unwrap();
}

fn start(shim: &mut Shim, id: &str) {
    let request = task::StartRequest { id: id.to_owned(), exec_id: String::new() };
    shim.client.task::<_, task::StartResponse>("Start", &request).unwrap();
}

fn kill_all(id: &str) -> task::KillRequest {
    task::KillRequest {
        id: id.to_owned(),
        signal: libc::SIGKILL.unsigned_abs(),
        all: true,
        ..Default::default()
    }
}

fn delete(id: &str) -> task::DeleteRequest {
    task::DeleteRequest { id: id.to_owned(), exec_id: String::new() }
}

fn status(shim: &mut Shim, id: &str) -> Result<Status, CallError> {
    let request = task::StateRequest { id: id.to_owned(), exec_id: String::new() };
    shim.client.task::<_, task::StateResponse>("State", &request).map(|state| state.status())
}

/// Asks for the other container, which must be told at once.
fn others_go_on(shim: &mut Shim) {
    let asked = Instant::now();
    assert_eq!(status(shim, OTHER).unwrap(), Status::Running);
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
}

/// Whether a call is still unanswered; what has come stays lost.
fn is_open(shim: &mut Shim, stream: u32) -> bool {
    shim.client.recv(stream, Duration::ZERO).is_none()
}

fn answer<A: prost::Message + Default>(shim: &mut Shim, stream: u32) -> Result<A, CallError> {
    match shim.client.recv(stream, Duration::from_secs(30)) {
        Some(Reply::Answer(answer)) => answer.map(|bytes| A::decode(bytes.as_slice()).unwrap()),
        other => panic!("{other:?}"),
    }
}

fn end(shim: &mut Shim, id: &str) {
    shim.client.task::<_, ()>("Kill", &kill_all(id)).unwrap();
    let wait = task::WaitRequest { id: id.to_owned(), exec_id: String::new() };
    shim.client.task::<_, task::WaitResponse>("Wait", &wait).unwrap();
    shim.client.task::<_, task::DeleteResponse>("Delete", &delete(id)).unwrap();
}

/// A cgroup whose processes stand still, even those that are killed; only v1 has such.
struct Frozen(PathBuf);

impl Frozen {
    /// Around all containers whose cgroups are below `<the test's>/hung`.
    fn around(shim: &Shim) -> Option<Frozen> {
        let folder =
            PathBuf::from("/sys/fs/cgroup/freezer").join(shim.cgroup.trim_start_matches('/')).join("hung");
        fs::write(folder.join("freezer.state"), "FROZEN").ok()?;
        Some(Frozen(folder))
    }

    fn thaw(&self) {
        fs::write(self.0.join("freezer.state"), "THAWED").unwrap();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("freezer.state"), "THAWED");
    }
}

#[test]
fn what_does_not_end_holds_up_its_own_deletion_only() {
    let mut shim = pod();
    create(&mut shim, OTHER, |_| {});
    start(&mut shim, OTHER);
    let path = format!("{}/hung/stuck", shim.cgroup);
    create(&mut shim, "stuck", |config| config["linux"]["cgroupsPath"] = json!(path));
    start(&mut shim, "stuck");
    let Some(frozen) = Frozen::around(&shim) else {
        eprintln!("skipped: this host has no cgroup v1 freezer");
        return;
    };
    let killed = shim.client.start(TASK, "Kill", &kill_all("stuck"));
    // It comes after the kill, and then waits for the end that does not come.
    let deleted = shim.client.start(TASK, "Delete", &delete("stuck"));
    for _ in 0..5 {
        others_go_on(&mut shim);
    }
    assert!(is_open(&mut shim, killed), "what was killed stands still: nobody knows yet");
    assert!(is_open(&mut shim, deleted));
    // A second one is not held back.
    let again = shim.client.start(TASK, "Kill", &kill_all("stuck"));
    others_go_on(&mut shim);
    frozen.thaw();
    answer::<()>(&mut shim, killed).unwrap();
    answer::<()>(&mut shim, again).unwrap();
    match answer::<task::DeleteResponse>(&mut shim, deleted) {
        Ok(deleted) => assert_eq!(deleted.exit_status, 137),
        // It came when the rounds were over, and the end was not known yet.
        Err(error) => {
            assert_eq!(error.code, Code::FailedPrecondition, "{error}");
            let wait = task::WaitRequest { id: "stuck".to_owned(), exec_id: String::new() };
            let ended: task::WaitResponse = shim.client.task("Wait", &wait).unwrap();
            assert_eq!(ended.exit_status, 137);
            shim.client.task::<_, task::DeleteResponse>("Delete", &delete("stuck")).unwrap();
        }
    }
    assert_eq!(code(status(&mut shim, "stuck")), Code::NotFound);
    end(&mut shim, OTHER);
    shim.shut_down();
}

#[test]
fn a_container_that_is_taken_back_holds_up_no_other() {
    let mut shim = pod();
    create(&mut shim, OTHER, |_| {});
    start(&mut shim, OTHER);
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = u32::from(taken.local_addr().unwrap().port());
    let held = proto::HeldPort {
        protocol: proto::held_port::Protocol::Tcp.into(),
        host_ip: "127.0.0.1".into(),
        host_port: port,
        target_ip: "127.0.0.1".into(),
        target_port: port,
    };
    let mut want = Want::sh("sleep 100");
    want.options = Some(proto::CreateOptions { ports: vec![held], ..Default::default() });
    let begun = shim.dir.path().join("begun");
    let script = format!("touch {}; sleep 3", begun.display());
    let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"] });
    let request = prepared(&mut shim, "late", &want, |config| {
        config["hooks"] = json!({ "poststop": [hook] });
    });
    let creating = shim.client.start(TASK, "Create", &request);
    assert!(wait_until(Duration::from_secs(10), || begun.exists()), "it is not taken back");
    others_go_on(&mut shim);
    // Its name is not free before it is gone.
    let again = shim.client.task::<_, task::CreateTaskResponse>("Create", &request);
    assert_eq!(code(again), Code::AlreadyExists);
    assert!(is_open(&mut shim, creating), "the answer comes after the work");
    let error = answer::<task::CreateTaskResponse>(&mut shim, creating).unwrap_err();
    assert!(error.to_string().to_lowercase().contains("address already in use"), "{error}");
    assert!(!shim.dir.path().join("late/init.pid").exists());
    drop(taken);
    create(&mut shim, "late", |_| {});
    end(&mut shim, "late");
    end(&mut shim, OTHER);
    shim.shut_down();
}

#[test]
fn what_is_asked_of_one_container_is_done_in_order() {
    let mut shim = pod();
    create(&mut shim, ID, |_| {});
    start(&mut shim, ID);
    let pause = task::PauseRequest { id: ID.to_owned() };
    let resume = task::ResumeRequest { id: ID.to_owned() };
    let resources = Any {
        type_url: String::new(),
        value: json!({ "memory": { "limit": 64 << 20 } }).to_string().into_bytes(),
    };
    let update =
        task::UpdateTaskRequest { id: ID.to_owned(), resources: Some(resources), ..Default::default() };
    for _ in 0..20 {
        let paused = shim.client.start(TASK, "Pause", &pause);
        let updated = shim.client.start(TASK, "Update", &update);
        let resumed = shim.client.start(TASK, "Resume", &resume);
        answer::<()>(&mut shim, paused).unwrap();
        answer::<()>(&mut shim, updated).unwrap();
        answer::<()>(&mut shim, resumed).unwrap();
        assert_eq!(status(&mut shim, ID).unwrap(), Status::Running);
    }
    let limit = PathBuf::from("/sys/fs/cgroup/memory").join(shim.cgroup.trim_start_matches('/')).join(ID);
    if let Ok(limit) = fs::read_to_string(limit.join("memory.limit_in_bytes")) {
        assert_eq!(limit.trim(), (64 << 20).to_string());
    }
    let paused = shim.client.start(TASK, "Pause", &pause);
    let killed = shim.client.start(TASK, "Kill", &kill_all(ID));
    answer::<()>(&mut shim, paused).unwrap();
    answer::<()>(&mut shim, killed).unwrap();
    let wait = task::WaitRequest { id: ID.to_owned(), exec_id: String::new() };
    assert_eq!(shim.client.task::<_, task::WaitResponse>("Wait", &wait).unwrap().exit_status, 137);
    shim.client.task::<_, task::DeleteResponse>("Delete", &delete(ID)).unwrap();
    shim.shut_down();
}

#[test]
fn a_container_that_is_being_made_brings_its_connections() {
    let mut shim = pod();
    create(&mut shim, OTHER, |_| {});
    start(&mut shim, OTHER);
    let begun = shim.dir.path().join("begun");
    let script = format!("touch {}; sleep 2", begun.display());
    let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"] });
    let request = prepared(&mut shim, "slow", &Want::sh("sleep 100"), |config| {
        config["hooks"] = json!({ "createRuntime": [hook] });
    });
    let creating = shim.client.start(TASK, "Create", &request);
    assert!(wait_until(Duration::from_secs(10), || begun.exists()));
    let state = task::StateRequest { id: OTHER.to_owned(), exec_id: String::new() };
    let mut clients: Vec<_> = (0..80).map(|_| shim.connect()).collect();
    for client in &mut clients {
        client.task::<_, task::StateResponse>("State", &state).unwrap();
    }
    drop(clients);
    answer::<task::CreateTaskResponse>(&mut shim, creating).unwrap();
    end(&mut shim, "slow");
    end(&mut shim, OTHER);
    shim.shut_down();
}

#[test]
fn large_profiles_are_compiled_for_several_containers_at_a_time() {
    let mut shim = pod();
    let cache = shim.dir.path().join("seccomp");
    let mut want = Want::sh("grep Seccomp: /proc/self/status; sleep 100");
    want.options = Some(proto::CreateOptions {
        seccomp_cache: cache.to_str().unwrap().to_owned(),
        ..Default::default()
    });
    let names: Vec<String> = (0..8).map(|number| format!("c{number}")).collect();
    let requests: Vec<_> =
        names.iter().map(|name| prepared(&mut shim, name, &want, crate::memory::with_seccomp)).collect();
    let made: Vec<u32> = requests.iter().map(|request| shim.client.start(TASK, "Create", request)).collect();
    for stream in made {
        let pid = answer::<task::CreateTaskResponse>(&mut shim, stream).unwrap().pid;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("Seccomp:\t2"), "{status}");
    }
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
    for name in names {
        end(&mut shim, &name);
    }
    shim.shut_down();
}
