//! Clients that mean ill, or are broken: clear codes for them, bounded memory, and nobody else notices.

#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use longshore_proto::containerd::services as wire;
use longshore_tests::daemon::{Settings, eventually};
use longshore_tests::h2::{self, Connection, call_headers, frame, message};
use longshore_tests::raw::{self, footprint};
use longshore_tests::{Daemon, api};
use prost::Message;
use prost_types::Any;
use tonic::transport::Channel;
use tonic::{Code, Status};

const NAMESPACE: &str = "hostile";
const VERSION: &str = "/containerd.services.version.v1.Version/Version";
const CREATE_CONTAINER: &str = "/containerd.services.containers.v1.Containers/Create";
const LIST_CONTAINERS: &str = "/containerd.services.containers.v1.Containers/List";
const WRITE: &str = "/containerd.services.content.v1.Content/Write";
const SUBSCRIBE: &str = "/containerd.services.events.v1.Events/Subscribe";
const PUBLISH: &str = "/containerd.services.events.v1.Events/Publish";
const PATIENCE: Duration = Duration::from_secs(20);

/// KiB by which the daemon may grow through anything that is done here.
const GROWTH: u64 = 160 * 1024;

fn daemon(config: &str) -> Daemon {
    Daemon::with(Settings { config: config.to_owned(), ..Settings::default() }).unwrap()
}

async fn call(channel: &Channel, path: &str, request: &impl Message) -> Result<(), Status> {
    raw::call(channel, path, NAMESPACE, request.encode_to_vec(), PATIENCE).await.map(drop)
}

#[track_caller]
fn refused(outcome: Result<(), Status>, code: Code, text: &str) {
    let status = outcome.expect_err("it is refused");
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(text), "{status}");
}

/// Somebody else is answered at once.
async fn answers(daemon: &Daemon) {
    let began = Instant::now();
    let channel = raw::channel(&daemon.socket()).await.unwrap();
    raw::call(&channel, VERSION, "", Vec::new(), PATIENCE).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "another client waited {:?}", began.elapsed());
}

fn container(id: &str) -> wire::containers::v1::Container {
    wire::containers::v1::Container {
        id: id.into(),
        runtime: Some(wire::containers::v1::container::Runtime {
            name: "io.containerd.longshore.v1".into(),
            options: None,
        }),
        spec: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
            value: b"{}".to_vec(),
        }),
        ..Default::default()
    }
}

fn creation(container: wire::containers::v1::Container) -> wire::containers::v1::CreateContainerRequest {
    wire::containers::v1::CreateContainerRequest { container: Some(container) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_or_makes_no_sense_is_refused_with_its_bound() {
    let daemon = daemon("");
    let channel = raw::channel(&daemon.socket()).await.unwrap();
    let before = footprint(daemon.pid().unwrap());

    let mut large = container("large");
    large.spec.as_mut().unwrap().value = vec![b' '; 17 << 20];
    refused(call(&channel, CREATE_CONTAINER, &creation(large)).await, Code::ResourceExhausted, "16777216");
    let mut labelled = container("labelled");
    labelled.labels = [("key".to_owned(), "v".repeat(4094))].into();
    refused(call(&channel, CREATE_CONTAINER, &creation(labelled)).await, Code::InvalidArgument, "4096");
    let mut many = container("many");
    many.labels = (0..5000).map(|number| (format!("k{number}"), "v".to_owned())).collect();
    refused(call(&channel, CREATE_CONTAINER, &creation(many)).await, Code::ResourceExhausted, "1024");
    for id in ["", "../x", "a/b", "a b", "a\0b", &"x".repeat(77), "-", "ä"] {
        let outcome = call(&channel, CREATE_CONTAINER, &creation(container(id))).await;
        refused(outcome, Code::InvalidArgument, "");
    }
    let list = |filters: &[String]| wire::containers::v1::ListContainersRequest { filters: filters.to_vec() };
    let deep = format!("id~=|{}a{}|", "(".repeat(4000), ")".repeat(4000));
    for (filters, code) in [
        (vec!["x".repeat(17 << 10)], Code::ResourceExhausted),
        (vec!["id==a".to_owned(); 65], Code::ResourceExhausted),
        (vec!["id~=|(((a{1000}){1000}){1000})|".to_owned()], Code::InvalidArgument),
        (vec![deep], Code::InvalidArgument),
        (vec!["id=".to_owned()], Code::InvalidArgument),
        (vec!["labels.\"a".to_owned()], Code::InvalidArgument),
    ] {
        refused(call(&channel, LIST_CONTAINERS, &list(&filters)).await, code, "");
    }
    let grown = footprint(daemon.pid().unwrap()).resident.saturating_sub(before.resident);
    assert!(grown < GROWTH, "grown by {grown} KiB");
    answers(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_types_and_deep_nesting_are_no_surprise() {
    let daemon = daemon("");
    let channel = raw::channel(&daemon.socket()).await.unwrap();
    let create_task = "/containerd.services.tasks.v1.Tasks/Create";
    let any = |kind: &str, value: &[u8]| Some(Any { type_url: kind.into(), value: value.to_vec() });
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (number, spec) in [
        any("containerd.events.TaskExit", b"\x0a\x01x"),
        any("", b"{}"),
        any("types.containerd.io/opencontainers/runtime-spec/1/Spec", b"not JSON"),
        any("types.containerd.io/opencontainers/runtime-spec/1/Spec", nested.as_bytes()),
        any("types.containerd.io/opencontainers/runtime-spec/1/Spec", b"[1, 2]"),
        any("types.containerd.io/opencontainers/runtime-spec/1/Spec", b"\xff\xfe"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("wrong-{number}");
        let mut container = container(&id);
        container.spec = spec;
        // What is in a payload is looked at when it is used.
        if call(&channel, CREATE_CONTAINER, &creation(container)).await.is_ok() {
            let request = wire::tasks::v1::CreateTaskRequest { container_id: id, ..Default::default() };
            let status = call(&channel, create_task, &request).await.unwrap_err();
            // What the shim finds wrong in a specification has no code of its own, with containerd's either.
            assert!(matches!(status.code(), Code::InvalidArgument | Code::Unknown), "{status}");
            assert!(!status.message().is_empty());
        }
    }
    call(&channel, CREATE_CONTAINER, &creation(container("options"))).await.unwrap();
    for options in
        [any("containerd.runc.v1.Options", b"\xff\xff\xff"), any("containerd.events.TaskExit", b"")]
    {
        let request = wire::tasks::v1::CreateTaskRequest {
            container_id: "options".into(),
            options,
            ..Default::default()
        };
        let status = call(&channel, create_task, &request).await.unwrap_err();
        assert!(matches!(status.code(), Code::InvalidArgument | Code::Unknown), "{status}");
    }
    // Groups of an unknown field, one in the other: `0x0b` begins one, `0x0c` ends one.
    let groups = [vec![0x0b; 1 << 20], vec![0x0c; 1 << 20]].concat();
    let outcome = raw::call(&channel, LIST_CONTAINERS, NAMESPACE, groups, PATIENCE).await;
    assert!(outcome.is_err());
    answers(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_request_keeps_nobody_out_and_is_told_so() {
    let daemon = daemon("");
    let before = footprint(daemon.pid().unwrap());
    let mut connections = Vec::new();
    for _ in 0..4 {
        let mut connection = Connection::open(&daemon.socket()).unwrap();
        let headers = call_headers(VERSION, "");
        let mut out = Vec::new();
        for number in 0..1000 {
            let stream = connection.number();
            out.extend(frame(h2::HEADERS, h2::END_HEADERS, stream, &headers));
            // Some announce a message, and send a part of it.
            if number % 2 == 0 {
                out.extend(frame(h2::DATA, 0, stream, &[0, 0, 0, 16, 0, 1, 2, 3]));
            }
        }
        connection.write(&out).unwrap();
        connections.push(connection);
    }
    for _ in 0..20 {
        answers(&daemon).await;
    }
    let grown = footprint(daemon.pid().unwrap()).resident.saturating_sub(before.resident);
    assert!(grown < GROWTH, "grown by {grown} KiB");
    // Each is answered when its time is over.
    let told = tokio::task::spawn_blocking(move || {
        let mut connection = connections.pop().unwrap();
        let mut ended = 0;
        while ended < 1000 {
            let frame = connection.read().unwrap();
            ended += u32::from(frame.ends() && frame.kind == h2::HEADERS);
        }
        ended
    });
    assert_eq!(tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap(), 1000);
    answers(&daemon).await;
}

fn publication(number: usize) -> Vec<u8> {
    let event = Any { type_url: "hostile.Event".into(), value: vec![b'x'; 2000] };
    let topic = format!("/hostile/event-{number}");
    message(&wire::events::v1::PublishRequest { topic, event: Some(event) }.encode_to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_of_events_is_cut_and_others_are_told_everything() {
    const EVENTS: usize = 6000;
    let daemon = daemon("");
    let before = footprint(daemon.pid().unwrap());
    let subscribe = message(&wire::events::v1::SubscribeRequest { filters: vec![] }.encode_to_vec());
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut connection = Connection::with_window(&daemon.socket(), 1000).unwrap();
        let mut out = Vec::new();
        connection.call(&mut out, &call_headers(SUBSCRIBE, NAMESPACE), &subscribe);
        connection.write(&out).unwrap();
        slow.push(connection);
    }
    let channel = raw::channel(&daemon.socket()).await.unwrap();
    let mut quick = wire::events::v1::events_client::EventsClient::new(channel)
        .subscribe(wire::events::v1::SubscribeRequest { filters: vec!["topic~=^/hostile/".into()] })
        .await
        .unwrap()
        .into_inner();
    let publisher = tokio::task::spawn_blocking({
        let socket = daemon.socket();
        move || publish_all(&socket, EVENTS)
    });
    for number in 0..EVENTS {
        let event = tokio::time::timeout(PATIENCE, quick.message()).await.unwrap().unwrap().unwrap();
        assert_eq!(event.topic, format!("/hostile/event-{number}"));
    }
    publisher.await.unwrap();
    let grown = footprint(daemon.pid().unwrap()).resident.saturating_sub(before.resident);
    assert!(grown < GROWTH, "grown by {grown} KiB");
    assert!(daemon.log_text().contains("ended an event subscription: 4096 events wait for it"));
    drop(slow);
    answers(&daemon).await;
}

/// Publishes one after the other, so that whoever reads at all keeps up.
fn publish_all(socket: &Path, count: usize) {
    let mut connection = Connection::open(socket).unwrap();
    let headers = call_headers(PUBLISH, NAMESPACE);
    for number in 0..count {
        while connection.window < 64 * 1024 {
            if connection.read().is_err() {
                break;
            }
        }
        let mut out = Vec::new();
        let stream = connection.call(&mut out, &headers, &publication(number));
        connection.write(&out).unwrap();
        loop {
            let frame = connection.read().unwrap();
            if frame.stream == stream && frame.ends() {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_writes_leave_their_references_to_others() {
    let daemon = daemon("[content]\nmax_writers = 200\n");
    let write = |reference: usize, total: i64| wire::content::v1::WriteContentRequest {
        action: wire::content::v1::WriteAction::Write.into(),
        r#ref: format!("abandoned-{reference}"),
        total,
        data: vec![b'x'; 1000],
        ..Default::default()
    };
    let mut abandoned = Vec::new();
    for reference in 0..150 {
        let mut connection = Connection::open(&daemon.socket()).unwrap();
        let stream = connection.number();
        let mut out = frame(h2::HEADERS, h2::END_HEADERS, stream, &call_headers(WRITE, NAMESPACE));
        out.extend(frame(h2::DATA, 0, stream, &message(&write(reference, 5000).encode_to_vec())));
        // The next message never comes to its end.
        out.extend(frame(h2::DATA, 0, stream, &[0, 0, 0, 200, 0, 1]));
        connection.write(&out).unwrap();
        abandoned.push((connection, stream));
    }
    for (connection, stream) in &mut abandoned {
        while connection.read().unwrap().stream != *stream {}
    }
    let channel = raw::channel(&daemon.socket()).await.unwrap();
    refused(call(&channel, WRITE, &write(7, 5000)).await, Code::Unavailable, "locked");
    call(&channel, WRITE, &write(1000, 0)).await.unwrap();
    // Half of them reset their stream, half go away.
    for (number, (connection, stream)) in abandoned.iter_mut().enumerate() {
        if number % 2 == 0 {
            connection.write(&frame(h2::RST_STREAM, 0, *stream, &8u32.to_be_bytes())).unwrap();
        } else {
            connection.socket().shutdown(std::net::Shutdown::Both).unwrap();
        }
    }
    for reference in 0..150 {
        let until = Instant::now() + PATIENCE;
        while let Err(status) = call(&channel, WRITE, &write(reference, 5000)).await {
            assert!(status.code() == Code::Unavailable && Instant::now() < until, "{status}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_waits_cost_nothing_and_an_exit_is_still_told() {
    let daemon = daemon("");
    let folder = tempfile::tempdir().unwrap();
    let root = api::rootfs(folder.path()).unwrap();
    let mut client = api::Api::connect(&daemon.socket()).await.unwrap();
    let cgroup = format!("/{}/waited", daemon.cgroup_parent());
    client.container("waited", &api::spec(&root, &cgroup, &["sleep", "1000"])).await.unwrap();
    client.create("waited").await.unwrap();
    client.start("waited").await.unwrap();
    let before = footprint(daemon.pid().unwrap());
    let request = wire::tasks::v1::WaitRequest { container_id: "waited".into(), exec_id: String::new() };
    let (headers, request) = (
        call_headers("/containerd.services.tasks.v1.Tasks/Wait", api::NAMESPACE),
        message(&request.encode_to_vec()),
    );
    for round in 0..10 {
        let mut connection = Connection::open(&daemon.socket()).unwrap();
        let mut out = Vec::new();
        let streams: Vec<u32> = (0..500).map(|_| connection.call(&mut out, &headers, &request)).collect();
        connection.write(&out).unwrap();
        if round % 2 == 0 {
            for stream in streams {
                // A pause now and then, so that this is no flood of resets.
                connection.write(&frame(h2::RST_STREAM, 0, stream, &8u32.to_be_bytes())).ok();
            }
        }
        answers(&daemon).await;
    }
    let waiting = tokio::spawn({
        let mut client = client.clone();
        async move { client.wait("waited").await }
    });
    eventually("the daemon has let go of what was abandoned", || {
        let now = footprint(daemon.pid().unwrap());
        now.files <= before.files + 5 && now.resident < before.resident + GROWTH / 4
    });
    client.kill("waited", 9).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), 137);
    client.delete("waited").await.unwrap();
    let request = wire::containers::v1::DeleteContainerRequest { id: "waited".into() };
    client.containers.delete(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_allowed_are_hung_up_on() {
    let daemon = daemon("[grpc]\nmax_connections = 100\n");
    let before = footprint(daemon.pid().unwrap());
    let is_open = |connection: &Connection| {
        let mut socket = connection.socket();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.read(&mut [0; 64]).is_ok_and(|count| count > 0)
    };
    // Those that are too many are hung up on in the midst of their first words, or right after them.
    let held: Vec<Connection> = (0..1000).filter_map(|_| Connection::open(&daemon.socket()).ok()).collect();
    let open = held.iter().filter(|connection| is_open(connection)).count();
    assert!((95..=100).contains(&open), "{open} are open");
    let log = daemon.log_text();
    assert!(log.contains("grpc.max_connections"), "the reason is logged");
    assert!(log.matches("grpc.max_connections").count() < 20, "and not a thousand times");
    drop(held);
    eventually("the places are free again", || {
        Connection::open(&daemon.socket()).is_ok_and(|connection| is_open(&connection))
    });
    eventually("their files are closed", || footprint(daemon.pid().unwrap()).files <= before.files + 5);
    answers(&daemon).await;
}

/// Writes until the daemon has had enough, or there is no more.
fn flood(connection: &mut Connection, parts: impl Iterator<Item = Vec<u8>>) {
    connection.socket().set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    for part in parts {
        if connection.write(&part).is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_resets_and_headers_are_ended() {
    let daemon = daemon("");
    let before = footprint(daemon.pid().unwrap());
    let socket = daemon.socket();
    let floods = tokio::task::spawn_blocking(move || {
        let headers = call_headers(VERSION, "");
        let mut resets = Connection::open(&socket).unwrap();
        let pairs: Vec<Vec<u8>> = (0..200u32)
            .map(|batch| {
                let streams = (0..200u32).map(|number| (batch * 200 + number) * 2 + 1);
                let pair = |stream: u32| {
                    let cancel = frame(h2::RST_STREAM, 0, stream, &8u32.to_be_bytes());
                    [frame(h2::HEADERS, h2::END_HEADERS, stream, &headers), cancel].concat()
                };
                streams.flat_map(pair).collect()
            })
            .collect();
        flood(&mut resets, pairs.into_iter());
        let mut endless = Connection::open(&socket).unwrap();
        endless.write(&frame(h2::HEADERS, 0, 1, &headers)).unwrap();
        let mut more = Vec::new();
        (0..100).for_each(|number| h2::header(&mut more, &format!("x-{number}"), &"v".repeat(100)));
        flood(&mut endless, (0..5000).map(|_| frame(h2::CONTINUATION, 0, 1, &more)));
        let mut wide = Connection::open(&socket).unwrap();
        let mut block = headers.clone();
        (0..150).for_each(|number| h2::header(&mut block, &format!("x-{number}"), &"v".repeat(100)));
        flood(
            &mut wide,
            (0..50u32).map(|number| frame(h2::HEADERS, h2::END_HEADERS, number * 2 + 1, &block)),
        );
        let mut pings = Connection::open(&socket).unwrap();
        flood(&mut pings, (0..20_000).map(|_| frame(h2::PING, 0, 0, &[7; 8])));
        let mut settings = Connection::open(&socket).unwrap();
        flood(&mut settings, (0..20_000).map(|_| frame(h2::SETTINGS, 0, 0, &[])));
        let mut nonsense = Connection::open(&socket).unwrap();
        flood(&mut nonsense, (0..1000).map(|number| vec![number as u8; 1000]));
        [resets, endless, wide, pings, settings, nonsense]
    });
    while !floods.is_finished() {
        answers(&daemon).await;
    }
    let connections = floods.await.unwrap();
    let grown = footprint(daemon.pid().unwrap()).resident.saturating_sub(before.resident);
    assert!(grown < GROWTH, "grown by {grown} KiB");
    drop(connections);
    eventually("the connections are gone", || footprint(daemon.pid().unwrap()).files <= before.files + 5);
    answers(&daemon).await;
}

/// Every method with an answer to one message, by its path.
fn methods() -> Vec<String> {
    let all = prost_types::FileDescriptorSet::decode(longshore_proto::DESCRIPTORS).unwrap();
    let mut methods = Vec::new();
    for file in &all.file {
        for service in &file.service {
            let path = |method: &str| format!("/{}.{}/{method}", file.package(), service.name());
            methods.extend(service.method.iter().map(|method| path(method.name())));
        }
    }
    methods
}

/// Bytes that are a message now and then: fields of small numbers, with contents of every kind, some of them cut off.
fn nonsense(random: &mut impl rand::Rng, depth: u32) -> Vec<u8> {
    use rand::RngExt;
    let mut bytes = Vec::new();
    for _ in 0..random.random_range(0..6) {
        let number = random.random_range(1..12u8) << 3;
        match random.random_range(0..6) {
            0 => bytes.extend([number, random.random_range(0..128)]),
            1 => bytes.extend([number, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            2 => bytes.extend([number | 5, 1, 2, 3, 4]),
            _ => {
                let words: [&[u8]; 9] = [
                    b"a",
                    b"../../etc",
                    b"sha256:00",
                    b"overlayfs",
                    b"default",
                    b"\xff\xfe",
                    b"",
                    b"/tmp/x",
                    b"id==",
                ];
                let text = match random.random_range(0..3) {
                    0 if depth < 4 => nonsense(random, depth + 1),
                    _ => words[random.random_range(0..words.len())].to_vec(),
                };
                bytes.push(number | 2);
                bytes.push(text.len().min(127) as u8);
                bytes.extend(&text[..text.len().min(127)]);
            }
        }
    }
    if random.random_range(0..5) == 0 {
        bytes.truncate(bytes.len() / 2);
    }
    bytes
}

/// The daemon's own end is what no request may bring about; everything else has a code.
#[tokio::test(flavor = "multi_thread")]
async fn random_requests_to_every_method_are_survived() {
    use rand::SeedableRng;
    let rounds =
        std::env::var("LONGSHORE_NONSENSE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let daemon = daemon("");
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let channel = raw::channel(&daemon.socket()).await.unwrap();
    let methods = methods();
    for _ in 0..rounds {
        let mut running = tokio::task::JoinSet::new();
        for path in &methods {
            let (channel, path, message) = (channel.clone(), path.clone(), nonsense(&mut random, 0));
            running.spawn(async move {
                let shown = message.clone();
                let patience = Duration::from_millis(1500);
                let outcome = raw::call(&channel, &path, NAMESPACE, message, patience).await;
                if let Err(status) = outcome
                    && status.code() == Code::Unknown
                {
                    panic!("{path} {shown:?}: {status:?}");
                }
            });
            if running.len() >= 16 {
                running.join_next().await.unwrap().unwrap();
            }
        }
        while let Some(ended) = running.join_next().await {
            ended.unwrap();
        }
        answers(&daemon).await;
    }
    assert!(!daemon.log_text().contains("panicked"), "seed {seed}");
}
