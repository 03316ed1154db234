//! kill -9 in the midst of a sweep: what a root reaches is whole, and records and disk agree again.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use longshore_proto::containerd::services as wire;
use wire::snapshots::v1 as snapshots;

use super::common::{Clients, Daemon, digest, noise};

const ROUNDS: u32 = 12;
/// Blobs and snapshots that each round's sweep has to take.
const DOOMED: usize = 150;

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

async fn snapshot_names(clients: &Clients) -> Vec<String> {
    let request = snapshots::ListSnapshotsRequest { snapshotter: "overlayfs".into(), filters: vec![] };
    let mut answers = clients.snapshots().list(request).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        found.extend(answer.info.into_iter().map(|info| info.name));
    }
    found
}

/// Every record has its file or directory, and none is without a record; for a daemon with one namespace, after a collection.
pub async fn agree(daemon: &Daemon, clients: &Clients) {
    let mut recorded = BTreeSet::new();
    for digest in clients.digests().await {
        clients.get(&digest).await.unwrap();
        recorded.insert(digest["sha256:".len()..].to_owned());
    }
    assert_eq!(names(&daemon.root().join("content/blobs/sha256")), recorded);
    let snapshots = snapshot_names(clients).await;
    let directories = names(&daemon.root().join("snapshotter/overlayfs/s"));
    assert_eq!(directories.len(), snapshots.len(), "{directories:?} {snapshots:?}");
    let ingests = clients.content().list_statuses(wire::content::v1::ListStatusesRequest::default()).await;
    let ingests = ingests.unwrap().into_inner().statuses;
    assert_eq!(names(&daemon.root().join("content/ingest")).len(), ingests.len());
}

/// Blobs and a chain of snapshots under one lease.
async fn fill(clients: &Clients, lease: &str, seed: u64, count: usize) -> Vec<String> {
    let request = wire::leases::v1::CreateRequest { id: lease.into(), ..Default::default() };
    clients.leases().create(request).await.unwrap();
    let held = clients.with_lease(lease);
    let blobs = (0..count).map(|number| {
        let held = held.clone();
        async move {
            let data = noise(seed * 1000 + number as u64, 2000);
            held.put(&format!("{seed}-{number}"), &data, &[]).await.unwrap()
        }
    });
    let snapshots = async {
        let mut parent = String::new();
        for number in 0..count / 3 {
            let (snapshotter, name) = ("overlayfs".to_owned(), format!("{lease}-{seed}-{number}"));
            let key = format!("{name}-active");
            let request = snapshots::PrepareSnapshotRequest {
                snapshotter: snapshotter.clone(),
                key: key.clone(),
                parent: parent.clone(),
                ..Default::default()
            };
            held.snapshots().prepare(request).await.unwrap();
            let request = snapshots::CommitSnapshotRequest {
                snapshotter,
                name: name.clone(),
                key,
                ..Default::default()
            };
            held.snapshots().commit(request).await.unwrap();
            // Chains of five.
            parent = if number % 5 == 4 { String::new() } else { name };
        }
    };
    futures::join!(futures::future::join_all(blobs), snapshots).0
}

async fn sweep(clients: Clients, lease: &str) -> Duration {
    let began = Instant::now();
    // The daemon may be killed before it answers.
    let request = wire::leases::v1::DeleteRequest { id: lease.into(), sync: true };
    let _ = clients.leases().delete(request).await;
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_is_killed_leaves_records_and_disk_in_agreement() {
    let mut daemon = Daemon::in_memory(super::QUIET);
    let mut clients = daemon.clients().await;
    let kept = fill(&clients, "kept", 1, 20).await;
    fill(&clients, "doomed", 2, DOOMED).await;
    let whole = sweep(clients.clone(), "doomed").await;
    let mut interrupted = 0;
    for round in 0..ROUNDS {
        let lease = format!("doomed-{round}");
        fill(&clients, &lease, u64::from(round) + 3, DOOMED).await;
        let sweeping = tokio::spawn({
            let (clients, lease) = (clients.clone(), lease.clone());
            async move { sweep(clients, &lease).await }
        });
        tokio::time::sleep(whole * round / ROUNDS).await;
        let done = sweeping.is_finished();
        daemon.kill();
        sweeping.await.unwrap();
        daemon.restart();
        clients = daemon.clients().await;
        interrupted += u32::from(!done);
        // Before any collection: no record stands for a file that is gone.
        for digest in clients.digests().await {
            clients.get(&digest).await.unwrap();
        }
        for key in snapshot_names(&clients).await {
            let request = snapshots::ViewSnapshotRequest {
                snapshotter: "overlayfs".into(),
                key: "look".into(),
                parent: key,
                ..Default::default()
            };
            let mounts = clients.snapshots().view(request).await.unwrap().into_inner().mounts;
            for option in mounts.iter().flat_map(|mount| &mount.options) {
                for layer in option.strip_prefix("lowerdir=").into_iter().flat_map(|list| list.split(':')) {
                    assert!(Path::new(layer).is_dir(), "round {round}: {layer}");
                }
            }
            let request =
                snapshots::RemoveSnapshotRequest { snapshotter: "overlayfs".into(), key: "look".into() };
            clients.snapshots().remove(request).await.unwrap();
        }
        // The lease may have outlived the daemon; its deletion is what was asked for.
        let request = wire::leases::v1::DeleteRequest { id: lease, sync: true };
        let _ = clients.leases().delete(request).await;
        clients.collect().await;
        agree(&daemon, &clients).await;
        assert_eq!(clients.digests().await.len(), kept.len(), "round {round}");
    }
    for (number, kept) in kept.iter().enumerate() {
        assert_eq!(*kept, digest(&noise(1000 + number as u64, 2000)));
        clients.get(kept).await.unwrap();
    }
    println!("a sweep takes {whole:?}; {interrupted} of {ROUNDS} were interrupted");
    assert!(interrupted >= ROUNDS / 3, "the kills came too late");
}
