//! The daemon as a process: flags, configuration, folders, socket, peers, limits, stopping.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use common::{Clients, Daemon, code, command};
use longshore_proto::containerd::services::events::v1::SubscribeRequest;
use longshore_proto::containerd::services::introspection::v1::{PluginInfoRequest, PluginsRequest};
use longshore_proto::containerd::services::namespaces::v1::ListNamespacesRequest;
use tonic::Code;

/// Runs a daemon that is expected to refuse, and what it says.
fn refusal(mut command: Command) -> String {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(!child.wait().unwrap().success(), "{text}");
    text
}

#[test]
fn configuration_errors_name_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let text = refusal(command(folder.path(), "root = \"/x\"\n\n[grpc]\ngruop = 5\n"));
    assert!(text.contains("config.toml") && text.contains("line 4") && text.contains("gruop"), "{text}");
    let mut missing = Command::new(env!("CARGO_BIN_EXE_longshored"));
    missing.args(["--config", "/nonexistent/c.toml"]);
    let text = refusal(missing);
    assert!(text.contains("/nonexistent/c.toml"), "{text}");
    assert!(refusal(command(folder.path(), "root = \"relative\"")).contains("absolute"));
    let mut level = command(folder.path(), "");
    level.args(["--log-level", "loud=x=y"]);
    assert!(refusal(level).contains("log level"));
    let mut group = command(folder.path(), "[grpc]\ngroup = \"no-such-group\"");
    group.args(["--root".as_ref(), folder.path().join("r").as_os_str()]);
    group.args(["--state".as_ref(), folder.path().join("s").as_os_str()]);
    assert!(refusal(group).contains("no such group"));
}

#[test]
fn help_and_version_need_nothing() {
    for flag in ["--help", "--version"] {
        let output = Command::new(env!("CARGO_BIN_EXE_longshored")).arg(flag).output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("longshore"));
    }
}

/// Runs a daemon that prints something and ends.
fn printed(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_longshored")).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_version_has_the_words_of_containerds() {
    for flag in ["-v", "--version"] {
        let text = printed(&[flag]);
        let words: Vec<_> = text.split(' ').collect();
        assert_eq!((words.len(), words[0], words[1]), (4, "longshored", "longshore"), "{text}");
        assert!(words[2].starts_with('v'), "{text}");
    }
}

#[test]
fn the_configuration_is_shown_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    let file = file.to_str().unwrap();
    let defaults = printed(&["config", "default"]);
    assert!(defaults.contains("root = \"/var/lib/longshore\"") && defaults.contains("[grpc]"), "{defaults}");
    std::fs::write(file, &defaults).unwrap();
    assert_eq!(printed(&["-c", file, "config", "migrate"]), defaults);
    std::fs::write(file, "root = \"/r\"\n[gc]\ndelay_ms = 7\n").unwrap();
    let dumped =
        printed(&["config", "dump", "-c", file, "--state", "/s", "-a", "unix:///x.sock", "-l", "panic"]);
    for line in
        ["root = \"/r\"", "state = \"/s\"", "address = \"/x.sock\"", "delay_ms = 7", "log_level = \"error\""]
    {
        assert!(dumped.contains(line), "{line} in {dumped}");
    }
    let mut missing = Command::new(env!("CARGO_BIN_EXE_longshored"));
    missing.args(["-c", "/nonexistent.toml", "config", "dump"]);
    assert!(refusal(missing).contains("/nonexistent.toml"));
}

#[tokio::test]
async fn folders_on_the_command_line_are_relative_to_where_it_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path(), "");
    command.current_dir(folder.path()).args(["--root", "r", "--state", "s", "--address", "a.sock"]);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let until = std::time::Instant::now() + common::PATIENCE;
    while !folder.path().join("a.sock").exists() {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(folder.path().join("r/content").exists() && folder.path().join("s").exists());
}

#[tokio::test]
async fn two_daemons_share_neither_folders_nor_socket() {
    let daemon = Daemon::start();
    let text = refusal(daemon.command());
    assert!(text.contains("another longshored") && text.contains(&daemon.pid().to_string()), "{text}");
    let mut other_state = daemon.command();
    other_state.args(["--state".as_ref(), daemon.folder.path().join("state2").as_os_str()]);
    // The last of two equal flags is an error of clap's, so the flags are given anew.
    drop(other_state);
    let mut same_root = command(daemon.folder.path(), "");
    same_root.args(["--root".as_ref(), daemon.root().as_os_str()]);
    same_root.args(["--state".as_ref(), daemon.folder.path().join("state2").as_os_str()]);
    assert!(refusal(same_root).contains("--root"));
    let mut same_socket = command(daemon.folder.path(), "");
    same_socket.args(["--root".as_ref(), daemon.folder.path().join("root3").as_os_str()]);
    same_socket.args(["--state".as_ref(), daemon.folder.path().join("state3").as_os_str()]);
    same_socket.args(["--address".as_ref(), daemon.socket().as_os_str()]);
    assert!(refusal(same_socket).contains("another daemon listens"));
    daemon.clients().await.namespaces().list(ListNamespacesRequest::default()).await.unwrap();
}

#[tokio::test]
async fn folders_and_socket_are_private_and_a_stale_socket_is_replaced() {
    let mut daemon = Daemon::start();
    let mode = |path: &std::path::Path| std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&daemon.root()), 0o700);
    assert_eq!(mode(&daemon.folder.path().join("state")), 0o700);
    assert_eq!(mode(&daemon.socket()), 0o600);
    daemon.kill();
    assert!(daemon.socket().exists());
    daemon.restart();
    daemon.clients().await.namespaces().list(ListNamespacesRequest::default()).await.unwrap();
    assert!(daemon.stop());
    assert!(!daemon.socket().exists());
    std::fs::write(daemon.socket(), "not a socket").unwrap();
    assert!(refusal(daemon.command()).contains("no socket"));
}

#[tokio::test]
async fn the_uuid_stays_and_everything_says_who_it_is() {
    let mut daemon = Daemon::start();
    let uuid =
        |clients: Clients| async move { clients.introspection().server(()).await.unwrap().into_inner().uuid };
    let before = uuid(daemon.clients().await).await;
    assert_eq!(before.len(), 36);
    assert!(daemon.stop());
    daemon.restart();
    let clients = daemon.clients().await.in_namespace("");
    assert_eq!(uuid(clients.clone()).await, before);
    assert!(clients.version().version(()).await.unwrap().into_inner().version.starts_with('v'));
    let filters = vec!["type==io.containerd.snapshotter.v1, id==native".to_owned()];
    let plugins =
        clients.introspection().plugins(PluginsRequest { filters }).await.unwrap().into_inner().plugins;
    assert_eq!(plugins.len(), 1);
    assert!(!plugins[0].platforms.is_empty() && plugins[0].init_err.is_none());
    let runtime =
        PluginInfoRequest { r#type: "io.containerd.runtime.v2".into(), id: "task".into(), options: None };
    assert!(clients.introspection().plugin_info(runtime).await.unwrap().into_inner().extra.is_some());
    let unknown = PluginInfoRequest { r#type: "x".into(), id: "y".into(), options: None };
    assert_eq!(code(clients.introspection().plugin_info(unknown).await), Code::NotFound);
}

#[tokio::test]
async fn plugins_are_found_under_the_names_that_clients_look_for() {
    let daemon = Daemon::with_config("[content]\nsharing = \"isolated\"");
    let clients = daemon.clients().await.in_namespace("");
    let find = async |filters: &[&str]| {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        clients.introspection().plugins(PluginsRequest { filters }).await.unwrap().into_inner().plugins
    };
    let all = find(&[]).await;
    for (kind, id) in [
        ("io.containerd.runtime.v2", "task"),
        ("io.containerd.sandbox.controller.v1", "shim"),
        ("io.containerd.grpc.v1", "sandboxes"),
        ("io.containerd.service.v1", "tasks-service"),
        ("io.containerd.monitor.container.v1", "restart"),
    ] {
        let found = all.iter().filter(|plugin| plugin.r#type == kind && plugin.id == id).count();
        assert_eq!(found, 1, "{kind} {id}");
    }
    let exported = async |filter: &str, name: &str| {
        let found = find(&[filter]).await;
        assert_eq!(found.len(), 1, "{filter}");
        found[0].exports.get(name).cloned().unwrap_or_default()
    };
    let root = daemon.root();
    let below = |name: &str| root.join(name).display().to_string();
    assert_eq!(exported("id==opt", "path").await, below("opt"));
    assert_eq!(exported("type==io.containerd.content.v1", "root").await, below("content"));
    assert_eq!(exported("type==io.containerd.metadata.v1", "policy").await, "isolated");
    assert_eq!(exported("id==task", "log-uri-schemes").await, "fifo,binary,file");
    let native = exported("type==io.containerd.snapshotter.v1,id==native", "root").await;
    assert_eq!(native, below("snapshotter/native"));
    assert!(find(&["type==io.containerd.snapshotter.v1,id==none"]).await.is_empty());
    let refused = PluginsRequest { filters: vec!["id==".into()] };
    assert_eq!(code(clients.introspection().plugins(refused).await), Code::InvalidArgument);
}

#[tokio::test]
async fn health_and_reflection_answer() {
    let daemon = Daemon::start();
    let channel = daemon.clients().await.channel;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let answer = health.check(tonic_health::pb::HealthCheckRequest { service: String::new() }).await.unwrap();
    assert_eq!(answer.into_inner().status, 1);
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    };
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(listed)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services")
    };
    assert!(listed.service.iter().any(|service| service.name == "containerd.services.content.v1.Content"));
}

#[tokio::test]
async fn strangers_are_refused_and_logged() {
    let group = 54321;
    let daemon = Daemon::with_config(&format!("[grpc]\ngroup = \"{group}\""));
    let socket = daemon.socket();
    let metadata = std::fs::symlink_metadata(&socket).unwrap();
    assert_eq!((metadata.gid(), metadata.permissions().mode() & 0o777), (group, 0o660));
    // The socket's mode is opened, so that only the daemon's own look at the peer is left.
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o666)).unwrap();
    std::fs::set_permissions(daemon.folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let stranger = as_somebody_else(&socket, 65534);
    assert!(stranger.0.is_err(), "a stranger is answered");
    assert_eq!(stranger.1, Some(0), "a stranger is not hung up on");
    let member = as_somebody_else(&socket, group);
    assert_eq!(member, (Ok(()), Some(1)));
    assert!(daemon.log().contains("refused a connection"), "{}", daemon.log());
}

/// What another user in this group is answered, and how many bytes are said to one who only listens.
fn as_somebody_else(socket: &std::path::Path, gid: u32) -> (Result<(), Code>, Option<usize>) {
    use rustix::process::{Gid, Uid};
    let socket = socket.to_owned();
    let other = std::thread::spawn(move || {
        // These change who this thread is to the kernel, and no other.
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_res_gid(None, Gid::from_raw(gid), None).unwrap();
        rustix::thread::set_thread_res_uid(None, Uid::from_raw(65534), None).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(async {
            let clients = Clients {
                // With the first call: who is hung up on may or may not have connected before.
                channel: common::endpoint(&socket).connect_lazy(),
                namespace: String::new(),
                lease: String::new(),
            };
            clients.version().version(()).await.map(drop).map_err(|status| status.code())
        });
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        // A server of HTTP/2 says something first; one that hangs up says nothing.
        (answer, stream.read(&mut [0]).ok())
    });
    other.join().unwrap()
}

#[tokio::test]
async fn long_lived_calls_keep_no_short_ones_out_and_have_their_own_bound() {
    let daemon = Daemon::with_config("[grpc]\nmax_requests = 2\nmax_streams = 3");
    let clients = daemon.clients().await;
    let mut subscriptions = Vec::new();
    for _ in 0..3 {
        subscriptions.push(clients.events().subscribe(SubscribeRequest::default()).await.unwrap());
    }
    let refused = clients.events().subscribe(SubscribeRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("grpc.max_streams = 3"), "{}", refused.message());
    for _ in 0..10 {
        clients.version().version(()).await.unwrap();
    }
    drop(subscriptions);
    let until = std::time::Instant::now() + common::PATIENCE;
    while clients.events().subscribe(SubscribeRequest::default()).await.is_err() {
        assert!(std::time::Instant::now() < until, "the streams that ended still count");
    }
}

#[tokio::test]
async fn the_socket_in_the_state_folder_is_reachable_for_the_group() {
    let mut daemon = Daemon::with_config("[grpc]\ngroup = \"54321\"");
    assert!(daemon.stop());
    let state = daemon.folder.path().join("state");
    let mut command = command(daemon.folder.path(), "[grpc]\ngroup = \"54321\"");
    command.args(["--root".as_ref(), daemon.root().as_os_str(), "--state".as_ref(), state.as_os_str()]);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let until = std::time::Instant::now() + common::PATIENCE;
    while !state.join("longshore.sock").exists() {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let metadata = std::fs::metadata(&state).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o777, metadata.gid()), (0o710, 54321));
}

#[tokio::test]
async fn stopping_is_bounded_though_clients_keep_streams_open() {
    let mut daemon = Daemon::start();
    let clients = daemon.clients().await;
    let _subscription = clients.events().subscribe(SubscribeRequest::default()).await.unwrap();
    let started = std::time::Instant::now();
    assert!(daemon.stop());
    assert!(started.elapsed() < std::time::Duration::from_secs(10));
}
