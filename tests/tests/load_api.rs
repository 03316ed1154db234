//! Many records, and many clients: lists in bounded memory, reads that stay quick, and no growth.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use longshore_proto::containerd::services as wire;
use longshore_proto::containerd::types::Descriptor;
use longshore_tests::Daemon;
use longshore_tests::daemon::Settings;
use longshore_tests::h2::{Connection, DATA, call_headers, message};
use longshore_tests::raw::{channel, footprint};
use prost::Message;
use prost_types::Any;
use rand::RngExt;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

const CONTAINERS: usize = 10_000;
const BLOBS: usize = 2_000;
/// On each blob: 100,000 in all.
const LABELS: usize = 50;
/// KiB that a list of everything may take.
const LIST_GROWTH: u64 = 48 * 1024;

const CLIENTS: usize = 64;
/// Seconds that they go on; `LONGSHORE_LOAD_SECONDS` says otherwise.
const SECONDS: u64 = 5;

/// Records are on a tmpfs: the disk is not what is tested.
fn daemon() -> Daemon {
    let config = "log_level = \"warn\"\n".to_owned();
    Daemon::with(Settings { config, tmpfs: Some(4 << 30), ..Settings::default() }).unwrap()
}

fn container(id: String, padding: usize) -> wire::containers::v1::Container {
    wire::containers::v1::Container {
        id,
        labels: [("app".to_owned(), "load".to_owned())].into(),
        image: "docker.io/library/image:1".into(),
        runtime: Some(wire::containers::v1::container::Runtime {
            name: "io.containerd.longshore.v1".into(),
            options: None,
        }),
        spec: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
            value: format!("{{\"padding\":\"{}\"}}", "x".repeat(padding)).into_bytes(),
        }),
        ..Default::default()
    }
}

/// Calls a method with these messages, many at one time; every one has to be answered.
fn pipeline(socket: &Path, path: &str, messages: impl Iterator<Item = Vec<u8>>) {
    const AT_ONCE: usize = 128;
    let mut connection = Connection::open(socket).unwrap();
    let headers = call_headers(path, "load");
    let mut messages = messages.peekable();
    let mut open: HashMap<u32, bool> = HashMap::new();
    while messages.peek().is_some() || !open.is_empty() {
        let mut out = Vec::new();
        while open.len() < AT_ONCE && connection.window > 64 * 1024 {
            let Some(next) = messages.next() else { break };
            open.insert(connection.call(&mut out, &headers, &message(&next)), false);
        }
        connection.write(&out).unwrap();
        loop {
            let frame = connection.read().unwrap();
            if let Some(answered) = open.get_mut(&frame.stream) {
                *answered |= frame.kind == DATA;
                if frame.ends() {
                    assert!(*answered, "{path} failed");
                    open.remove(&frame.stream);
                }
            }
            if !connection.has_frame() {
                break;
            }
        }
    }
}

/// The median time of a Get in microseconds, with one call at a time.
fn get_time(socket: &Path, ids: impl Fn(usize) -> String) -> u128 {
    let mut connection = Connection::open(socket).unwrap();
    let headers = call_headers("/containerd.services.containers.v1.Containers/Get", "load");
    let mut times: Vec<u128> = (0..400)
        .map(|number| {
            let request = wire::containers::v1::GetContainerRequest { id: ids(number) };
            let mut out = Vec::new();
            let stream = connection.call(&mut out, &headers, &message(&request.encode_to_vec()));
            let began = Instant::now();
            connection.write(&out).unwrap();
            let mut answered = false;
            loop {
                let frame = connection.read().unwrap();
                answered |= frame.stream == stream && frame.kind == DATA;
                if frame.stream == stream && frame.ends() {
                    break;
                }
            }
            assert!(answered);
            began.elapsed().as_micros()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn id(number: usize) -> String {
    format!("container-{number:05}")
}

fn create(socket: &Path, numbers: std::ops::Range<usize>) {
    pipeline(
        socket,
        "/containerd.services.containers.v1.Containers/Create",
        numbers.map(|number| {
            let container = Some(container(id(number), 2000));
            wire::containers::v1::CreateContainerRequest { container }.encode_to_vec()
        }),
    );
}

fn write_blobs(socket: &Path) {
    pipeline(
        socket,
        "/containerd.services.content.v1.Content/Write",
        (0..BLOBS).map(|number| {
            let labels = (0..LABELS).map(|label| (format!("label/{label}"), format!("value of {label}")));
            let mut labels: HashMap<_, _> = labels.collect();
            labels.insert("containerd.io/gc.root".into(), "load".into());
            let data = format!("blob {number}").into_bytes();
            wire::content::v1::WriteContentRequest {
                action: wire::content::v1::WriteAction::Commit.into(),
                r#ref: format!("blob-{number}"),
                total: data.len() as i64,
                data,
                labels,
                ..Default::default()
            }
            .encode_to_vec()
        }),
    );
}

type Api = InterceptedService<Channel, InLoad>;

#[derive(Clone)]
struct InLoad(Option<String>);

impl tonic::service::Interceptor for InLoad {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("containerd-namespace", "load".parse().unwrap());
        if let Some(lease) = &self.0 {
            request.metadata_mut().insert("containerd-lease", lease.parse().unwrap());
        }
        Ok(request)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_containers_are_listed_in_bounded_memory_and_read_as_quickly_as_ten() {
    let daemon = daemon();
    let (socket, pid) = (daemon.socket(), daemon.pid().unwrap());
    let few = tokio::task::spawn_blocking({
        let socket = socket.clone();
        move || {
            create(&socket, 0..10);
            let few = get_time(&socket, |number| id(number % 10));
            create(&socket, 10..CONTAINERS);
            write_blobs(&socket);
            few
        }
    });
    let few = few.await.unwrap();
    let api: Api = InterceptedService::new(channel(&socket).await.unwrap(), InLoad(None));
    let mut containers = wire::containers::v1::containers_client::ContainersClient::new(api.clone());
    let before = footprint(pid);
    for round in 0..3 {
        let request = wire::containers::v1::ListContainersRequest::default();
        let mut all = containers.list_stream(request).await.unwrap().into_inner();
        let mut count = 0;
        while let Some(message) = all.message().await.unwrap() {
            assert_eq!(message.container.unwrap().id, id(count));
            count += 1;
            if round == 0 && count == CONTAINERS / 2 {
                // A reader that pauses.
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        assert_eq!(count, CONTAINERS);
        let request = wire::containers::v1::ListContainersRequest { filters: vec!["id~=7777".into()] };
        assert_eq!(containers.list(request).await.unwrap().into_inner().containers.len(), 1);
        let mut content = wire::content::v1::content_client::ContentClient::new(api.clone());
        let request = wire::content::v1::ListContentRequest {
            filters: vec!["labels.\"label/7\"==\"value of 7\"".into()],
        };
        let mut all = content.list(request).await.unwrap().into_inner();
        let (mut blobs, mut labels) = (0, 0);
        while let Some(answer) = all.message().await.unwrap() {
            blobs += answer.info.len();
            labels += answer.info.iter().map(|info| info.labels.len() - 1).sum::<usize>();
        }
        assert_eq!((blobs, labels), (BLOBS, BLOBS * LABELS));
    }
    // What does not fit into a message is refused by name, and before it was all read into memory.
    let refused = containers.list(wire::containers::v1::ListContainersRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("ListStream"), "{refused}");
    let grown = footprint(pid).resident.saturating_sub(before.resident);
    let many =
        tokio::task::spawn_blocking(move || get_time(&socket, |number| id(number * 24))).await.unwrap();
    println!(
        "lists: +{grown} KiB on {} KiB; a Get among 10: {few} us, among {CONTAINERS}: {many} us",
        before.resident
    );
    assert!(grown < LIST_GROWTH, "grown by {grown} KiB");
    assert!(many < few * 4 + 200, "a Get takes {many} us among {CONTAINERS}, {few} us among 10");
}

/// A client that does a bit of everything with things of its own.
struct Client {
    api: Api,
    number: usize,
}

impl Client {
    async fn new(socket: &Path, number: usize) -> Client {
        let channel = channel(socket).await.unwrap();
        let lease = format!("lease-{number}");
        let api = InterceptedService::new(channel.clone(), InLoad(None));
        let request = wire::leases::v1::CreateRequest { id: lease.clone(), ..Default::default() };
        wire::leases::v1::leases_client::LeasesClient::new(api).create(request).await.unwrap();
        Client { api: InterceptedService::new(channel, InLoad(Some(lease))), number }
    }

    async fn step(&self, step: u64) -> Result<(), Status> {
        let name = format!("{}-{step}", self.number);
        let choice = rand::rng().random_range(0..6);
        match choice {
            0 => self.container(name).await,
            1 => self.image(name).await,
            2 => self.content(name).await,
            3 => self.snapshot(name).await,
            4 => self.events(name).await,
            _ => self.lists().await,
        }
    }

    async fn container(&self, id: String) -> Result<(), Status> {
        use wire::containers::v1 as of;
        let mut client = of::containers_client::ContainersClient::new(self.api.clone());
        let container = container(id.clone(), 1000);
        client.create(of::CreateContainerRequest { container: Some(container.clone()) }).await?;
        let mut changed = container;
        changed.labels.insert("step".into(), "2".into());
        let mask = prost_types::FieldMask { paths: vec!["labels.step".into()] };
        let request = of::UpdateContainerRequest { container: Some(changed), update_mask: Some(mask) };
        client.update(request).await?;
        let found = client.get(of::GetContainerRequest { id: id.clone() }).await?.into_inner();
        assert_eq!(found.container.unwrap().labels["step"], "2");
        client.delete(of::DeleteContainerRequest { id }).await.map(drop)
    }

    async fn image(&self, name: String) -> Result<(), Status> {
        use wire::images::v1 as of;
        let mut client = of::images_client::ImagesClient::new(self.api.clone());
        let digest = format!("sha256:{}", "0".repeat(64));
        let target = Descriptor { media_type: "m".into(), digest, size: 1, ..Default::default() };
        let image = of::Image { name: name.clone(), target: Some(target), ..Default::default() };
        client.create(of::CreateImageRequest { image: Some(image), ..Default::default() }).await?;
        client.get(of::GetImageRequest { name: name.clone() }).await?;
        client.delete(of::DeleteImageRequest { name, ..Default::default() }).await.map(drop)
    }

    async fn content(&self, name: String) -> Result<(), Status> {
        use wire::content::v1 as of;
        let mut client = of::content_client::ContentClient::new(self.api.clone());
        let request = of::WriteContentRequest {
            action: of::WriteAction::Commit.into(),
            r#ref: name.clone(),
            data: name.clone().into_bytes(),
            ..Default::default()
        };
        let mut answers = client.write(tokio_stream::iter([request])).await?.into_inner();
        let mut digest = String::new();
        while let Some(answer) = answers.message().await? {
            digest = answer.digest;
        }
        client.info(of::InfoRequest { digest: digest.clone() }).await?;
        let request = of::ReadContentRequest { digest: digest.clone(), ..Default::default() };
        let mut read = client.read(request).await?.into_inner();
        assert_eq!(read.message().await?.unwrap().data, name.into_bytes());
        client.delete(of::DeleteContentRequest { digest }).await.map(drop)
    }

    async fn snapshot(&self, key: String) -> Result<(), Status> {
        use wire::snapshots::v1 as of;
        let mut client = of::snapshots_client::SnapshotsClient::new(self.api.clone());
        let snapshotter = "overlayfs".to_owned();
        let request = of::PrepareSnapshotRequest {
            snapshotter: snapshotter.clone(),
            key: key.clone(),
            ..Default::default()
        };
        client.prepare(request).await?;
        let request = of::StatSnapshotRequest { snapshotter: snapshotter.clone(), key: key.clone() };
        client.stat(request).await?;
        client.remove(of::RemoveSnapshotRequest { snapshotter, key }).await.map(drop)
    }

    async fn events(&self, name: String) -> Result<(), Status> {
        use wire::events::v1 as of;
        let mut client = of::events_client::EventsClient::new(self.api.clone());
        let filters = vec![format!("topic==\"/load/{name}\"")];
        let mut told = client.subscribe(of::SubscribeRequest { filters }).await?.into_inner();
        let event = Some(Any { type_url: "load.Event".into(), value: vec![1] });
        client.publish(of::PublishRequest { topic: format!("/load/{name}"), event }).await?;
        assert_eq!(told.message().await?.unwrap().namespace, "load");
        Ok(())
    }

    async fn lists(&self) -> Result<(), Status> {
        let filters = vec!["id~=^1-".to_owned()];
        let request = wire::containers::v1::ListContainersRequest { filters };
        wire::containers::v1::containers_client::ContainersClient::new(self.api.clone())
            .list(request)
            .await?;
        let request = wire::images::v1::ListImagesRequest::default();
        wire::images::v1::images_client::ImagesClient::new(self.api.clone()).list(request).await?;
        let request = wire::namespaces::v1::ListNamespacesRequest::default();
        wire::namespaces::v1::namespaces_client::NamespacesClient::new(self.api.clone())
            .list(request)
            .await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_clients_at_once_meet_no_error_and_cause_no_growth() {
    let seconds =
        std::env::var("LONGSHORE_LOAD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    let daemon = daemon();
    let (stop, steps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let client = Client::new(&daemon.socket(), number).await;
        let (stop, steps) = (Arc::clone(&stop), Arc::clone(&steps));
        clients.push(tokio::spawn(async move {
            let mut step = 0;
            while !stop.load(Ordering::Relaxed) {
                if let Err(status) = client.step(step).await {
                    panic!("client {number}, step {step}: {status}");
                }
                step += 1;
                steps.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    // The first third warms up: pools and caches fill.
    tokio::time::sleep(Duration::from_secs(seconds) / 3).await;
    let before = footprint(daemon.pid().unwrap());
    tokio::time::sleep(Duration::from_secs(seconds) * 2 / 3).await;
    let after = footprint(daemon.pid().unwrap());
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    println!("{} steps in {seconds} s; {before:?} then {after:?}", steps.load(Ordering::Relaxed));
    assert!(after.resident < before.resident + before.resident / 4 + 24 * 1024, "{before:?} {after:?}");
    assert!(after.threads <= before.threads + 20, "{before:?} {after:?}");
    assert!(after.files <= before.files + 64, "{before:?} {after:?}");
}
