//! containerd.services.snapshots.v1 against the real daemon: verbs, codes, namespaces, leases, events, the collector, kills.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;

use common::{Clients, Daemon, code};
use longshore_proto::containerd::events;
use longshore_proto::containerd::services::events::v1::SubscribeRequest;
use longshore_proto::containerd::services::leases::v1 as leases;
use longshore_proto::containerd::services::namespaces::v1::DeleteNamespaceRequest;
use longshore_proto::containerd::services::snapshots::v1::*;
use prost::Message;
use prost_types::FieldMask;
use tonic::{Code, Status};

const ROOT: (&str, &str) = ("containerd.io/gc.root", "yes");

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The service's verbs on overlayfs, with fewer words.
struct Snapshots(Clients);

impl Snapshots {
    async fn prepare(&self, key: &str, parent: &str, pairs: &[(&str, &str)]) -> Result<(), Status> {
        let (key, parent) = (key.into(), parent.into());
        let request =
            PrepareSnapshotRequest { snapshotter: "overlayfs".into(), key, parent, labels: labels(pairs) };
        self.0.snapshots().prepare(request).await.map(drop)
    }

    async fn commit(&self, name: &str, key: &str, parent: &str) -> Result<(), Status> {
        let (name, key, parent) = (name.into(), key.into(), parent.into());
        let labels = labels(&[ROOT]);
        let request = CommitSnapshotRequest { snapshotter: "overlayfs".into(), name, key, labels, parent };
        self.0.snapshots().commit(request).await.map(drop)
    }

    async fn remove(&self, key: &str) -> Result<(), Status> {
        let request = RemoveSnapshotRequest { snapshotter: "overlayfs".into(), key: key.into() };
        self.0.snapshots().remove(request).await.map(drop)
    }

    async fn stat(&self, key: &str) -> Result<Info, Status> {
        let request = StatSnapshotRequest { snapshotter: "overlayfs".into(), key: key.into() };
        Ok(self.0.snapshots().stat(request).await?.into_inner().info.unwrap())
    }

    async fn list(&self, filters: &[&str]) -> Vec<String> {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let request = ListSnapshotsRequest { snapshotter: "overlayfs".into(), filters };
        let mut answers = self.0.snapshots().list(request).await.unwrap().into_inner();
        let mut names = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            names.extend(answer.info.into_iter().map(|info| info.name));
        }
        names
    }
}

#[tokio::test]
async fn snapshots_live_through_their_verbs() {
    let daemon = Daemon::start();
    let snapshots = Snapshots(daemon.clients().await);
    snapshots.prepare("a", "", &[ROOT]).await.unwrap();
    snapshots.commit("one", "a", "").await.unwrap();
    snapshots.prepare("b", "one", &[ROOT, ("colour", "blue")]).await.unwrap();
    let info = snapshots.stat("b").await.unwrap();
    assert_eq!((info.name.as_str(), info.parent.as_str(), info.kind()), ("b", "one", Kind::Active));
    assert!(info.created_at.is_some());
    assert_eq!(snapshots.list(&[]).await, ["b", "one"]);
    assert_eq!(snapshots.list(&["kind==committed"]).await, ["one"]);
    assert_eq!(snapshots.list(&["parent==one,labels.colour==blue"]).await, ["b"]);

    let request = MountsRequest { snapshotter: "overlayfs".into(), key: "b".into() };
    let mounts = snapshots.0.snapshots().mounts(request).await.unwrap().into_inner().mounts;
    assert_eq!(mounts.len(), 1);
    assert_eq!(mounts[0].r#type, "overlay");
    assert!(mounts[0].options.iter().any(|option| option.starts_with("lowerdir=")));

    let update = |paths: &[&str], pairs: &[(&str, &str)]| UpdateSnapshotRequest {
        snapshotter: "overlayfs".into(),
        info: Some(Info { name: "b".into(), labels: labels(pairs), ..Info::default() }),
        update_mask: Some(FieldMask { paths: paths.iter().map(|p| (*p).to_owned()).collect() }),
    };
    let changed = update(&["labels.colour", "labels.shape"], &[("shape", "round")]);
    let info = snapshots.0.snapshots().update(changed).await.unwrap().into_inner().info.unwrap();
    assert_eq!(info.labels, labels(&[ROOT, ("shape", "round")]));
    let refused = snapshots.0.snapshots().update(update(&["parent"], &[])).await;
    assert_eq!(code(refused), Code::InvalidArgument);

    let view = ViewSnapshotRequest {
        snapshotter: "overlayfs".into(),
        key: "v".into(),
        parent: "one".into(),
        labels: labels(&[]),
    };
    let mounts = snapshots.0.snapshots().view(view).await.unwrap().into_inner().mounts;
    assert_eq!((mounts[0].r#type.as_str(), mounts[0].options[0].as_str()), ("bind", "ro"));
    let request = UsageRequest { snapshotter: "overlayfs".into(), key: "one".into() };
    assert_eq!(snapshots.0.snapshots().usage(request).await.unwrap().into_inner().inodes, 1);
    let request = CleanupRequest { snapshotter: "overlayfs".into() };
    snapshots.0.snapshots().cleanup(request).await.unwrap();
    for key in ["v", "b", "one"] {
        snapshots.remove(key).await.unwrap();
    }
    assert!(snapshots.list(&[]).await.is_empty());
}

#[tokio::test]
async fn a_refusal_has_the_code_that_clients_test_for() {
    let daemon = Daemon::start();
    let snapshots = Snapshots(daemon.clients().await);
    snapshots.prepare("a", "", &[ROOT]).await.unwrap();
    assert_eq!(code(snapshots.prepare("a", "", &[]).await), Code::AlreadyExists);
    assert_eq!(code(snapshots.prepare("", "", &[]).await), Code::InvalidArgument);
    assert_eq!(code(snapshots.prepare("b", "a", &[]).await), Code::InvalidArgument);
    assert_eq!(code(snapshots.prepare("b", "missing", &[]).await), Code::NotFound);
    assert_eq!(code(snapshots.prepare(&"k".repeat(2000), "", &[]).await), Code::InvalidArgument);
    assert_eq!(code(snapshots.prepare("b", "", &[("k", &"v".repeat(5000))]).await), Code::InvalidArgument);
    snapshots.commit("one", "a", "").await.unwrap();
    assert_eq!(code(snapshots.commit("two", "one", "").await), Code::FailedPrecondition);
    assert_eq!(code(snapshots.commit("two", "missing", "").await), Code::NotFound);
    snapshots.prepare("b", "one", &[ROOT]).await.unwrap();
    assert_eq!(code(snapshots.remove("one").await), Code::FailedPrecondition);
    assert_eq!(code(snapshots.remove("missing").await), Code::NotFound);
    assert_eq!(code(snapshots.stat("missing").await), Code::NotFound);
    let request = MountsRequest { snapshotter: "overlayfs".into(), key: "one".into() };
    assert_eq!(code(snapshots.0.snapshots().mounts(request).await), Code::FailedPrecondition);
    let request = StatSnapshotRequest { snapshotter: "zfs".into(), key: "one".into() };
    assert_eq!(code(snapshots.0.snapshots().stat(request).await), Code::InvalidArgument);
    let target = ("containerd.io/snapshot.ref", "one");
    assert_eq!(code(snapshots.prepare("extract", "", &[target]).await), Code::AlreadyExists);
    snapshots.prepare("extract", "", &[("containerd.io/snapshot.ref", "two")]).await.unwrap();
    let nowhere = Snapshots(snapshots.0.in_namespace(""));
    assert_eq!(code(nowhere.stat("one").await), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_parent_can_be_given_at_commit() {
    let daemon = Daemon::start();
    let snapshots = Snapshots(daemon.clients().await);
    for key in ["a", "b"] {
        snapshots.prepare(key, "", &[ROOT]).await.unwrap();
    }
    snapshots.commit("one", "a", "").await.unwrap();
    snapshots.commit("two", "b", "one").await.unwrap();
    assert_eq!(snapshots.stat("two").await.unwrap().parent, "one");
    snapshots.prepare("c", "two", &[ROOT]).await.unwrap();
    assert_eq!(code(snapshots.commit("three", "c", "one").await), Code::InvalidArgument);
}

#[tokio::test]
async fn namespaces_do_not_see_each_other_and_stay_while_they_hold_snapshots() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    let (blue, red) = (Snapshots(clients.in_namespace("blue")), Snapshots(clients.in_namespace("red")));
    blue.prepare("a", "", &[ROOT]).await.unwrap();
    blue.commit("one", "a", "").await.unwrap();
    assert!(red.list(&[]).await.is_empty());
    assert_eq!(code(red.prepare("b", "one", &[]).await), Code::NotFound);
    let error = red.stat("one").await.unwrap_err();
    assert_eq!(error.message(), "snapshot \"one\": not found");
    red.prepare("a", "", &[ROOT]).await.unwrap();
    let delete = DeleteNamespaceRequest { name: "blue".into() };
    assert_eq!(code(clients.namespaces().delete(delete.clone()).await), Code::FailedPrecondition);
    blue.remove("one").await.unwrap();
    clients.namespaces().delete(delete).await.unwrap();
}

#[tokio::test]
async fn the_collector_keeps_what_leases_labels_and_children_hold() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    let create = leases::CreateRequest { id: "mine".into(), ..Default::default() };
    clients.leases().create(create).await.unwrap();
    let free = Snapshots(clients.clone());
    let leased = Snapshots(clients.with_lease("mine"));
    assert_eq!(
        code(Snapshots(clients.with_lease("missing")).prepare("x", "", &[]).await),
        Code::NotFound,
        "a lease that does not exist holds nothing"
    );
    assert_eq!(code(free.stat("x").await), Code::NotFound);
    leased.prepare("base", "", &[]).await.unwrap();
    leased.prepare("kept by lease", "", &[]).await.unwrap();
    free.prepare("kept by label", "", &[ROOT]).await.unwrap();
    free.prepare("unwanted", "", &[]).await.unwrap();
    clients.collect().await;
    assert_eq!(free.list(&[]).await, ["base", "kept by label", "kept by lease"]);

    // What a commit makes is the lease's, too, and what it was made from no longer.
    let name = "committed".to_owned();
    let (snapshotter, key) = ("overlayfs".to_owned(), "base".to_owned());
    let commit = CommitSnapshotRequest { snapshotter, name, key, ..Default::default() };
    leased.0.snapshots().commit(commit).await.unwrap();
    let list = leases::ListResourcesRequest { id: "mine".into() };
    let held = clients.leases().list_resources(list).await.unwrap().into_inner().resources;
    let held: Vec<_> = held.into_iter().map(|resource| (resource.r#type, resource.id)).collect();
    let of = |id: &str| ("snapshots/overlayfs".to_owned(), id.to_owned());
    assert_eq!(held, [of("committed"), of("kept by lease")]);
    free.prepare("child", "committed", &[ROOT]).await.unwrap();

    let delete = leases::DeleteRequest { id: "mine".into(), sync: true };
    clients.leases().delete(delete).await.unwrap();
    assert_eq!(free.list(&[]).await, ["child", "committed", "kept by label"]);
    free.remove("child").await.unwrap();
    clients.collect().await;
    assert_eq!(free.list(&[]).await, ["kept by label"]);
}

/// A snapshot that is made on something unreferenced while collections run either fails cleanly or has its parent.
#[tokio::test]
async fn a_parent_is_never_collected_from_under_a_new_child() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    let snapshots = Snapshots(clients.clone());
    let collecting = tokio::spawn({
        let clients = clients.clone();
        async move {
            for _ in 0..60 {
                clients.collect().await;
            }
        }
    });
    let (mut made, mut round) = (0, 0);
    while !collecting.is_finished() {
        round += 1;
        let (key, parent, child) = (format!("k{round}"), format!("p{round}"), format!("c{round}"));
        // Without a lease or a label the collector may take it at any moment.
        let outcome = match snapshots.prepare(&key, "", &[]).await {
            Ok(()) => {
                let commit = CommitSnapshotRequest {
                    snapshotter: "overlayfs".into(),
                    name: parent.clone(),
                    key,
                    ..Default::default()
                };
                clients.snapshots().commit(commit).await.map(drop)
            }
            Err(error) => Err(error),
        };
        let outcome = match outcome {
            Ok(()) => snapshots.prepare(&child, &parent, &[ROOT]).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                assert_eq!(snapshots.stat(&child).await.unwrap().parent, parent);
                snapshots.stat(&parent).await.unwrap();
                made += 1;
            }
            Err(error) => assert_eq!(error.code(), Code::NotFound, "{error}"),
        }
    }
    collecting.await.unwrap();
    assert!(made > 0);
    let committed = snapshots.list(&["kind==committed"]).await;
    assert!(committed.len() >= made, "{} of {made} parents", committed.len());
}

#[tokio::test]
async fn events_tell_of_prepare_commit_and_remove() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    let subscribe = SubscribeRequest { filters: vec!["topic~=|^/snapshot/|".into()] };
    let mut events = clients.events().subscribe(subscribe).await.unwrap().into_inner();
    let snapshots = Snapshots(clients);
    snapshots.prepare("a", "", &[ROOT]).await.unwrap();
    snapshots.commit("one", "a", "").await.unwrap();
    snapshots.remove("one").await.unwrap();
    let mut next = async || {
        let envelope = events.message().await.unwrap().unwrap();
        assert_eq!(envelope.namespace, "test");
        (envelope.topic, envelope.event.unwrap())
    };
    let (topic, event) = next().await;
    assert_eq!(
        (topic.as_str(), event.type_url.as_str()),
        ("/snapshot/prepare", "containerd.events.SnapshotPrepare")
    );
    let event = events::SnapshotPrepare::decode(&*event.value).unwrap();
    assert_eq!((event.key.as_str(), event.snapshotter.as_str()), ("a", "overlayfs"));
    let (topic, event) = next().await;
    let event = events::SnapshotCommit::decode(&*event.value).unwrap();
    assert_eq!((topic.as_str(), event.key.as_str(), event.name.as_str()), ("/snapshot/commit", "a", "one"));
    let (topic, event) = next().await;
    let event = events::SnapshotRemove::decode(&*event.value).unwrap();
    assert_eq!((topic.as_str(), event.key.as_str()), ("/snapshot/remove", "one"));
}

#[tokio::test]
async fn a_killed_daemon_knows_every_snapshot_again() {
    let mut daemon = Daemon::start();
    for round in 0..10 {
        let clients = daemon.clients().await;
        let snapshots = Snapshots(clients.clone());
        assert_eq!(snapshots.list(&[]).await.len(), 2 * round, "round {round}");
        let create = leases::CreateRequest { id: format!("l{round}"), ..Default::default() };
        clients.leases().create(create).await.unwrap();
        let leased = Snapshots(clients.with_lease(&format!("l{round}")));
        leased.prepare(&format!("leased{round}"), "", &[]).await.unwrap();
        snapshots.prepare("making", "", &[ROOT]).await.unwrap();
        snapshots.commit(&format!("layer{round}"), "making", "").await.unwrap();
        daemon.kill();
        daemon.restart();
    }
    let clients = daemon.clients().await;
    clients.collect().await;
    assert_eq!(Snapshots(clients).list(&[]).await.len(), 20, "leases were kept with what they hold");
}
