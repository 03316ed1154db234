//! The sandbox store: records, their filters and updates, and what their labels keep.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;

use common::{Clients, Daemon, code};
use longshore_proto::containerd::services::namespaces::v1::DeleteNamespaceRequest;
use longshore_proto::containerd::services::sandbox::v1 as wire;
use longshore_proto::containerd::types::{Sandbox, sandbox::Runtime};
use prost_types::Any;
use tonic::Code;

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn any(value: &str) -> Any {
    Any { type_url: "t".into(), value: value.into() }
}

fn sandbox(id: &str) -> Sandbox {
    Sandbox {
        sandbox_id: id.into(),
        runtime: Some(Runtime { name: "io.containerd.runc.v2".into(), options: Some(any("options")) }),
        spec: Some(any("spec")),
        labels: labels(&[("app", "web"), ("empty", "")]),
        extensions: [("e".to_owned(), any("extension"))].into(),
        sandboxer: "shim".into(),
        ..Default::default()
    }
}

async fn create(clients: &Clients, sandbox: Sandbox) -> Result<Sandbox, tonic::Status> {
    let request = wire::StoreCreateRequest { sandbox: Some(sandbox) };
    Ok(clients.sandboxes().create(request).await?.into_inner().sandbox.unwrap())
}

async fn update(clients: &Clients, sandbox: Sandbox, fields: &[&str]) -> Result<Sandbox, tonic::Status> {
    let fields = fields.iter().map(|field| (*field).to_owned()).collect();
    let request = wire::StoreUpdateRequest { sandbox: Some(sandbox), fields };
    Ok(clients.sandboxes().update(request).await?.into_inner().sandbox.unwrap())
}

async fn get(clients: &Clients, id: &str) -> Result<Sandbox, tonic::Status> {
    let request = wire::StoreGetRequest { sandbox_id: id.into() };
    Ok(clients.sandboxes().get(request).await?.into_inner().sandbox.unwrap())
}

async fn list(clients: &Clients, filters: &[&str]) -> Vec<String> {
    let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let listed =
        clients.sandboxes().list(wire::StoreListRequest { filters }).await.unwrap().into_inner().list;
    listed.into_iter().map(|sandbox| sandbox.sandbox_id).collect()
}

#[tokio::test]
async fn sandbox_records_live_through_their_verbs() {
    let mut daemon = Daemon::start();
    let clients = daemon.clients().await;
    let made = create(&clients, sandbox("s1")).await.unwrap();
    assert_eq!(made.labels, labels(&[("app", "web")]));
    assert!(made.created_at.is_some() && made.created_at == made.updated_at);
    assert_eq!(code(create(&clients, sandbox("s1")).await), Code::AlreadyExists);
    for bad in ["", "a b", "../x", &"x".repeat(77)] {
        assert_eq!(code(create(&clients, sandbox(bad)).await), Code::InvalidArgument, "{bad}");
    }
    assert_eq!(
        code(clients.sandboxes().create(wire::StoreCreateRequest { sandbox: None }).await),
        Code::InvalidArgument
    );
    assert_eq!(code(create(&clients.in_namespace(""), sandbox("s1")).await), Code::FailedPrecondition);
    let other = clients.in_namespace("other");
    assert_eq!(code(get(&other, "s1").await), Code::NotFound);
    assert!(list(&other, &[]).await.is_empty());

    let mut changed = sandbox("s1");
    changed.labels = labels(&[("app", "db"), ("more", "x")]);
    changed.spec = Some(any("changed"));
    changed.extensions = [("f".to_owned(), any("new"))].into();
    let updated = update(&clients, changed.clone(), &["labels.app", "extensions.f"]).await.unwrap();
    assert_eq!(updated.labels, labels(&[("app", "db")]));
    assert_eq!((updated.extensions.len(), updated.spec.unwrap()), (2, any("spec")));
    assert_eq!(updated.created_at, made.created_at);
    let updated = update(&clients, changed.clone(), &[]).await.unwrap();
    assert_eq!(
        (updated.labels.len(), updated.extensions.len(), updated.spec.unwrap()),
        (2, 1, any("changed"))
    );
    for field in ["sandboxer", "id", "label"] {
        assert_eq!(code(update(&clients, changed.clone(), &[field]).await), Code::InvalidArgument, "{field}");
    }
    changed.runtime.as_mut().unwrap().name = "other".into();
    assert_eq!(code(update(&clients, changed.clone(), &[]).await), Code::InvalidArgument);
    assert_eq!(update(&clients, changed.clone(), &["runtime"]).await.unwrap().runtime.unwrap().name, "other");
    changed.sandbox_id = "missing".into();
    assert_eq!(code(update(&clients, changed, &[]).await), Code::NotFound);

    create(&clients, sandbox("s2")).await.unwrap();
    assert_eq!(list(&clients, &[]).await, ["s1", "s2"]);
    assert_eq!(list(&clients, &["labels.app==db"]).await, ["s1"]);
    assert_eq!(list(&clients, &["id==s2", "labels.app==db"]).await, ["s1", "s2"]);
    assert_eq!(list(&clients, &["id~=|2$|"]).await, ["s2"]);
    daemon.kill();
    daemon.restart();
    let clients = daemon.clients().await;
    assert_eq!(get(&clients, "s1").await.unwrap().sandboxer, "shim");

    let namespace = || DeleteNamespaceRequest { name: "test".into() };
    let refused = clients.namespaces().delete(namespace()).await.unwrap_err();
    assert!(refused.message().contains("sandboxes"), "{}", refused.message());
    let delete = |id: &str| wire::StoreDeleteRequest { sandbox_id: id.into() };
    for id in ["s1", "s2"] {
        clients.sandboxes().delete(delete(id)).await.unwrap();
    }
    assert_eq!(code(clients.sandboxes().delete(delete("s1")).await), Code::NotFound);
    clients.namespaces().delete(namespace()).await.unwrap();
}

#[tokio::test]
async fn what_a_sandboxs_labels_name_is_kept() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    let kept = clients.put("k", b"kept", &[]).await.unwrap();
    clients.put("l", b"lost", &[]).await.unwrap();
    let keeper = Sandbox { labels: labels(&[("containerd.io/gc.ref.content.x", &kept)]), ..sandbox("s") };
    create(&clients, keeper).await.unwrap();
    clients.collect().await;
    assert_eq!(clients.digests().await, [kept]);
    let delete = wire::StoreDeleteRequest { sandbox_id: "s".into() };
    clients.sandboxes().delete(delete).await.unwrap();
    clients.collect().await;
    assert!(clients.digests().await.is_empty());
}
