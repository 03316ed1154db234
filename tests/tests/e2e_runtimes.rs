//! Shims of other runtimes at their edges: groups, shims of every form of answer, what goes wrong between a request and its
//! answer, checkpoints, and what shims say of themselves.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use longshore_proto::containerd::runc::v1::Options as RuncOptions;
use longshore_proto::containerd::services::content::v1 as content;
use longshore_proto::containerd::services::events::ttrpc::v1::ForwardRequest;
use longshore_proto::containerd::services::introspection::v1 as introspection;
use longshore_proto::containerd::services::leases::v1 as leases;
use longshore_proto::containerd::services::tasks::v1 as tasks;
use longshore_proto::containerd::types::{Envelope, RuntimeInfo, RuntimeRequest};
use longshore_proto::containerd::v1::types::Status as TaskStatus;
use longshore_proto::ttrpc::{self, Call, Decoder, Response, Target};
use longshore_tests::api::{InNamespace, NAMESPACE};
use longshore_tests::daemon::eventually;
use longshore_tests::host::{Host, Shim, in_time, is_alive, rest, titles_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Endpoint;

/// A program on the host that stands for a shim or a runtime.
fn script(host: &Host, name: &str, text: &str) -> PathBuf {
    let path = host.daemon.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a script");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("its mode");
    path
}

async fn grouped(shim: Shim) {
    let mut host = Host::new(shim, "overlayfs").await;
    for id in ["first", "second"] {
        let mut spec = host.spec(id, &["sleep", "1000"]);
        spec["annotations"] = json!({ "io.containerd.runc.v2.group": "both" });
        host.created_of(id, &spec).await;
        host.api.start(id).await.expect("it starts");
    }
    let shim = host.shim_of("first");
    assert_eq!(host.shim_of("second"), shim, "one shim runs both");
    host.api.kill("first", 9).await.expect("it is killed");
    assert_eq!(in_time("the end", host.api.wait("first")).await.expect("an exit"), 137);
    assert_eq!(host.api.delete("first").await.expect("it is deleted"), 137);
    host.is_gone("first");
    assert_eq!(host.api.get("second").await.expect("it is there").status(), TaskStatus::Running);
    assert!(is_alive(shim), "the other needs the shim");
    host.daemon.kill();
    host.restart().await;
    assert_eq!(host.api.get("second").await.expect("it is found").status(), TaskStatus::Running);
    host.api.kill("second", 9).await.expect("it is killed");
    assert_eq!(in_time("the end", host.api.wait("second")).await.expect("an exit"), 137);
    assert_eq!(host.api.delete("second").await.expect("it is deleted"), 137);
    host.is_gone("second");
    eventually("the shim left with the last", || !is_alive(shim));

    // It dies, and both with it.
    let mut pids = Vec::new();
    for id in ["third", "fourth"] {
        let mut spec = host.spec(id, &["sleep", "1000"]);
        spec["annotations"] = json!({ "io.containerd.runc.v2.group": "both" });
        host.created_of(id, &spec).await;
        pids.push(Pid::from_raw(host.api.start(id).await.expect("it starts").cast_signed()));
    }
    kill(host.shim_of("third"), Signal::SIGKILL).expect("the shim is killed");
    for id in ["third", "fourth"] {
        assert_eq!(in_time("the end", host.api.wait(id)).await.expect("an exit"), 137);
        assert_eq!(host.api.delete(id).await.expect("it is deleted"), 137);
        host.is_gone(id);
    }
    eventually("both went with their shim", || !pids.iter().any(|pid| is_alive(*pid)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_containerd_shim_runc_v2), ignore = "needs containerd-shim-runc-v2")]
async fn a_group_has_one_shim_which_leaves_with_the_last() {
    grouped(Shim::Host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_newer_shim), ignore = "needs a newer shim")]
async fn a_group_has_one_newer_shim_which_leaves_with_the_last() {
    grouped(Shim::Newer).await;
}

/// The processes whose working directory is this folder.
fn working_in(folder: &Path) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let working =
        processes.filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == folder));
    working.filter_map(|entry| Some(Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))).collect()
}

/// Both ends of a creation that takes long, because a hook does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_containerd_shim_runc_v2), ignore = "needs containerd-shim-runc-v2")]
async fn a_creation_whose_caller_or_daemon_goes_away_leaves_nothing() {
    let mut host = Host::new(Shim::Host, "overlayfs").await;
    for end in ["caller", "daemon"] {
        let mut spec = host.spec(end, &["sleep", "1000"]);
        spec["hooks"] = json!({ "prestart": [{ "path": "/bin/sh", "args": ["sh", "-c", "sleep 2"] }] });
        let request = host.request(end, &spec).await;
        let mut api = host.api.clone();
        let creating = tokio::spawn(async move { api.tasks.create(request).await });
        let rootfs = host.bundle(end).join("rootfs").display().to_string();
        eventually("the shim is at work", || {
            fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().contains(&rootfs)
        });
        assert_eq!(host.api.get(end).await.unwrap_err().code(), Code::NotFound, "it is not there yet");
        let shims = working_in(&host.bundle(end));
        assert!(!shims.is_empty(), "its shim works in the bundle");
        if end == "caller" {
            creating.abort();
        } else {
            host.daemon.kill();
            let _ = creating.await;
            host.restart().await;
        }
        let bundle = host.bundle(end);
        eventually("everything is taken back", || !bundle.exists());
        host.is_gone(end);
        eventually("its shim is gone", || !shims.iter().any(|pid| is_alive(*pid)));
        assert_eq!(host.api.get(end).await.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_that_does_not_start_is_quoted_and_leaves_nothing() {
    let mut host = Host::new(Shim::Own, "overlayfs").await;
    let cases = [
        ("fails", "echo it is broken >&2; exit 3", "it is broken"),
        ("silent", "exit 0", "printed nothing"),
        ("garbled", "echo hello there", "hello there"),
        ("grpc", r#"echo '{"version":3,"address":"unix:///nowhere","protocol":"grpc"}'"#, "\"grpc\""),
        ("newest", r#"echo '{"version":9,"address":"unix:///nowhere","protocol":"ttrpc"}'"#, "version 9"),
        ("absent", "echo unix:///no/such/socket", "connect to its shim"),
        ("lingers", "sleep 2 & echo unix:///no/such/socket", "connect to its shim"),
    ];
    for (id, text, expected) in cases {
        let shim = script(&host, &format!("shim-{id}"), text);
        let spec = host.spec(id, &["true"]);
        let runtime = shim.display().to_string();
        host.api.container_by(id, &spec, &runtime).await.expect("a container");
        let began = Instant::now();
        let error = host.api.create(id).await.unwrap_err();
        assert!(error.message().contains(expected) && error.message().contains(id), "{id}: {error}");
        assert!(began.elapsed() < Duration::from_secs(10), "{id} took {:?}", began.elapsed());
        host.is_gone(id);
        assert_eq!(host.api.get(id).await.unwrap_err().code(), Code::NotFound);
    }
    let spec = host.spec("nobody", &["true"]);
    host.api.container_by("nobody", &spec, "/no/such/shim").await.expect("a container");
    assert_eq!(host.api.create("nobody").await.unwrap_err().code(), Code::NotFound);
}

/// One call on the daemon's second socket.
async fn forward(host: &Host, service: &str, topic: &str, namespace: &str) -> Result<(), ttrpc::Code> {
    let socket = format!("{}.ttrpc", host.daemon.socket().display());
    let mut stream = tokio::net::UnixStream::connect(socket).await.expect("the second socket");
    let envelope = Envelope {
        namespace: namespace.into(),
        topic: topic.into(),
        event: Some(prost_types::Any { type_url: "containerd.events.TaskOOM".into(), value: Vec::new() }),
        ..Envelope::default()
    };
    let mut out = Vec::new();
    let target = Target::new(service, "Forward", Call::Unary);
    ttrpc::encode_request(&mut out, 1, target, &ForwardRequest { envelope: Some(envelope) })
        .expect("a request");
    stream.write_all(&out).await.expect("it is sent");
    let mut decoder = Decoder::new();
    let mut buffer = [0; 4096];
    loop {
        let read = in_time("an answer", stream.read(&mut buffer)).await.expect("it is read");
        assert!(read > 0, "hung up");
        decoder.feed(&buffer[..read]);
        if let Some(frame) = decoder.next_frame().expect("a frame") {
            let answer: Response = frame.decode("Response").expect("a response");
            return answer.into_result().map(drop).map_err(|error| error.code);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_socket_takes_events_and_nothing_else() {
    const EVENTS: &str = "containerd.services.events.ttrpc.v1.Events";
    let mut host = Host::new(Shim::Own, "overlayfs").await;
    let mut events = host.subscribe().await;
    forward(&host, EVENTS, "/tasks/oom", NAMESPACE).await.expect("it is taken");
    assert_eq!(titles_until(&mut events, "/tasks/oom").await, ["/tasks/oom"]);
    assert_eq!(forward(&host, EVENTS, "no topic", NAMESPACE).await, Err(ttrpc::Code::InvalidArgument));
    assert_eq!(
        forward(&host, EVENTS, "/tasks/oom", "no namespace!").await,
        Err(ttrpc::Code::InvalidArgument)
    );
    let other = forward(&host, "containerd.task.v3.Task", "/tasks/oom", NAMESPACE).await;
    assert_eq!(other, Err(ttrpc::Code::Unimplemented));
    assert_eq!(rest(&mut events).await, Vec::<String>::new());
}

async fn info(host: &Host, runtime: &str) -> RuntimeInfo {
    let url = format!("unix://{}", host.daemon.socket().display());
    let channel = Endpoint::from_shared(url).expect("a URL").connect().await.expect("the daemon answers");
    let mut client = introspection::introspection_client::IntrospectionClient::new(channel);
    let request = RuntimeRequest { runtime_path: runtime.into(), ..RuntimeRequest::default() };
    let request = introspection::PluginInfoRequest {
        r#type: "io.containerd.runtime.v2".into(),
        id: "task".into(),
        options: Some(prost_types::Any {
            type_url: "containerd.types.RuntimeRequest".into(),
            value: request.encode_to_vec(),
        }),
    };
    let answer = client.plugin_info(request).await.expect("an answer").into_inner();
    RuntimeInfo::decode(answer.extra.expect("the runtime").value.as_slice()).expect("its information")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shims_say_what_they_are() {
    let host = Host::new(Shim::Own, "overlayfs").await;
    let own = info(&host, Shim::Own.runtime()).await;
    assert!(own.name.contains("longshore"), "{own:?}");
    let features = String::from_utf8(own.features.expect("features").value).expect("JSON");
    assert!(features.contains("rro"), "{features}");
    if cfg!(have_newer_shim) {
        let newer = info(&host, Shim::Newer.runtime()).await;
        assert_eq!(newer.name, "io.containerd.runc.v2");
        assert!(newer.features.is_some() || newer.version.is_some(), "{newer:?}");
    }
}

/// runc, except that it needs no criu: a checkpoint is a file, and to restore one is to say what was in it.
const STANDS_IN_FOR_CRIU: &str = r#"
case " $* " in
*" checkpoint "*|*" restore "*) ;;
*) exec runc "$@" ;;
esac
verb=; folder=
while [ $# -gt 0 ]; do
    case "$1" in
    checkpoint|restore) verb=$1 ;;
    --image-path) folder=$2; shift ;;
    esac
    shift
done
if [ "$verb" = checkpoint ]; then
    mkdir -p "$folder" && echo frozen > "$folder/pages-1.img"
else
    cp "$folder/pages-1.img" "$0.restored"
    exit 1
fi
"#;

async fn checkpointed(shim: Shim) {
    let mut host = Host::new(shim, "overlayfs").await;
    let runc = script(&host, "runc-without-criu", STANDS_IN_FOR_CRIU);
    let root = host.daemon.path().join("runc").display().to_string();
    let options = RuncOptions { binary_name: runc.display().to_string(), root, ..RuncOptions::default() };
    let options = Some(prost_types::Any {
        type_url: "containerd.runc.v1.Options".into(),
        value: options.encode_to_vec(),
    });
    let spec = host.spec("frozen", &["sleep", "1000"]);
    let mut request = host.request("frozen", &spec).await;
    request.options = options.clone();
    host.api.tasks.create(request).await.expect("a task");
    host.api.start("frozen").await.expect("it starts");
    let channel = {
        let url = format!("unix://{}", host.daemon.socket().display());
        Endpoint::from_shared(url).expect("a URL").connect().await.expect("the daemon answers")
    };
    // Without it the collector takes what nothing refers to.
    let mut leases = leases::leases_client::LeasesClient::with_interceptor(channel.clone(), InNamespace);
    let lease = leases::CreateRequest { id: "frozen".into(), ..Default::default() };
    leases.create(lease).await.expect("a lease");
    let checkpoint = tasks::CheckpointTaskRequest { container_id: "frozen".into(), ..Default::default() };
    let mut checkpoint = tonic::Request::new(checkpoint);
    checkpoint.metadata_mut().insert("containerd-lease", AsciiMetadataValue::from_static("frozen"));
    let made = host.api.tasks.checkpoint(checkpoint).await.expect("a checkpoint").into_inner().descriptors;
    let types: Vec<&str> = made.iter().map(|descriptor| descriptor.media_type.as_str()).collect();
    assert_eq!(
        types,
        [
            "application/vnd.containerd.container.criu.checkpoint.criu.tar",
            "application/vnd.containerd.container.checkpoint.config.v1+proto"
        ]
    );
    let mut store = content::content_client::ContentClient::with_interceptor(channel, InNamespace);
    for descriptor in &made {
        let info = content::InfoRequest { digest: descriptor.digest.clone() };
        let info = store.info(info).await.expect("it is in the store").into_inner().info.expect("it");
        assert_eq!(info.size, descriptor.size);
    }
    let left = host.daemon.root().join("checkpoints/making");
    assert_eq!(fs::read_dir(left).map_or(0, |entries| entries.count()), 0, "the images are left");
    host.api.kill("frozen", 9).await.expect("it is killed");
    assert_eq!(in_time("the end", host.api.wait("frozen")).await.expect("an exit"), 137);
    host.api.delete("frozen").await.expect("it is deleted");

    let spec = host.spec("thawed", &["sleep", "1000"]);
    let mut request = host.request("thawed", &spec).await;
    request.options = options;
    request.checkpoint = made.into_iter().next();
    if host.api.tasks.create(request).await.is_ok() {
        host.api.start("thawed").await.expect_err("nothing is really restored");
    }
    let restored = fs::read_to_string(runc.with_extension("restored")).expect("it was to be restored");
    assert_eq!(restored, "frozen\n");
    let _ = host.api.delete("thawed").await;
    host.is_gone("thawed");
    assert!(!host.daemon.root().join("checkpoints/restored").join(NAMESPACE).join("thawed").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(all(have_containerd_shim_runc_v2, have_runc)),
    ignore = "needs containerd-shim-runc-v2 and runc"
)]
async fn a_checkpoint_goes_into_the_store_and_back() {
    checkpointed(Shim::Host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_cannot_be_made_says_why() {
    let mut host = Host::new(Shim::Own, "overlayfs").await;
    host.started("one", &["sleep", "1000"]).await;
    let checkpoint = tasks::CheckpointTaskRequest { container_id: "one".into(), ..Default::default() };
    let error = host.api.tasks.checkpoint(checkpoint).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented, "{error}");
    assert!(error.message().contains("criu"), "{error}");
    assert_eq!(host.api.get("one").await.expect("it runs on").status(), TaskStatus::Running);
    host.api.kill("one", 9).await.expect("it is killed");
    in_time("the end", host.api.wait("one")).await.expect("an exit");
    host.api.delete("one").await.expect("it is deleted");
}

/// Our own shim drives another runtime; when it is killed, the runtime hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_runc), ignore = "needs runc")]
async fn a_killed_shim_of_ours_that_drove_runc_leaves_nothing() {
    let mut host = Host::new(Shim::Own, "overlayfs").await;
    let root = host.daemon.path().join("runc");
    let options = RuncOptions {
        binary_name: "runc".into(),
        root: root.display().to_string(),
        ..RuncOptions::default()
    };
    let spec = host.spec("driven", &["sleep", "1000"]);
    let mut request = host.request("driven", &spec).await;
    request.options = Some(prost_types::Any {
        type_url: "containerd.runc.v1.Options".into(),
        value: options.encode_to_vec(),
    });
    host.api.tasks.create(request).await.expect("a task");
    host.api.start("driven").await.expect("it starts");
    assert!(root.join(NAMESPACE).join("driven").exists(), "runc knows the container");
    kill(host.shim_of("driven"), Signal::SIGKILL).expect("the shim is killed");
    assert_eq!(in_time("the end", host.api.wait("driven")).await.expect("an exit"), 137);
    assert_eq!(host.api.delete("driven").await.expect("it is deleted"), 137);
    host.is_gone("driven");
    assert!(!root.join(NAMESPACE).join("driven").exists(), "runc forgot the container");
}
