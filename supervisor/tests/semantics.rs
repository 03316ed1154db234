//! What containerd's clients rely on without asking: how labels, leases, sharing and collection behave in the corners.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;

use common::{Clients, Daemon, code, digest};
use longshore_proto::containerd::services::containers::v1 as containers;
use longshore_proto::containerd::services::content::v1 as content;
use longshore_proto::containerd::services::images::v1 as images;
use longshore_proto::containerd::services::leases::v1 as leases;
use longshore_proto::containerd::services::namespaces::v1 as namespaces;
use longshore_proto::containerd::services::snapshots::v1 as snapshots;
use longshore_proto::containerd::types::Descriptor;
use prost_types::{FieldMask, Timestamp};
use tonic::Code;

const EXPIRE: &str = "containerd.io/gc.expire";
const PAST: &str = "2020-01-01T00:00:00Z";

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

fn image(name: &str, target: &str, pairs: &[(&str, &str)]) -> images::Image {
    images::Image {
        name: name.into(),
        labels: labels(pairs),
        target: Some(Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest: target.into(),
            size: 1,
            annotations: HashMap::new(),
        }),
        ..Default::default()
    }
}

async fn create_image(clients: &Clients, image: images::Image) -> images::Image {
    let request = images::CreateImageRequest { image: Some(image), source_date_epoch: None };
    clients.images().create(request).await.unwrap().into_inner().image.unwrap()
}

async fn create_lease(clients: &Clients, id: &str, pairs: &[(&str, &str)]) {
    let request = leases::CreateRequest { id: id.into(), labels: labels(pairs) };
    clients.leases().create(request).await.unwrap();
}

async fn resources(clients: &Clients, id: &str) -> Vec<String> {
    let request = leases::ListResourcesRequest { id: id.into() };
    let listed = clients.leases().list_resources(request).await.unwrap().into_inner().resources;
    listed.into_iter().map(|resource| format!("{} {}", resource.r#type, resource.id)).collect()
}

async fn prepare(clients: &Clients, key: &str, parent: &str, pairs: &[(&str, &str)]) {
    let request = snapshots::PrepareSnapshotRequest {
        snapshotter: "native".into(),
        key: key.into(),
        parent: parent.into(),
        labels: labels(pairs),
    };
    clients.snapshots().prepare(request).await.unwrap();
}

async fn commit(clients: &Clients, name: &str, key: &str, pairs: &[(&str, &str)]) {
    let request = snapshots::CommitSnapshotRequest {
        snapshotter: "native".into(),
        name: name.into(),
        key: key.into(),
        labels: labels(pairs),
        parent: String::new(),
    };
    clients.snapshots().commit(request).await.unwrap();
}

async fn snapshot_names(clients: &Clients, filters: &[&str]) -> Vec<String> {
    let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let request = snapshots::ListSnapshotsRequest { snapshotter: "native".into(), filters };
    let mut answers = clients.snapshots().list(request).await.unwrap().into_inner();
    let mut names = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        names.extend(answer.info.into_iter().map(|info| info.name));
    }
    names.sort();
    names
}

#[tokio::test]
async fn labels_without_a_value_are_none() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    let given = [("keep", "x"), ("empty", "")];
    let kept = labels(&[("keep", "x")]);

    let made = create_image(&clients, image("i", &digest(b"x"), &given)).await;
    assert_eq!(made.labels, kept);
    create_lease(&clients, "l", &given).await;
    let listed = clients.leases().list(leases::ListRequest::default()).await.unwrap().into_inner().leases;
    assert_eq!(listed[0].labels, kept);
    let blob = clients.put("r", b"blob", &given).await.unwrap();
    let info = content::InfoRequest { digest: blob.clone() };
    assert_eq!(clients.content().info(info).await.unwrap().into_inner().info.unwrap().labels, kept);
    prepare(&clients, "s", "", &given).await;
    let stat = snapshots::StatSnapshotRequest { snapshotter: "native".into(), key: "s".into() };
    assert_eq!(clients.snapshots().stat(stat).await.unwrap().into_inner().info.unwrap().labels, kept);

    // An update takes a label away by an empty value, with a mask or without.
    for update_mask in [None, mask(&["labels"]), mask(&["labels.keep", "labels.other"])] {
        let info = content::Info {
            digest: blob.clone(),
            labels: labels(&[("keep", ""), ("other", "y")]),
            ..Default::default()
        };
        let request = content::UpdateRequest { info: Some(info), update_mask };
        let updated = clients.content().update(request).await.unwrap().into_inner().info.unwrap();
        assert_eq!(updated.labels, labels(&[("other", "y")]));
    }
    let wrong = content::UpdateRequest {
        info: Some(content::Info { digest: blob, ..Default::default() }),
        update_mask: mask(&["size"]),
    };
    assert_eq!(code(clients.content().update(wrong).await), Code::InvalidArgument);
}

#[tokio::test]
async fn an_image_carries_the_time_it_is_given() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    let epoch = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let request = images::CreateImageRequest {
        image: Some(image("i", &digest(b"x"), &[])),
        source_date_epoch: epoch(1000),
    };
    let made = clients.images().create(request).await.unwrap().into_inner().image.unwrap();
    assert_eq!((made.created_at, made.updated_at), (epoch(1000), epoch(1000)));
    let request = images::UpdateImageRequest {
        image: Some(image("i", &digest(b"y"), &[])),
        update_mask: None,
        source_date_epoch: epoch(2000),
    };
    let updated = clients.images().update(request).await.unwrap().into_inner().image.unwrap();
    assert_eq!((updated.created_at, updated.updated_at), (epoch(1000), epoch(2000)));
}

#[tokio::test]
async fn a_lease_holds_an_expiring_image_and_lets_go_of_what_is_deleted_under_it() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    create_lease(&clients, "l", &[]).await;
    let held = clients.with_lease("l");
    let blob = clients.put("r", b"blob", &[]).await.unwrap();
    create_image(&held, image("plain", &blob, &[])).await;
    create_image(&held, image("expiring", &blob, &[(EXPIRE, PAST)])).await;
    create_image(&clients, image("lost", &blob, &[(EXPIRE, PAST)])).await;
    assert_eq!(resources(&clients, "l").await, ["images expiring"]);
    clients.collect().await;
    let names = |listed: images::ListImagesResponse| -> Vec<String> {
        listed.images.into_iter().map(|image| image.name).collect()
    };
    let listed = clients.images().list(images::ListImagesRequest::default()).await.unwrap().into_inner();
    assert_eq!(names(listed), ["expiring", "plain"]);

    let second = held.put("r2", b"second", &[]).await.unwrap();
    prepare(&held, "s", "", &[]).await;
    assert_eq!(resources(&clients, "l").await.len(), 3);
    let delete = images::DeleteImageRequest { name: "expiring".into(), ..Default::default() };
    held.images().delete(delete).await.unwrap();
    held.content().delete(content::DeleteContentRequest { digest: second }).await.unwrap();
    let remove = snapshots::RemoveSnapshotRequest { snapshotter: "native".into(), key: "s".into() };
    held.snapshots().remove(remove).await.unwrap();
    assert!(resources(&clients, "l").await.is_empty(), "{:?}", resources(&clients, "l").await);

    let missing = clients.with_lease("no-such-lease");
    assert_eq!(code(missing.put("r3", b"third", &[]).await), Code::NotFound);
}

#[tokio::test]
async fn a_flat_lease_holds_the_thing_and_not_what_it_refers_to() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    let layer = clients.put("l", b"layer", &[]).await.unwrap();
    let reference = [("containerd.io/gc.ref.content.l.0", layer.as_str())];
    let manifest = clients.put("m", b"manifest", &reference).await.unwrap();
    create_image(&clients, image("expired", &manifest, &[(EXPIRE, PAST)])).await;
    prepare(&clients, "a", "", &[]).await;
    commit(&clients, "base", "a", &[]).await;
    prepare(&clients, "top", "base", &reference).await;
    create_lease(&clients, "flat", &[("containerd.io/gc.flat", "yes")]).await;
    for (kind, id) in [("images", "expired"), ("snapshots/native", "top")] {
        let resource = Some(leases::Resource { id: id.into(), r#type: kind.into() });
        let request = leases::AddResourceRequest { id: "flat".into(), resource };
        clients.leases().add_resource(request).await.unwrap();
    }
    clients.collect().await;
    assert_eq!(clients.digests().await, [manifest]);
    assert_eq!(snapshot_names(&clients, &[]).await, ["base", "top"]);
}

#[tokio::test]
async fn references_and_back_references_of_every_kind_keep_what_they_name() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    let runtime = containers::container::Runtime { name: "io.containerd.runc.v2".into(), options: None };
    let spec = prost_types::Any { type_url: "t".into(), value: b"{}".to_vec() };
    let kept = clients.put("kept", b"by a container", &[]).await.unwrap();
    let container = containers::Container {
        id: "c".into(),
        runtime: Some(runtime),
        spec: Some(spec),
        labels: labels(&[
            ("containerd.io/gc.ref.content/any.name", &kept),
            ("containerd.io/gc.ref.image", "expired"),
        ]),
        ..Default::default()
    };
    let request = containers::CreateContainerRequest { container: Some(container) };
    clients.containers().create(request).await.unwrap();
    let of_image = clients.put("of-image", b"of an expired image", &[]).await.unwrap();
    create_image(&clients, image("expired", &of_image, &[(EXPIRE, PAST)])).await;

    let mut expected = vec![kept.clone(), of_image.clone()];
    for (name, label, value) in [
        ("1", "containerd.io/gc.bref.container", "c"),
        ("2", "containerd.io/gc.bref.content/x", kept.as_str()),
        ("3", "containerd.io/gc.bref.image.y", "expired"),
        ("4", "containerd.io/gc.bref.snapshot.native/z", "rooted"),
        ("5", "containerd.io/gc.root", "anything"),
        ("6", "containerd.io/gc.root.of.mine", "1"),
    ] {
        expected.push(clients.put(name, name.as_bytes(), &[(label, value)]).await.unwrap());
    }
    for (name, label, value) in [
        ("7", "containerd.io/gc.bref.container", "other"),
        ("8", "containerd.io/gc.bref.containers", "c"),
        ("9", "containerd.io/gc.bref.snapshot.overlayfs", "rooted"),
        ("0", EXPIRE, "2999-01-01T00:00:00Z"),
    ] {
        clients.put(name, name.as_bytes(), &[(label, value)]).await.unwrap();
    }
    prepare(&clients, "rooted", "", &[("containerd.io/gc.root", "1")]).await;
    prepare(&clients, "by-content", "", &[("containerd.io/gc.bref.content", &of_image)]).await;
    prepare(&clients, "lost", "", &[]).await;
    // What roots content and snapshots does nothing for an image whose time is over.
    create_image(&clients, image("lost", &kept, &[(EXPIRE, PAST), ("containerd.io/gc.root", "1")])).await;
    clients.collect().await;
    expected.sort();
    assert_eq!(clients.digests().await, expected);
    assert_eq!(snapshot_names(&clients, &[]).await, ["by-content", "rooted"]);
    let images =
        clients.images().list(images::ListImagesRequest::default()).await.unwrap().into_inner().images;
    assert_eq!(images.len(), 1);
}

/// What a writer that expects `digest` is told it has already.
async fn offset_of(
    clients: &Clients,
    reference: &str,
    expected: &str,
    total: i64,
) -> Result<i64, tonic::Status> {
    let request = content::WriteContentRequest {
        action: content::WriteAction::Stat.into(),
        r#ref: reference.into(),
        expected: expected.into(),
        total,
        ..Default::default()
    };
    let mut answers = clients.content().write(tokio_stream::iter([request])).await?.into_inner();
    Ok(answers.message().await?.unwrap().offset)
}

#[tokio::test]
async fn namespaces_share_blobs_by_digest_unless_they_are_isolated() {
    let shared = Daemon::start();
    let clients = shared.clients().await;
    let blob = clients.put("r", b"secret", &[]).await.unwrap();
    let other = clients.in_namespace("other");
    assert_eq!(code(offset_of(&clients, "again", &blob, 0).await), Code::AlreadyExists);
    assert_eq!(code(other.get(&blob).await), Code::NotFound);
    assert_eq!(offset_of(&other, "known", &blob, 0).await.unwrap(), 6);
    assert_eq!(offset_of(&other, "of another size", &blob, 7).await.unwrap(), 0);
    other.put("sent", b"secret", &[]).await.unwrap();
    drop(shared);

    let isolated = Daemon::with_config("[content]\nsharing = \"isolated\"");
    let clients = isolated.clients().await;
    let blob = clients.put("r", b"secret", &[]).await.unwrap();
    let other = clients.in_namespace("other");
    assert_eq!(offset_of(&other, "known", &blob, 0).await.unwrap(), 0);
    let namespace = Some(namespaces::Namespace {
        name: "test".into(),
        labels: labels(&[("containerd.io/namespace.shareable", "true")]),
    });
    let update = namespaces::UpdateNamespaceRequest { namespace, update_mask: None };
    clients.namespaces().update(update).await.unwrap();
    assert_eq!(offset_of(&other, "shared now", &blob, 0).await.unwrap(), 6);
    let third = clients.in_namespace("third");
    let unshare = namespaces::Namespace { name: "test".into(), labels: HashMap::new() };
    let update = namespaces::UpdateNamespaceRequest { namespace: Some(unshare), update_mask: None };
    clients.namespaces().update(update).await.unwrap();
    assert_eq!(offset_of(&third, "proven", &blob, 0).await.unwrap(), 0);
    third.put("proven", b"secret", &[]).await.unwrap();
    assert_eq!(third.get(&blob).await.unwrap(), b"secret");
}

#[tokio::test]
async fn a_namespace_goes_with_its_leases_but_not_with_what_it_holds() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await.in_namespace("gone");
    create_lease(&clients, "l", &[]).await;
    prepare(&clients, "s", "", &[]).await;
    let delete = || namespaces::DeleteNamespaceRequest { name: "gone".into() };
    let refused = clients.namespaces().delete(delete()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("snapshots"), "{}", refused.message());
    let remove = snapshots::RemoveSnapshotRequest { snapshotter: "native".into(), key: "s".into() };
    clients.snapshots().remove(remove).await.unwrap();
    clients.namespaces().delete(delete()).await.unwrap();
    let listed = clients.leases().list(leases::ListRequest::default()).await.unwrap().into_inner().leases;
    assert!(listed.is_empty());
    let found = clients.namespaces().list(namespaces::ListNamespacesRequest::default()).await.unwrap();
    assert!(found.into_inner().namespaces.iter().all(|namespace| namespace.name != "gone"));
}

#[tokio::test]
async fn snapshots_are_filtered_by_kind_parent_and_labels() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    prepare(&clients, "a", "", &[]).await;
    commit(&clients, "base", "a", &[("x", "1"), ("a.b", "2")]).await;
    prepare(&clients, "top", "base", &[]).await;
    for (filter, expected) in [
        ("kind==committed", vec!["base"]),
        ("kind==active", vec!["top"]),
        ("parent==base", vec!["top"]),
        ("parent", vec!["base", "top"]),
        ("labels.x==1", vec!["base"]),
        ("labels.\"a.b\"==2", vec!["base"]),
        ("name~=|^t|", vec!["top"]),
    ] {
        assert_eq!(snapshot_names(&clients, &[filter]).await, expected, "{filter}");
    }
    assert_eq!(snapshot_names(&clients, &["kind==active", "kind==committed"]).await, ["base", "top"]);
}

#[tokio::test]
async fn a_snapshot_is_kept_as_long_as_a_condition_holds_of_when_it_was_used() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    let used = |at: &str| [("containerd.io/gc.cond.value-usedat", at.to_owned())];
    let now = jiff::Timestamp::now().to_string();
    for (name, at) in [("young", now.as_str()), ("old", "2020-01-01T00:00:00Z")] {
        let labels = used(at);
        let labels: Vec<_> = labels.iter().map(|(key, value)| (*key, value.as_str())).collect();
        prepare(&clients, name, "", &labels).await;
    }
    prepare(&clients, "unknown", "", &[]).await;
    let blob = clients.put("r", b"blob", &[("containerd.io/gc.root", "1")]).await.unwrap();
    let conditions: Vec<(String, String)> = ["young", "old", "unknown"]
        .map(|key| (format!("containerd.io/gc.cond.snapshot.native/{key}"), format!("usedat<24h|{key}")))
        .to_vec();
    let conditions: Vec<_> =
        conditions.iter().map(|(label, value)| (label.as_str(), value.as_str())).collect();
    create_image(&clients, image("i", &blob, &conditions)).await;
    clients.collect().await;
    assert_eq!(snapshot_names(&clients, &[]).await, ["young"]);
}
