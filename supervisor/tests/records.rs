//! Namespaces, images, containers, leases and events against the real daemon.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;

use common::{Clients, Daemon, code, digest};
use longshore_proto::containerd::services::containers::v1 as containers;
use longshore_proto::containerd::services::events::v1 as events;
use longshore_proto::containerd::services::images::v1 as images;
use longshore_proto::containerd::services::leases::v1 as leases;
use longshore_proto::containerd::services::namespaces::v1 as namespaces;
use longshore_proto::containerd::types::Descriptor;
use prost_types::{Any, FieldMask};
use tonic::Code;

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

fn any(kind: &str, value: &[u8]) -> Option<Any> {
    Some(Any { type_url: kind.into(), value: value.to_vec() })
}

fn container(id: &str) -> containers::Container {
    containers::Container {
        id: id.into(),
        labels: labels(&[("app", "web")]),
        image: "docker.io/library/x:1".into(),
        runtime: Some(containers::container::Runtime { name: "io.containerd.runc.v2".into(), options: None }),
        spec: any("types.containerd.io/opencontainers/runtime-spec/1/Spec", b"{\"ociVersion\":\"1.1.0\"}"),
        extensions: [("e".to_owned(), any("t", b"\x00\xff").unwrap())].into(),
        ..Default::default()
    }
}

async fn create(
    clients: &Clients,
    container: containers::Container,
) -> Result<containers::Container, tonic::Status> {
    let request = containers::CreateContainerRequest { container: Some(container) };
    Ok(clients.containers().create(request).await?.into_inner().container.unwrap())
}

#[tokio::test]
async fn containers_live_through_their_verbs() {
    let mut daemon = Daemon::start();
    let clients = daemon.clients().await;
    let made = create(&clients, container("c1")).await.unwrap();
    assert!(made.created_at.is_some());
    assert_eq!(code(create(&clients, container("c1")).await), Code::AlreadyExists);
    for bad in ["", "a b", "../x", "a..b", &"x".repeat(77)] {
        assert_eq!(code(create(&clients, container(bad)).await), Code::InvalidArgument, "{bad}");
    }
    let without = |change: fn(&mut containers::Container)| {
        let mut wrong = container("wrong");
        change(&mut wrong);
        wrong
    };
    for wrong in [
        without(|c| c.runtime = None),
        without(|c| c.spec = None),
        without(|c| c.snapshot_key = "k".into()),
        without(|c| c.labels = labels(&[("k", &"v".repeat(4096))])),
    ] {
        assert_eq!(code(create(&clients, wrong).await), Code::InvalidArgument);
    }
    let mut long = container("long");
    long.spec = any("spec", &vec![b'x'; 2_000_000]);
    create(&clients, long).await.unwrap();
    let update = |changed: containers::Container, update_mask| containers::UpdateContainerRequest {
        container: Some(changed),
        update_mask,
    };
    let mut changed = container("c1");
    changed.labels = labels(&[("app", "db"), ("other", "x")]);
    changed.image = "ignored".into();
    let updated = clients.containers().update(update(changed.clone(), mask(&["labels.app"]))).await.unwrap();
    let updated = updated.into_inner().container.unwrap();
    assert_eq!((updated.labels, updated.image.as_str()), (labels(&[("app", "db")]), "docker.io/library/x:1"));
    assert_eq!(
        code(clients.containers().update(update(changed.clone(), mask(&["runtime"]))).await),
        Code::InvalidArgument
    );
    changed.runtime.as_mut().unwrap().name = "other".into();
    assert_eq!(code(clients.containers().update(update(changed.clone(), None)).await), Code::InvalidArgument);
    changed.id = "missing".into();
    assert_eq!(code(clients.containers().update(update(changed, None)).await), Code::NotFound);
    daemon.kill();
    daemon.restart();
    let clients = daemon.clients().await;
    let get = |id: &str| containers::GetContainerRequest { id: id.into() };
    let found = clients.containers().get(get("c1")).await.unwrap().into_inner().container.unwrap();
    assert_eq!(
        (found.labels["app"].as_str(), found.extensions["e"].value.as_slice()),
        ("db", &b"\x00\xff"[..])
    );
    let found = clients.containers().get(get("long")).await.unwrap().into_inner().container.unwrap();
    assert_eq!(found.spec.unwrap().value.len(), 2_000_000);
    let filters = vec!["labels.app==db".to_owned(), "id~=^lo".to_owned()];
    let request = containers::ListContainersRequest { filters };
    assert_eq!(clients.containers().list(request.clone()).await.unwrap().into_inner().containers.len(), 2);
    let mut stream = clients.containers().list_stream(request).await.unwrap().into_inner();
    let mut streamed = 0;
    while let Some(message) = stream.message().await.unwrap() {
        streamed += usize::from(message.container.is_some());
    }
    assert_eq!(streamed, 2);
    let other = clients.in_namespace("other");
    assert_eq!(code(other.containers().get(get("c1")).await), Code::NotFound);
    let delete = || containers::DeleteContainerRequest { id: "c1".into() };
    clients.containers().delete(delete()).await.unwrap();
    assert_eq!(code(clients.containers().delete(delete()).await), Code::NotFound);
}

fn image(name: &str, data: &[u8]) -> images::Image {
    images::Image {
        name: name.into(),
        target: Some(Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest: digest(data),
            size: i64::try_from(data.len()).unwrap(),
            annotations: HashMap::new(),
        }),
        ..Default::default()
    }
}

#[tokio::test]
async fn images_keep_their_content_until_a_sync_delete() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    let layer = clients.put("l", b"layer", &[]).await.unwrap();
    let manifest =
        clients.put("m", b"manifest", &[("containerd.io/gc.ref.content.l.0", &layer)]).await.unwrap();
    let stray = clients.put("s", b"stray", &[]).await.unwrap();
    let create = |image| images::CreateImageRequest { image: Some(image), source_date_epoch: None };
    clients.images().create(create(image("i:1", b"manifest"))).await.unwrap();
    assert_eq!(code(clients.images().create(create(image("i:1", b"x"))).await), Code::AlreadyExists);
    for wrong in [image("", b"x"), images::Image { target: None, ..image("i:2", b"x") }, image("i:3", b"")] {
        assert_eq!(code(clients.images().create(create(wrong)).await), Code::InvalidArgument);
    }
    clients.collect().await;
    let mut left = clients.digests().await;
    left.sort();
    let mut expected = vec![layer, manifest];
    expected.sort();
    assert_eq!(left, expected);
    assert_eq!(code(clients.get(&stray).await), Code::NotFound);
    let update = images::UpdateImageRequest {
        image: Some(images::Image {
            name: "i:1".into(),
            labels: labels(&[("k", "v")]),
            target: Some(Descriptor::default()),
            ..Default::default()
        }),
        update_mask: mask(&["labels.k"]),
        source_date_epoch: None,
    };
    let updated = clients.images().update(update).await.unwrap().into_inner().image.unwrap();
    assert_eq!(updated.labels, labels(&[("k", "v")]));
    let filters = vec!["name==i:1,labels.k==v".to_owned()];
    assert_eq!(
        clients.images().list(images::ListImagesRequest { filters }).await.unwrap().into_inner().images.len(),
        1
    );
    let delete = |target| images::DeleteImageRequest { name: "i:1".into(), sync: true, target };
    assert_eq!(code(clients.images().delete(delete(image("x", b"other").target)).await), Code::NotFound);
    clients.images().delete(delete(None)).await.unwrap();
    assert!(clients.digests().await.is_empty());
    assert_eq!(code(clients.images().delete(delete(None)).await), Code::NotFound);
}

#[tokio::test]
async fn expired_leases_and_images_keep_nothing() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    let past = labels(&[("containerd.io/gc.expire", "2020-01-01T00:00:00Z")]);
    let future = labels(&[("containerd.io/gc.expire", "2999-01-01T00:00:00Z")]);
    for (id, labels) in [("old", past.clone()), ("new", future)] {
        clients.leases().create(leases::CreateRequest { id: id.into(), labels }).await.unwrap();
    }
    let mut events = clients
        .events()
        .subscribe(events::SubscribeRequest { filters: vec!["topic~=|^/images/|".into()] })
        .await
        .unwrap()
        .into_inner();
    let kept = clients.with_lease("new").put("k", b"kept", &[]).await.unwrap();
    let labelled = clients.put("by-label", b"kept by a label of a lease", &[]).await.unwrap();
    let by_label = labels(&[("containerd.io/gc.ref.content", &labelled)]);
    clients.leases().create(leases::CreateRequest { id: "by-label".into(), labels: by_label }).await.unwrap();
    clients.with_lease("old").put("g", b"gone", &[]).await.unwrap();
    let expired = images::Image { labels: past, ..image("expired", b"kept") };
    let create = images::CreateImageRequest { image: Some(expired), source_date_epoch: None };
    clients.images().create(create).await.unwrap();
    clients.collect().await;
    let mut expected = [kept, labelled];
    expected.sort();
    assert_eq!(clients.digests().await, expected);
    let listed = clients.leases().list(leases::ListRequest::default()).await.unwrap().into_inner().leases;
    assert_eq!(listed.iter().map(|lease| lease.id.as_str()).collect::<Vec<_>>(), ["by-label", "new"]);
    assert!(
        clients
            .images()
            .list(images::ListImagesRequest::default())
            .await
            .unwrap()
            .into_inner()
            .images
            .is_empty()
    );
    assert_eq!(events.message().await.unwrap().unwrap().topic, "/images/create");
    assert_eq!(events.message().await.unwrap().unwrap().topic, "/images/delete");
}

#[tokio::test]
async fn lease_resources_are_added_listed_and_let_go() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    let random =
        clients.leases().create(leases::CreateRequest::default()).await.unwrap().into_inner().lease.unwrap();
    assert!(!random.id.is_empty());
    let create = || leases::CreateRequest { id: "l".into(), ..Default::default() };
    clients.leases().create(create()).await.unwrap();
    assert_eq!(code(clients.leases().create(create()).await), Code::AlreadyExists);
    let add = |kind: &str, id: &str| leases::AddResourceRequest {
        id: "l".into(),
        resource: Some(leases::Resource { id: id.into(), r#type: kind.into() }),
    };
    let blob = clients.put("r", b"data", &[]).await.unwrap();
    for (kind, id) in
        [("content", blob.as_str()), ("snapshots/overlayfs", "s"), ("ingests", "i"), ("images", "n")]
    {
        clients.leases().add_resource(add(kind, id)).await.unwrap();
    }
    assert_eq!(code(clients.leases().add_resource(add("content", "x")).await), Code::InvalidArgument);
    assert_eq!(code(clients.leases().add_resource(add("snapshots", "x")).await), Code::InvalidArgument);
    assert_eq!(code(clients.leases().add_resource(add("planets", "x")).await), Code::Unimplemented);
    let list = || leases::ListResourcesRequest { id: "l".into() };
    assert_eq!(clients.leases().list_resources(list()).await.unwrap().into_inner().resources.len(), 4);
    clients.collect().await;
    assert_eq!(clients.digests().await.len(), 1);
    let remove = leases::DeleteResourceRequest { id: "l".into(), resource: add("content", &blob).resource };
    clients.leases().delete_resource(remove).await.unwrap();
    clients.collect().await;
    assert!(clients.digests().await.is_empty());
    clients.leases().delete(leases::DeleteRequest { id: "l".into(), sync: true }).await.unwrap();
    assert_eq!(code(clients.leases().list_resources(list()).await), Code::NotFound);
}

#[tokio::test]
async fn namespaces_have_labels_and_are_deleted_only_when_empty() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    let named = |name: &str, pairs: &[(&str, &str)]| {
        Some(namespaces::Namespace { name: name.into(), labels: labels(pairs) })
    };
    let create = |namespace| namespaces::CreateNamespaceRequest { namespace };
    clients.namespaces().create(create(named("n1", &[("a", "b")]))).await.unwrap();
    assert_eq!(code(clients.namespaces().create(create(named("n1", &[]))).await), Code::AlreadyExists);
    assert_eq!(code(clients.namespaces().create(create(named("n/1", &[]))).await), Code::InvalidArgument);
    let get = |name: &str| namespaces::GetNamespaceRequest { name: name.into() };
    let unknown = clients.namespaces().get(get("unknown")).await.unwrap().into_inner().namespace.unwrap();
    assert!(unknown.labels.is_empty());
    let update = namespaces::UpdateNamespaceRequest {
        namespace: named("n1", &[("c", "d")]),
        update_mask: mask(&["labels.a", "labels.c"]),
    };
    let updated = clients.namespaces().update(update).await.unwrap().into_inner().namespace.unwrap();
    assert_eq!(updated.labels, labels(&[("c", "d")]));
    // A label makes the namespace, as containerd's clients expect.
    let update = namespaces::UpdateNamespaceRequest {
        namespace: named("n0", &[("c", "d")]),
        update_mask: mask(&["labels.c"]),
    };
    clients.namespaces().update(update).await.unwrap();
    clients.in_namespace("n2").put("r", b"x", &[]).await.unwrap();
    let listed = clients.namespaces().list(namespaces::ListNamespacesRequest::default()).await.unwrap();
    let names: Vec<_> = listed.into_inner().namespaces.into_iter().map(|namespace| namespace.name).collect();
    assert_eq!(names, ["n0", "n1", "n2"]);
    let delete = |name: &str| namespaces::DeleteNamespaceRequest { name: name.into() };
    let refused = clients.namespaces().delete(delete("n2")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("blobs"), "{}", refused.message());
    clients.namespaces().delete(delete("n1")).await.unwrap();
    assert_eq!(code(clients.namespaces().delete(delete("n1")).await), Code::NotFound);
}

#[tokio::test]
async fn events_arrive_in_order_and_by_filter() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    let subscribe = |filters: &[&str]| events::SubscribeRequest {
        filters: filters.iter().map(|filter| (*filter).to_owned()).collect(),
    };
    // As dockerd asks.
    let mut tasks = clients
        .events()
        .subscribe(subscribe(&["namespace==test,topic~=|^/tasks/|"]))
        .await
        .unwrap()
        .into_inner();
    let mut one = clients.events().subscribe(subscribe(&["event.id==c2"])).await.unwrap().into_inner();
    create(&clients, container("c1")).await.unwrap();
    create(&clients, container("c2")).await.unwrap();
    let publish = |topic: &str| events::PublishRequest { topic: topic.into(), event: any("x.Y", b"z") };
    clients.events().publish(publish("/tasks/custom")).await.unwrap();
    assert_eq!(code(clients.events().publish(publish("tasks")).await), Code::InvalidArgument);
    assert_eq!(
        code(clients.in_namespace("").events().publish(publish("/a")).await),
        Code::FailedPrecondition
    );
    let first = tasks.message().await.unwrap().unwrap();
    assert_eq!((first.topic.as_str(), first.namespace.as_str()), ("/tasks/custom", "test"));
    let made = one.message().await.unwrap().unwrap();
    assert_eq!(made.topic, "/containers/create");
    assert_eq!(made.event.unwrap().type_url, "containerd.events.ContainerCreate");
    let envelope = longshore_proto::containerd::types::Envelope {
        timestamp: Some(prost_types::Timestamp { seconds: 5, nanos: 0 }),
        namespace: "test".into(),
        topic: "/tasks/forwarded".into(),
        event: any("x.Y", b""),
    };
    let forward = |envelope| events::ForwardRequest { envelope: Some(envelope) };
    clients.events().forward(forward(envelope.clone())).await.unwrap();
    assert_eq!(tasks.message().await.unwrap().unwrap().timestamp.unwrap().seconds, 5);
    let nowhere = longshore_proto::containerd::types::Envelope { namespace: String::new(), ..envelope };
    assert_eq!(code(clients.events().forward(forward(nowhere)).await), Code::InvalidArgument);
    assert_eq!(code(clients.events().subscribe(subscribe(&["topic=="])).await), Code::InvalidArgument);
}

#[tokio::test]
async fn a_blob_that_is_referred_to_during_collections_is_never_lost() {
    let daemon = Daemon::with_config("[gc]\ndelay_ms = 1");
    let clients = daemon.clients().await;
    clients.leases().create(leases::CreateRequest { id: "work".into(), ..Default::default() }).await.unwrap();
    let collector = {
        let clients = clients.clone();
        tokio::spawn(async move {
            for _ in 0..60 {
                clients.collect().await;
            }
        })
    };
    let held = clients.with_lease("work");
    let mut made = 0;
    while !collector.is_finished() {
        let data = format!("manifest {made}");
        let name = held.put(&format!("r{made}"), data.as_bytes(), &[]).await.unwrap();
        let request = images::CreateImageRequest {
            image: Some(image(&format!("i:{made}"), data.as_bytes())),
            source_date_epoch: None,
        };
        clients.images().create(request).await.unwrap();
        let remove = leases::DeleteResourceRequest {
            id: "work".into(),
            resource: Some(leases::Resource { id: name, r#type: "content".into() }),
        };
        clients.leases().delete_resource(remove).await.unwrap();
        made += 1;
    }
    collector.await.unwrap();
    for i in 0..made {
        let data = format!("manifest {i}");
        assert_eq!(clients.get(&digest(data.as_bytes())).await.unwrap(), data.as_bytes(), "{i} of {made}");
    }
}
