//! A container's life through the task API: states, codes, events and their order, exit records.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use longshore_proto::containerd::task::v3 as task;
use longshore_proto::containerd::v1::types::Status;
use longshore_proto::longshore::shim::v1 as shim;
use longshore_proto::ttrpc::Code;

use crate::client::{Client, SHIM, TASK, code};
use crate::harness::{ID, Shim, Want, exit_of, wait_until};

fn topics(shim: &mut Shim, stream: u32, count: usize) -> Vec<String> {
    (0..count).map(|_| shim.client.event(stream).topic).collect()
}

#[test]
fn a_waiting_shim_leaves_with_its_daemon() {
    let mut shim = Shim::new();
    let request = task::StateRequest { id: ID.to_owned(), exec_id: String::new() };
    assert_eq!(code(shim.client.task::<_, task::StateResponse>("State", &request)), Code::FailedPrecondition);
    shim.client.socket.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(wait_until(Duration::from_secs(5), || shim.child.try_wait().unwrap().is_some()));
    assert!(shim.child.wait().unwrap().success());
}

#[test]
fn a_container_lives_and_ends() {
    let mut shim = Shim::new();
    let pid = shim.assign().unwrap().pid;
    assert_eq!(pid, shim.child.id());
    let events = shim.client.events(0);
    let want = Want::sh("exit 7");
    let created = shim.create(&want).unwrap().pid;
    assert_eq!(std::fs::read_to_string(shim.bundle.join("init.pid")).unwrap(), created.to_string());
    assert_eq!(std::fs::read_to_string(shim.bundle.join("shim.pid")).unwrap(), pid.to_string());
    let state = shim.state("").unwrap();
    assert_eq!((state.status(), state.pid), (Status::Created, created));
    let waiting =
        shim.client.start(TASK, "Wait", &task::WaitRequest { id: ID.to_owned(), exec_id: String::new() });
    assert_eq!(shim.start().unwrap().pid, created);
    let waited: task::WaitResponse = shim.client.answer(waiting).unwrap();
    assert_eq!(waited.exit_status, 7);
    let record = shim.record("init").expect("the record is there before anybody is told");
    assert_eq!((record.exit_status, record.pid, record.container_id.as_str()), (7, created, ID));
    assert!(record.started_at.is_some() && record.exited_at == waited.exited_at && !record.oom_killed);
    assert_eq!(shim.state("").unwrap().status(), Status::Stopped);
    assert_eq!(code(shim.kill("", libc::SIGTERM)), Code::NotFound);
    let deleted = shim.delete("").unwrap();
    assert_eq!((deleted.exit_status, deleted.pid), (7, created));
    let expected = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"];
    assert_eq!(topics(&mut shim, events, 4), expected);
    assert_eq!(code(shim.state("")), Code::NotFound);
    shim.shut_down();
}

#[test]
fn everything_may_come_in_one_write() {
    let mut shim = Shim::new();
    let want = Want::sh("echo out; echo err >&2; exit 3");
    shim.write_config(&want);
    let bundle = shim.bundle.to_str().unwrap().to_owned();
    let assign = longshore_proto::longshore::shim::v1::AssignRequest {
        namespace: "n".into(),
        id: ID.into(),
        bundle,
        shared: false,
    };
    let create = shim.create_request(&want);
    let client = &mut shim.client;
    use longshore_proto::ttrpc::Call;
    client.queue(SHIM, "Assign", Call::Unary, &assign);
    let create = client.queue(TASK, "Create", Call::Unary, &create);
    let events = client.queue(SHIM, "Events", Call::ServerStream, &());
    let attach = client.queue_attach(longshore_proto::longshore::shim::v1::AttachStart {
        stdout: true,
        stderr: true,
        ..Default::default()
    });
    let start = client.queue(
        TASK,
        "Start",
        Call::Unary,
        &task::StartRequest { id: ID.into(), exec_id: String::new() },
    );
    client.flush();
    let all = client.attach_all(attach);
    assert_eq!((all.stdout.as_slice(), all.stderr.as_slice()), (b"out\n".as_slice(), b"err\n".as_slice()));
    assert_eq!(all.exited.unwrap().exit_status, 3);
    client.answer::<task::CreateTaskResponse>(create).unwrap();
    client.answer::<task::StartResponse>(start).unwrap();
    assert_eq!(topics(&mut shim, events, 3), ["/tasks/create", "/tasks/start", "/tasks/exit"]);
    shim.finish();
}

#[test]
fn codes_are_those_that_clients_test_for() {
    let mut shim = Shim::created(&Want::sh("sleep 100"));
    assert_eq!(code(shim.assign()), Code::FailedPrecondition);
    let again = shim.create_request(&Want::sh("true"));
    assert_eq!(code(shim.client.task::<_, task::CreateTaskResponse>("Create", &again)), Code::AlreadyExists);
    let other = task::StateRequest { id: "other".into(), exec_id: String::new() };
    assert_eq!(code(shim.client.task::<_, task::StateResponse>("State", &other)), Code::NotFound);
    assert_eq!(code(shim.state("none")), Code::NotFound);
    assert_eq!(code(shim.client.call::<_, ()>(TASK, "Nonsense", &())), Code::Unimplemented);
    assert_eq!(code(shim.client.call::<_, ()>("some.Service", "State", &())), Code::Unimplemented);
    let checkpoint =
        task::CheckpointTaskRequest { id: ID.into(), path: "/no/such".into(), ..Default::default() };
    assert_eq!(code(shim.client.task::<_, ()>("Checkpoint", &checkpoint)), Code::FailedPrecondition);
    shim.start().unwrap();
    assert_eq!(code(shim.client.task::<_, ()>("Checkpoint", &checkpoint)), Code::Unimplemented);
    assert_eq!(code(shim.start()), Code::FailedPrecondition);
    assert_eq!(code(shim.delete("")), Code::FailedPrecondition);
    let bad = task::KillRequest { id: ID.into(), signal: 4000, ..Default::default() };
    assert_eq!(code(shim.client.task::<_, ()>("Kill", &bad)), Code::InvalidArgument);
    let shutdown = task::ShutdownRequest { id: ID.into(), now: true };
    shim.client.task::<_, ()>("Shutdown", &shutdown).unwrap();
    assert_eq!(shim.state("").unwrap().status(), Status::Running, "a shim with a container stays");
    let connected: task::ConnectResponse =
        shim.client.task("Connect", &task::ConnectRequest { id: ID.into() }).unwrap();
    assert_eq!(connected.shim_pid, shim.child.id());
    assert_ne!(connected.task_pid, 0);
    shim.kill("", libc::SIGKILL).unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 137);
    shim.finish();
}

#[test]
fn version_two_of_the_api_answers_too() {
    let mut shim = Shim::created(&Want::sh("sleep 100"));
    let request = task::StateRequest { id: ID.to_owned(), exec_id: String::new() };
    let state: task::StateResponse = shim.client.call("containerd.task.v2.Task", "State", &request).unwrap();
    assert_eq!(state.status(), Status::Created);
    // A container that never ran can be deleted, too.
    assert_eq!(shim.delete("").unwrap().exit_status, 137);
    shim.shut_down();
}

#[test]
fn a_program_that_is_not_there_gives_127() {
    let mut shim = Shim::new();
    shim.assign().unwrap();
    let want = Want { args: vec!["/nonsense".to_owned()], ..Want::sh("") };
    let error = match shim.create(&want) {
        Err(error) => error,
        Ok(_) => {
            let error = shim.start().unwrap_err();
            assert_eq!(shim.wait("").unwrap().exit_status, 127);
            shim.delete("").unwrap();
            error
        }
    };
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.message.starts_with("exec"), "{error}");
    shim.shut_down();
}

#[test]
fn a_config_that_cannot_be_read_leaves_nothing() {
    let mut shim = Shim::new();
    shim.assign().unwrap();
    let request = shim.create_request(&Want::default());
    let error = shim.client.task::<_, task::CreateTaskResponse>("Create", &request).unwrap_err();
    assert!(error.message.contains("config.json"), "{error}");
    std::fs::write(shim.bundle.join("config.json"), "{\"ociVersion\": 1}").unwrap();
    assert_eq!(
        code(shim.client.task::<_, task::CreateTaskResponse>("Create", &request)),
        Code::InvalidArgument
    );
    shim.create(&Want::sh("exit 1")).unwrap();
    shim.start().unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 1);
    shim.finish();
}

#[test]
fn execs_come_and_go() {
    let mut shim = Shim::created(&Want::sh("sleep 100"));
    let events = shim.client.events(0);
    shim.start().unwrap();
    assert_eq!(code(shim.exec("init", "true", false)), Code::InvalidArgument);
    assert_eq!(code(shim.exec("../x", "true", false)), Code::InvalidArgument);
    shim.exec("e1", "exit 5", false).unwrap();
    assert_eq!(code(shim.exec("e1", "true", false)), Code::AlreadyExists);
    let state = shim.state("e1").unwrap();
    assert_eq!((state.status(), state.pid), (Status::Created, 0));
    let pid = shim.start_exec("e1").unwrap().pid;
    assert_eq!(shim.wait("e1").unwrap().exit_status, 5);
    assert_eq!(shim.record("e1").unwrap().exit_status, 5);
    assert_eq!(shim.delete("e1").unwrap().pid, pid);
    assert!(shim.record("e1").is_none());
    assert_eq!(code(shim.wait("e1")), Code::NotFound);
    shim.exec("e2", "sleep 100", false).unwrap();
    let pid = shim.start_exec("e2").unwrap().pid;
    let pids: task::PidsResponse = shim.client.task("Pids", &task::PidsRequest { id: ID.into() }).unwrap();
    let exec = pids.processes.iter().find(|process| process.pid == pid).expect("the exec is listed");
    assert_eq!(exec.info.as_ref().unwrap().type_url, "containerd.runc.v1.ProcessDetails");
    shim.exec("e3", "true", false).unwrap();
    shim.delete("e3").unwrap();
    shim.kill("", libc::SIGKILL).unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 137);
    let topics = topics(&mut shim, events, 10);
    assert_eq!(
        topics,
        [
            "/tasks/create",
            "/tasks/start",
            "/tasks/exec-added",
            "/tasks/exec-started",
            "/tasks/exit",
            "/tasks/exec-added",
            "/tasks/exec-started",
            "/tasks/exec-added",
            "/tasks/exit",
            "/tasks/exit"
        ]
    );
    shim.finish();
}

#[test]
fn an_execs_exit_comes_before_the_first_processs() {
    let adjust = |config: &mut serde_json::Value| {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    };
    // Without a pid namespace of its own nothing but the shim ends the exec.
    let mut shim = Shim::created(&Want { adjust: Some(adjust), ..Want::sh("sleep 1") });
    let events = shim.client.events(0);
    shim.start().unwrap();
    shim.exec("e1", "sleep 100", false).unwrap();
    shim.start_exec("e1").unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 0);
    let mut exits = Vec::new();
    while exits.len() < 2 {
        exits.extend(exit_of(&shim.client.event(events)).map(|exit| (exit.id, exit.exit_status)));
    }
    assert_eq!(exits, [("e1".to_owned(), 137), (ID.to_owned(), 0)]);
    shim.finish();
}

#[test]
fn an_exec_that_is_not_there_gives_127() {
    let mut shim = Shim::created(&Want::sh("sleep 100"));
    shim.start().unwrap();
    let process = serde_json::json!({"user": {"uid": 0, "gid": 0}, "args": ["/nonsense"], "cwd": "/"});
    let spec = prost_types::Any { type_url: String::new(), value: process.to_string().into_bytes() };
    let request = task::ExecProcessRequest {
        id: ID.into(),
        exec_id: "e".into(),
        spec: Some(spec),
        ..Default::default()
    };
    shim.client.task::<_, ()>("Exec", &request).unwrap();
    assert_eq!(code(shim.start_exec("e")), Code::InvalidArgument);
    assert_eq!(shim.wait("e").unwrap().exit_status, 127);
    shim.delete("e").unwrap();
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.finish();
}

#[test]
fn orphans_are_reaped() {
    let adjust = |config: &mut serde_json::Value| {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    };
    let mut shim = Shim::created(&Want { adjust: Some(adjust), ..Want::sh("(sleep 0.2 &) ; sleep 1") });
    shim.start().unwrap();
    shim.wait("").unwrap();
    let children = format!("/proc/{0}/task/{0}/children", shim.child.id());
    assert!(wait_until(Duration::from_secs(3), || std::fs::read_to_string(&children).unwrap().is_empty()));
    shim.finish();
}

#[test]
fn pause_stops_and_resume_goes_on() {
    let mut shim = Shim::created(&Want::sh("sleep 100"));
    let events = shim.client.events(0);
    shim.start().unwrap();
    let pause = task::PauseRequest { id: ID.into() };
    let resume = task::ResumeRequest { id: ID.into() };
    assert_eq!(code(shim.client.task::<_, ()>("Resume", &resume)), Code::FailedPrecondition);
    shim.client.task::<_, ()>("Pause", &pause).unwrap();
    assert_eq!(shim.state("").unwrap().status(), Status::Paused);
    assert_eq!(code(shim.client.task::<_, ()>("Pause", &pause)), Code::FailedPrecondition);
    shim.client.task::<_, ()>("Resume", &resume).unwrap();
    assert_eq!(shim.state("").unwrap().status(), Status::Running);
    assert_eq!(topics(&mut shim, events, 4)[2..], ["/tasks/paused", "/tasks/resumed"]);
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.finish();
}

#[test]
fn limits_are_updated_and_use_is_measured() {
    let mut shim = Shim::created(&Want::sh("sleep 100"));
    shim.start().unwrap();
    let resources = serde_json::json!({"pids": {"limit": 17}});
    let resources = prost_types::Any { type_url: String::new(), value: resources.to_string().into_bytes() };
    let update = task::UpdateTaskRequest { id: ID.into(), resources: Some(resources), ..Default::default() };
    shim.client.task::<_, ()>("Update", &update).unwrap();
    let stats: task::StatsResponse =
        shim.client.task("Stats", &task::StatsRequest { id: ID.into() }).unwrap();
    let any = stats.stats.unwrap();
    let (current, limit) = match any.type_url.as_str() {
        "io.containerd.cgroups.v1.Metrics" => {
            let metrics: longshore_proto::io::containerd::cgroups::v1::Metrics =
                prost::Message::decode(any.value.as_slice()).unwrap();
            assert!(metrics.memory.unwrap().usage.unwrap().usage > 0);
            let pids = metrics.pids.unwrap();
            (pids.current, pids.limit)
        }
        "io.containerd.cgroups.v2.Metrics" => {
            let metrics: longshore_proto::io::containerd::cgroups::v2::Metrics =
                prost::Message::decode(any.value.as_slice()).unwrap();
            let pids = metrics.pids.unwrap();
            (pids.current, pids.limit)
        }
        other => panic!("{other}"),
    };
    assert_eq!((current, limit), (1, 17));
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.finish();
}

#[test]
fn running_out_of_memory_is_told_apart() {
    let adjust = |config: &mut serde_json::Value| {
        config["linux"]["resources"] = serde_json::json!({"memory": {"limit": 16 << 20}});
    };
    let want = Want { adjust: Some(adjust), ..Want::sh("exec tail -c 100m /dev/zero") };
    let mut shim = Shim::created(&want);
    let events = shim.client.events(0);
    shim.start().unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 137);
    assert!(shim.record("init").unwrap().oom_killed);
    assert_eq!(topics(&mut shim, events, 4), ["/tasks/create", "/tasks/start", "/tasks/oom", "/tasks/exit"]);
    shim.finish();
}

#[test]
fn the_container_outlives_whoever_started_it() {
    let mut shim = Shim::created(&Want::sh("read x; echo $x; exit 9"));
    shim.start().unwrap();
    shim.client.socket.shutdown(std::net::Shutdown::Both).unwrap();
    let mut client = shim.connect();
    let events = client.events(1);
    let event = client.event(events);
    assert_eq!((event.sequence, event.topic.as_str()), (2, "/tasks/start"), "the first is not sent again");
    let attach = client.queue_attach(longshore_proto::longshore::shim::v1::AttachStart {
        stdin: true,
        stdout: true,
        ..Default::default()
    });
    client.send_stdin(attach, b"hello\n", false);
    let all = client.attach_all(attach);
    assert_eq!(all.stdout, b"hello\n");
    assert_eq!(exit_of(&client.event(events)).unwrap().exit_status, 9);
    shim.client = shim.connect();
    let events = shim.client.events(0);
    assert_eq!(topics(&mut shim, events, 3), ["/tasks/create", "/tasks/start", "/tasks/exit"]);
    shim.finish();
}

#[test]
fn killing_the_starter_and_its_process_group_kills_nothing_else() {
    use std::os::unix::process::CommandExt;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let binary = env!("CARGO_BIN_EXE_containerd-shim-longshore-v1");
    // The starter is a shell; the shim's socket comes as the shell's stdin.
    let starter = std::process::Command::new("/bin/sh")
        .args(["-c", "exec 3<&0 </dev/null; \"$0\" pool & exec 3<&-; wait", binary])
        .stdin(std::os::fd::OwnedFd::from(theirs))
        .process_group(0)
        .spawn()
        .unwrap();
    let mut shim = Shim::with_child(starter, ours);
    let pid = shim.assign().unwrap().pid;
    shim.create(&Want::sh("sleep 1; exit 5")).unwrap();
    let init = shim.start().unwrap().pid;
    let group = rustix::process::Pid::from_child(&shim.child);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    shim.child.wait().unwrap();
    shim.client.socket.shutdown(std::net::Shutdown::Both).unwrap();
    for alive in [pid, init] {
        assert!(std::path::Path::new(&format!("/proc/{alive}")).exists());
    }
    shim.client = shim.connect();
    let events = shim.client.events(0);
    assert_eq!(topics(&mut shim, events, 3), ["/tasks/create", "/tasks/start", "/tasks/exit"]);
    assert_eq!(shim.wait("").unwrap().exit_status, 5);
    shim.finish();
    assert!(wait_until(Duration::from_secs(5), || !is_alive(pid)));
}

/// Whether a process runs; a zombie that waits for its reaper does not.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[test]
fn an_assigned_shim_that_nobody_needs_leaves() {
    let mut shim = Shim::new();
    shim.assign().unwrap();
    shim.client.socket.shutdown(std::net::Shutdown::Both).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(shim.child.try_wait().unwrap().is_none(), "it waits for a while");
    assert!(wait_until(Duration::from_secs(12), || shim.child.try_wait().unwrap().is_some()));
}

#[test]
fn a_configuration_that_makes_no_sense_is_the_callers_fault() {
    let mut shim = Shim::new();
    shim.assign().unwrap();
    type Spoil = fn(&mut serde_json::Value);
    let cases: [(Spoil, &str); 3] = [
        (|config| drop(config.as_object_mut().unwrap().remove("linux")), "linux: is missing"),
        (|config| drop(config.as_object_mut().unwrap().remove("process")), "process"),
        (
            |config| config["linux"]["namespaces"] = serde_json::json!([{"type": "pid"}, {"type": "pid"}]),
            "twice",
        ),
    ];
    for (adjust, text) in cases {
        let error = shim.create(&Want { adjust: Some(adjust), ..Want::sh("true") }).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{error:?}");
        assert!(error.message.contains(text), "{error:?}");
    }
}

#[test]
fn a_container_whose_bundle_was_removed_ends_with_its_last_client() {
    let mut shim = Shim::created(&Want::sh("sleep 1000"));
    let pid = shim.start().unwrap().pid;
    let bundle = std::mem::replace(&mut shim.bundle, shim.dir.path().join("nothing"));
    std::fs::remove_dir_all(&bundle).unwrap();
    // Whoever is connected still has it.
    assert_eq!(shim.state("").unwrap().status(), Status::Running);
    drop(std::mem::replace(&mut shim.client, Client::new(UnixStream::pair().unwrap().0)));
    let has_left = || shim.child.try_wait().unwrap().is_some();
    assert!(wait_until(Duration::from_secs(30), has_left), "the shim lives on");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "its container lives on");
    assert_eq!(shim.left_over(), Vec::<std::path::PathBuf>::new());
}

/// Hooks take as long as they like; the shim has others to serve, and what hangs must be killable.
#[test]
fn hooks_do_not_hold_up_the_shim() {
    let mut want = Want::sh("sleep 100");
    want.adjust = Some(|config| {
        let sleep = |time: &str| serde_json::json!([{ "path": "/bin/sleep", "args": ["sleep", time] }]);
        config["hooks"] = serde_json::json!({ "createRuntime": sleep("2"), "startContainer": sleep("1000") });
    });
    let mut shim = Shim::new();
    shim.assign().unwrap();
    shim.write_config(&want);
    let create = shim.create_request(&want);
    let unary = longshore_proto::ttrpc::Call::Unary;
    let creating = shim.client.queue(TASK, "Create", unary, &create);
    shim.client.flush();
    let mut other = shim.connect();
    let began = std::time::Instant::now();
    let again: Result<task::CreateTaskResponse, _> = other.task("Create", &create);
    assert_eq!(code(again), Code::AlreadyExists);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let created: task::CreateTaskResponse = shim.client.answer(creating).unwrap();
    let start = task::StartRequest { id: ID.into(), exec_id: String::new() };
    let starting = shim.client.queue(TASK, "Start", unary, &start);
    shim.client.flush();
    let began = std::time::Instant::now();
    let state: task::StateResponse =
        other.task("State", &task::StateRequest { id: ID.into(), exec_id: String::new() }).unwrap();
    assert_eq!(state.pid, created.pid);
    let kill = task::KillRequest { id: ID.into(), signal: 9, ..Default::default() };
    other.task::<_, ()>("Kill", &kill).unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // Killed at its gate or just behind it: the exit status tells.
    let _ = shim.client.answer::<task::StartResponse>(starting);
    assert_eq!(shim.wait("").unwrap().exit_status, 137);
    shim.finish();
}

/// A poststart hook that runs on and on.
fn with_poststart(script: &str, hook: fn(&mut serde_json::Value)) -> (Shim, u32) {
    let mut shim = Shim::created(&Want { adjust: Some(hook), ..Want::sh(script) });
    let start = task::StartRequest { id: ID.into(), exec_id: String::new() };
    let starting = shim.client.start(TASK, "Start", &start);
    assert!(wait_until(Duration::from_secs(5), || shim.record("init").is_some()), "nothing is recorded");
    assert_eq!(shim.record("init").unwrap().exit_status, 3);
    (shim, starting)
}

#[test]
fn an_end_is_on_disk_before_the_poststart_hooks_are_over_and_told_after_the_start() {
    let (mut shim, starting) = with_poststart("exit 3", |config| {
        config["hooks"] =
            serde_json::json!({ "poststart": [{ "path": "/bin/sleep", "args": ["sleep", "1.5"] }] });
    });
    assert_eq!(shim.state("").unwrap().status(), Status::Created, "the start is not over");
    let record = shim.record("init").unwrap();
    shim.client.answer::<task::StartResponse>(starting).unwrap();
    let told = shim.wait("").unwrap();
    assert_eq!((told.exit_status, told.exited_at), (3, record.exited_at));
    let events = shim.client.events(0);
    let topics: Vec<String> = (0..3).map(|_| shim.client.event(events).topic).collect();
    assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit"]);
    shim.finish();
}

#[test]
fn a_poststart_hook_that_hangs_holds_back_the_news_of_an_end_no_longer_than_ten_seconds() {
    let (mut shim, starting) = with_poststart("exit 3", |config| {
        config["hooks"] =
            serde_json::json!({ "poststart": [{ "path": "/bin/sleep", "args": ["sleep", "1000"] }] });
    });
    let began = std::time::Instant::now();
    let error = shim.client.answer::<task::StartResponse>(starting).unwrap_err();
    assert!(format!("{error:?}").contains("after the container had ended"), "{error:?}");
    assert_eq!(shim.wait("").unwrap().exit_status, 3);
    assert!(began.elapsed() < Duration::from_secs(13), "{:?}", began.elapsed());
    shim.finish();
}

#[test]
fn a_pause_only_holds_its_namespaces() {
    let options = shim::CreateOptions { pause: true, ..Default::default() };
    let args = vec!["/no/such/program".to_owned()];
    let mut shim = Shim::created(&Want { args, options: Some(options), ..Want::default() });
    let pid = shim.start().unwrap().pid;
    assert_eq!(std::fs::read(format!("/proc/{pid}/cmdline")).unwrap(), b"/dev/init\0");
    // What is left to it is reaped.
    shim.exec("e", "for i in 1 2 3; do (sleep 0.1 &); done; ls -d /proc/[0-9]*", false).unwrap();
    shim.start_exec("e").unwrap();
    assert_eq!(shim.wait("e").unwrap().exit_status, 0);
    let children = || std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    assert!(wait_until(Duration::from_secs(5), || children().is_empty()), "{}", children());
    shim.kill("", libc::SIGUSR1).unwrap();
    assert_eq!(shim.state("").unwrap().status(), Status::Running);
    shim.kill("", libc::SIGTERM).unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 0);
    shim.finish();
}
