//! The command line by which any containerd uses the shim, and the events that it brings to one.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use longshore_proto::containerd::runc::v1::Options as RuncOptions;
use longshore_proto::containerd::runtime::bootstrap::v1::{BootstrapParams, BootstrapResult};
use longshore_proto::containerd::runtime::sandbox::v1 as sandbox;
use longshore_proto::containerd::services::events::ttrpc::v1::ForwardRequest;
use longshore_proto::containerd::task::v3 as task;
use longshore_proto::containerd::types::RuntimeInfo;
use longshore_proto::ttrpc::{self, Code, Decoder, Kind, Request};
use prost::Message;
use prost_types::Any;
use serde_json::json;

use crate::client::{Client, code};
use crate::harness::{ID, Shim, Want, wait_until};

/// Runs the shim's command in a bundle, as a daemon does.
fn run(bundle: &Path, words: &[&str], stdin: &[u8], env: &[(&str, &str)]) -> std::process::Output {
    let mut command = Command::new(crate::harness::program());
    command.args([
        "-namespace",
        "test",
        "-address",
        "/no/daemon",
        "-publish-binary",
        "/no/daemon",
        "-id",
        ID,
    ]);
    command.args(words).current_dir(bundle).env_remove("TTRPC_ADDRESS").envs(env.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    child.wait_with_output().unwrap()
}

fn connect(address: &str) -> Client {
    Client::new(UnixStream::connect(address.strip_prefix("unix://").unwrap()).unwrap())
}

/// A shim that `start` has left behind in a bundle with this configuration.
pub fn started(want: &Want, env: &[(&str, &str)]) -> Shim {
    let nobody = Command::new("true").spawn().unwrap();
    let mut shim = Shim::with_child(nobody, UnixStream::pair().unwrap().0);
    shim.write_config(want);
    let output = run(&shim.bundle, &["start"], b"", env);
    assert!(output.status.success(), "{output:?}");
    shim.client = connect(&String::from_utf8(output.stdout).unwrap());
    shim
}

pub fn shim_pid(shim: &Shim) -> u32 {
    fs::read_to_string(shim.bundle.join("shim.pid")).unwrap().parse().unwrap()
}

pub fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

pub fn delete(shim: &Shim) -> task::DeleteResponse {
    let output = run(&shim.bundle, &["-bundle", shim.bundle.to_str().unwrap(), "delete"], b"", &[]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    task::DeleteResponse::decode(output.stdout.as_slice()).unwrap()
}

#[test]
fn start_answers_in_the_form_of_the_question_and_finds_a_shim_that_lives() {
    let mut shim = started(&Want::sh("true"), &[]);
    let plain = fs::read_to_string(shim.bundle.join("address")).unwrap();
    let options =
        Any { type_url: "containerd.runc.v1.Options".into(), value: RuncOptions::default().encode_to_vec() };
    let json = run(&shim.bundle, &["start"], &options.encode_to_vec(), &[("MAX_SHIM_VERSION", "2")]);
    let expected = json!({"version": 2, "address": plain, "protocol": "ttrpc"});
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&json.stdout).unwrap(), expected);
    let params = BootstrapParams { instance_id: ID.into(), namespace: "test".into(), ..Default::default() };
    let protobuf = run(&shim.bundle, &["start"], &params.encode_to_vec(), &[("MAX_SHIM_VERSION", "3")]);
    let result = BootstrapResult::decode(protobuf.stdout.as_slice()).unwrap();
    assert_eq!(
        (result.version, result.address.as_str(), result.protocol.as_str()),
        (3, plain.as_str(), "ttrpc")
    );

    let request = task::ConnectRequest { id: ID.into() };
    let answer: task::ConnectResponse = shim.client.task("Connect", &request).unwrap();
    assert_eq!((answer.shim_pid, answer.task_pid), (shim_pid(&shim), 0));
    let score = |pid: &str| -> i32 {
        fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
    };
    assert_eq!(score(&answer.shim_pid.to_string()), (score("self") + 1).min(1000));
    let unknown: Result<(), _> = shim.client.call("containerd.task.v3.Task", "Nope", &());
    assert_eq!(code(unknown), Code::Unimplemented);
    shim.client.task::<_, ()>("Shutdown", &task::ShutdownRequest::default()).unwrap();
    assert!(wait_until(Duration::from_secs(5), || !lives(answer.shim_pid)), "the shim stays");
}

#[test]
fn cve_2019_5736_the_shims_file_cannot_be_written_through_its_process() {
    let mut shim = started(&Want::sh("true"), &[]);
    let pid = shim_pid(&shim);
    // What a container could write through /proc/PID/exe is not the binary on the disk.
    let exe = format!("/proc/{pid}/exe");
    assert!(fs::File::options().write(true).open(&exe).is_err(), "the program can be opened for writing");
    let path = rustix::fs::open(&exe, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&path));
    shim.client.task::<_, ()>("Shutdown", &task::ShutdownRequest::default()).unwrap();
    assert!(wait_until(Duration::from_secs(5), || !lives(pid)), "the shim stays");
    // Nor once nobody runs it any more, through a descriptor that was kept.
    assert!(
        fs::File::options().write(true).open(again).is_err(),
        "the program can be opened for writing later"
    );
}

#[test]
fn delete_ends_what_is_left_and_can_be_called_again() {
    let mut shim = started(&Want::sh("sleep 1000"), &[]);
    let created = shim.create(&Want::sh("sleep 1000")).unwrap();
    shim.start().unwrap();
    let pid = shim_pid(&shim);
    // The shim lives, and the daemon has given it up.
    let response = delete(&shim);
    assert_eq!((response.pid, response.exit_status), (created.pid, 137));
    assert!(response.exited_at.is_some());
    assert!(wait_until(Duration::from_secs(5), || !lives(pid) && !lives(created.pid)), "something lives on");
    assert!(!shim.bundle.join("shim.sock").exists());
    assert_eq!(delete(&shim), response, "the record is still there");
    fs::remove_dir_all(&shim.bundle).unwrap();
    let nowhere = run(shim.dir.path(), &["-bundle", shim.bundle.to_str().unwrap(), "delete"], b"", &[]);
    let response = task::DeleteResponse::decode(nowhere.stdout.as_slice()).unwrap();
    assert_eq!((response.pid, response.exit_status), (0, 137));
}

#[test]
fn delete_tells_the_exit_that_was_recorded() {
    let mut shim = started(&Want::sh("exit 9"), &[]);
    let created = shim.create(&Want::sh("exit 9")).unwrap();
    shim.start().unwrap();
    shim.wait("").unwrap();
    let pid = rustix::process::Pid::from_raw(shim_pid(&shim).try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let response = delete(&shim);
    assert_eq!((response.pid, response.exit_status), (created.pid, 9));
}

/// Takes one forwarded event off a connection.
fn take(socket: &mut UnixStream, decoder: &mut Decoder) -> Option<(u32, ForwardRequest)> {
    loop {
        if let Some(frame) = decoder.next_frame().unwrap() {
            assert_eq!(frame.kind, Kind::Request);
            let request: Request = frame.decode("Request").unwrap();
            assert_eq!(
                (request.service.as_str(), request.method.as_str()),
                ("containerd.services.events.ttrpc.v1.Events", "Forward")
            );
            assert_eq!(request.header("containerd-namespace-ttrpc"), Some("test"));
            return Some((frame.stream, ForwardRequest::decode(request.payload.as_slice()).unwrap()));
        }
        let mut bytes = [0; 4096];
        match socket.read(&mut bytes).unwrap() {
            0 => return None,
            count => decoder.feed(&bytes[..count]),
        }
    }
}

#[test]
fn a_daemon_that_was_away_gets_every_event_once_and_in_order() {
    let sockets = tempfile::tempdir().unwrap();
    let address = sockets.path().join("events");
    let mut shim = started(&Want::sh("exit 9"), &[("TTRPC_ADDRESS", address.to_str().unwrap())]);
    shim.create(&Want::sh("exit 9")).unwrap();
    shim.start().unwrap();
    shim.wait("").unwrap();
    shim.delete("").unwrap();
    shim.client.task::<_, ()>("Shutdown", &task::ShutdownRequest::default()).unwrap();
    // Only now is there anybody to hear of it: first one who hangs up, then one who refuses, then one who listens.
    let listener = UnixListener::bind(&address).unwrap();
    drop(listener.accept().unwrap());
    let (mut socket, _) = listener.accept().unwrap();
    let (stream, _) = take(&mut socket, &mut Decoder::new()).unwrap();
    let mut out = Vec::new();
    ttrpc::encode_error(&mut out, stream, Code::Unavailable, "not now");
    socket.write_all(&out).unwrap();
    let (mut socket, _) = listener.accept().unwrap();
    let (mut decoder, mut topics) = (Decoder::new(), Vec::new());
    while let Some((stream, request)) = take(&mut socket, &mut decoder) {
        let envelope = request.envelope.unwrap();
        assert_eq!(envelope.namespace, "test");
        assert!(envelope.timestamp.is_some());
        topics.push((envelope.topic, envelope.event.unwrap().type_url));
        let mut out = Vec::new();
        ttrpc::encode_response(&mut out, stream, &()).unwrap();
        socket.write_all(&out).unwrap();
    }
    let expected = [("create", "Create"), ("start", "Start"), ("exit", "Exit"), ("delete", "Delete")];
    let expected =
        expected.map(|(topic, name)| (format!("/tasks/{topic}"), format!("containerd.events.Task{name}")));
    assert_eq!(topics, expected);
}

#[test]
fn a_sandbox_holds_several_containers_and_stops_them() {
    const SANDBOX: &str = "containerd.runtime.sandbox.v1.Sandbox";
    let mut shim = started(&Want::sh("sleep 1000"), &[]);
    let request = sandbox::CreateSandboxRequest { sandbox_id: ID.into(), ..Default::default() };
    shim.client.call::<_, sandbox::CreateSandboxResponse>(SANDBOX, "CreateSandbox", &request).unwrap();
    let request = sandbox::StartSandboxRequest { sandbox_id: ID.into() };
    let answer: sandbox::StartSandboxResponse = shim.client.call(SANDBOX, "StartSandbox", &request).unwrap();
    assert_eq!(answer.pid, shim_pid(&shim));
    let waiting =
        shim.client.start(SANDBOX, "WaitSandbox", &sandbox::WaitSandboxRequest { sandbox_id: ID.into() });

    shim.create(&Want::sh("sleep 1000")).unwrap();
    shim.start().unwrap();
    let second = shim.dir.path().join("second");
    fs::create_dir(&second).unwrap();
    let config = fs::read_to_string(shim.bundle.join("config.json")).unwrap();
    fs::write(second.join("config.json"), config.replace(&format!("/{ID}\""), &format!("/{ID}/second\"")))
        .unwrap();
    let mut request = shim.create_request(&Want::sh(""));
    (request.id, request.bundle) = ("second".into(), second.display().to_string());
    let created: task::CreateTaskResponse = shim.client.task("Create", &request).unwrap();
    let request = task::StartRequest { id: "second".into(), ..Default::default() };
    shim.client.task::<_, task::StartResponse>("Start", &request).unwrap();
    let request = task::ConnectRequest { id: "second".into() };
    assert_eq!(
        shim.client.task::<_, task::ConnectResponse>("Connect", &request).unwrap().task_pid,
        created.pid
    );

    // Neither shell minds SIGTERM: as first processes of their namespaces they do not get it.
    let request = sandbox::StopSandboxRequest { sandbox_id: ID.into(), timeout_secs: 1 };
    shim.client.call::<_, sandbox::StopSandboxResponse>(SANDBOX, "StopSandbox", &request).unwrap();
    let exit: sandbox::WaitSandboxResponse = shim.client.answer(waiting).unwrap();
    assert!(exit.exited_at.is_some());
    assert_eq!(shim.wait("").unwrap().exit_status, 137);
    for id in ["second", ID] {
        let request = task::DeleteRequest { id: id.into(), ..Default::default() };
        shim.client.task::<_, task::DeleteResponse>("Delete", &request).unwrap();
    }
    let pid = shim_pid(&shim);
    shim.client.task::<_, ()>("Shutdown", &task::ShutdownRequest::default()).unwrap();
    let request = sandbox::PingRequest { sandbox_id: ID.into() };
    shim.client.call::<_, sandbox::PingResponse>(SANDBOX, "PingSandbox", &request).unwrap();
    let request = sandbox::ShutdownSandboxRequest { sandbox_id: ID.into() };
    shim.client.call::<_, sandbox::ShutdownSandboxResponse>(SANDBOX, "ShutdownSandbox", &request).unwrap();
    assert!(wait_until(Duration::from_secs(5), || !lives(pid)), "the shim stays");
}

#[test]
fn hooks_on_the_host_find_the_root_file_system_in_the_bundle() {
    let want = || Want {
        adjust: Some(|config| {
            let script = "read state; bundle=${state#*\\\"bundle\\\":\\\"}; bundle=${bundle%%\\\"*}; ls $bundle/rootfs/bin/busybox > $bundle/seen";
            config["root"] = json!({"path": "rootfs"});
            config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]});
        }),
        ..Want::sh("exit 9")
    };
    let mut shim = started(&want(), &[]);
    let tree = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shim-rootfs");
    let mut request = shim.create_request(&want());
    request.rootfs = vec![longshore_proto::containerd::types::Mount {
        r#type: "bind".into(),
        source: tree.display().to_string(),
        options: vec!["rbind".into(), "ro".into()],
        ..Default::default()
    }];
    shim.client.task::<_, task::CreateTaskResponse>("Create", &request).unwrap();
    let seen = fs::read_to_string(shim.bundle.join("seen")).unwrap();
    assert!(seen.ends_with("rootfs/bin/busybox\n"), "{seen:?}");
    shim.start().unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 9);
    shim.delete("").unwrap();
    assert!(fs::read_dir(shim.bundle.join("rootfs")).unwrap().next().is_none(), "it is still mounted");
    shim.client.task::<_, ()>("Shutdown", &task::ShutdownRequest::default()).unwrap();
}

#[test]
fn info_says_what_the_runtime_can_do() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["-info"], b"", &[]);
    let info = RuntimeInfo::decode(output.stdout.as_slice()).unwrap();
    assert_eq!(info.name, "io.containerd.longshore.v1");
    let features = info.features.unwrap();
    assert_eq!(features.type_url, "types.containerd.io/opencontainers/runtime-spec/1/features/Features");
    let features: serde_json::Value = serde_json::from_slice(&features.value).unwrap();
    assert!(features["mountOptions"].as_array().unwrap().contains(&json!("rro")));
}
