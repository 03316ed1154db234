//! Clients that pull, while collections never rest: what a lease holds stays until an image or a container has taken it over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use longshore_proto::containerd::services as wire;
use longshore_proto::containerd::types::Descriptor;
use tonic::{Code, Status};
use wire::snapshots::v1 as snapshots;

use super::common::{Clients, Daemon, digest, noise};

const PULLERS: usize = 6;
const LAYERS: u64 = 5;
const LONG_ENOUGH: Duration = Duration::from_secs(5);

/// A layer that several pullers want at the same time.
fn layer(number: u64) -> Vec<u8> {
    noise(number + 1, 3000 + 2500 * usize::try_from(number).unwrap())
}

struct Puller {
    clients: Clients,
    number: usize,
    round: usize,
}

impl Puller {
    fn name(&self, what: &str) -> String {
        format!("{what}-{}-{}", self.number, self.round)
    }

    /// Writes a blob, or finds that it is there already; it is the lease's from then on.
    async fn fetch(&self, held: &Clients, data: &[u8], labels: &[(&str, &str)]) -> String {
        let reference = format!("layer-{}", digest(data));
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match held.put(&reference, data, labels).await {
                Ok(digest) => return digest,
                Err(status) if status.code() == Code::AlreadyExists => return digest(data),
                // Another puller is writing it.
                Err(status) if status.code() == Code::Unavailable && Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err(status) => panic!("{}: {status}", self.name("fetch")),
            }
        }
    }

    async fn unpack(&self, held: &Clients, layers: u64) -> Result<String, Status> {
        let snapshotter = "overlayfs".to_owned();
        let mut parent = String::new();
        for number in 0..layers {
            let name = format!("chain-{number}");
            let key = self.name(&format!("unpack-{number}"));
            let target = [("containerd.io/snapshot.ref".to_owned(), name.clone())].into();
            let request = snapshots::PrepareSnapshotRequest {
                snapshotter: snapshotter.clone(),
                key: key.clone(),
                parent: parent.clone(),
                labels: target,
            };
            match held.snapshots().prepare(request).await {
                Ok(_) => {
                    let request = snapshots::CommitSnapshotRequest {
                        snapshotter: snapshotter.clone(),
                        name: name.clone(),
                        key: key.clone(),
                        ..Default::default()
                    };
                    match held.snapshots().commit(request).await {
                        Ok(_) => {}
                        // Another puller was faster: its snapshot is as good, once the lease holds it.
                        Err(status) if status.code() == Code::AlreadyExists => {
                            let request =
                                snapshots::RemoveSnapshotRequest { snapshotter: snapshotter.clone(), key };
                            held.snapshots().remove(request).await?;
                        }
                        Err(status) => return Err(status),
                    }
                }
                Err(status) if status.code() == Code::AlreadyExists => {}
                Err(status) => return Err(status),
            }
            parent = name;
        }
        Ok(parent)
    }

    /// One image: pulled under a lease, used by a container, and deleted.
    async fn round(&self) -> Result<(), Status> {
        let lease = self.name("lease");
        let request = wire::leases::v1::CreateRequest { id: lease.clone(), ..Default::default() };
        self.clients.leases().create(request).await?;
        let held = self.clients.with_lease(&lease);
        let layers = 1 + (self.round as u64 + self.number as u64) % LAYERS;
        let mut labels = Vec::new();
        for number in 0..layers {
            let digest = self.fetch(&held, &layer(number), &[]).await;
            labels.push((format!("containerd.io/gc.ref.content.l.{number}"), digest));
        }
        let top = self.unpack(&held, layers).await?;
        labels.push(("containerd.io/gc.ref.snapshot.overlayfs".to_owned(), top.clone()));
        let manifest = self.name("manifest").into_bytes();
        let pairs: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let target = self.fetch(&held, &manifest, &pairs).await;
        self.create_image(&target, manifest.len()).await?;
        let sync = self.round.is_multiple_of(2);
        self.clients.leases().delete(wire::leases::v1::DeleteRequest { id: lease, sync }).await?;
        self.is_whole(&target, layers, &top).await?;
        self.create_container(&top).await?;
        let name = self.name("image");
        self.clients
            .images()
            .delete(wire::images::v1::DeleteImageRequest { name, sync, target: None })
            .await?;
        self.clients.snapshots().stat(stat(&top)).await?;
        let id = self.name("container");
        self.clients.containers().delete(wire::containers::v1::DeleteContainerRequest { id }).await?;
        Ok(())
    }

    async fn create_image(&self, target: &str, size: usize) -> Result<(), Status> {
        let target = Descriptor {
            media_type: "m".into(),
            digest: target.into(),
            size: size as i64,
            ..Default::default()
        };
        let image =
            wire::images::v1::Image { name: self.name("image"), target: Some(target), ..Default::default() };
        let request = wire::images::v1::CreateImageRequest { image: Some(image), ..Default::default() };
        self.clients.images().create(request).await.map(drop)
    }

    async fn create_container(&self, snapshot: &str) -> Result<(), Status> {
        use wire::containers::v1::{Container, CreateContainerRequest, container::Runtime};
        let container = Container {
            id: self.name("container"),
            runtime: Some(Runtime { name: "io.containerd.runc.v2".into(), options: None }),
            spec: Some(prost_types::Any { type_url: "spec".into(), value: b"{}".to_vec() }),
            snapshotter: "overlayfs".into(),
            snapshot_key: snapshot.into(),
            ..Default::default()
        };
        let request = CreateContainerRequest { container: Some(container) };
        self.clients.containers().create(request).await.map(drop)
    }

    async fn is_whole(&self, target: &str, layers: u64, top: &str) -> Result<(), Status> {
        assert_eq!(self.clients.get(target).await?, self.name("manifest").into_bytes());
        for number in 0..layers {
            let data = layer(number);
            assert_eq!(self.clients.get(&digest(&data)).await?, data, "layer {number}");
        }
        self.clients.snapshots().stat(stat(top)).await.map(drop)
    }
}

fn stat(key: &str) -> snapshots::StatSnapshotRequest {
    snapshots::StatSnapshotRequest { snapshotter: "overlayfs".into(), key: key.into() }
}

/// Ingests that nobody holds are a day's roots: they stay, too.
async fn ingests_go_on(clients: Clients, stop: Arc<AtomicBool>) {
    use wire::content::v1::{StatusRequest, WriteAction, WriteContentRequest};
    let part = |number: usize| WriteContentRequest {
        action: WriteAction::Write.into(),
        r#ref: "slow".into(),
        offset: i64::try_from(number * 100).unwrap(),
        data: vec![b'x'; 100],
        ..Default::default()
    };
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut answers =
            clients.content().write(tokio_stream::iter([part(number)])).await.unwrap().into_inner();
        while answers.message().await.unwrap().is_some() {}
        number += 1;
        let status = clients.content().status(StatusRequest { r#ref: "slow".into() }).await.unwrap();
        assert_eq!(status.into_inner().status.unwrap().offset, i64::try_from(number * 100).unwrap());
    }
    let request = wire::content::v1::AbortRequest { r#ref: "slow".into() };
    clients.content().abort(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_without_rest_take_nothing_from_pulls() {
    let daemon = Daemon::in_memory("[gc]\ndelay_ms = 0\n");
    let clients = daemon.clients().await;
    let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = Vec::new();
    for number in 0..PULLERS {
        let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
        let mut puller = Puller { clients: daemon.clients().await, number, round: 0 };
        tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                puller.round().await.unwrap_or_else(|status| panic!("{}: {status}", puller.name("round")));
                puller.round += 1;
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    tasks.push(tokio::spawn(ingests_go_on(daemon.clients().await, Arc::clone(&stop))));
    let collections = {
        let until = Instant::now() + LONG_ENOUGH;
        let mut count = 0;
        while Instant::now() < until && !tasks.iter().any(tokio::task::JoinHandle::is_finished) {
            clients.collect().await;
            count += 1;
        }
        count
    };
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    println!("{} pulls among {collections} collections", rounds.load(Ordering::Relaxed));
    // What was written while a collection looked is left to the next.
    clients.collect().await;
    clients.collect().await;
    assert_eq!(clients.digests().await, Vec::<String>::new());
    super::crash::agree(&daemon, &clients).await;
}
