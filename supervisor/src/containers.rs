//! Container records: what a container is made from. Whether it runs is the task manager's knowledge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use longshore_proto::containerd::events;
use serde::{Deserialize, Serialize};

use crate::any::Any;
use crate::error::{Error, Result};
use crate::events::EventBus;
use crate::filters::{self, Adaptor, Filter};
use crate::labels::{self, Labels, to_hash};
use crate::metadata::{Db, Reader, Tx, tables};
use crate::namespaces::{self, Namespace, check_identifier};
use crate::restart::policy;

mod message;

/// The runtime that runs a container, and its options.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Any>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    #[serde(default)]
    pub image: String,
    pub runtime: Runtime,
    #[serde(default)]
    pub spec: Option<Any>,
    #[serde(default)]
    pub snapshotter: String,
    #[serde(default)]
    pub snapshot_key: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, Any>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub labels: Labels,
    pub image: String,
    pub runtime: Runtime,
    pub spec: Option<Any>,
    pub snapshotter: String,
    pub snapshot_key: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub extensions: BTreeMap<String, Any>,
    pub sandbox_id: String,
}

impl Container {
    /// A container of this id and runtime; the times are now, the rest is empty.
    pub fn new(id: impl Into<String>, runtime: Runtime) -> Self {
        let now = Timestamp::now();
        Self {
            id: id.into(),
            labels: Labels::new(),
            image: String::new(),
            runtime,
            spec: None,
            snapshotter: String::new(),
            snapshot_key: String::new(),
            created_at: now,
            updated_at: now,
            extensions: BTreeMap::new(),
            sandbox_id: String::new(),
        }
    }

    fn from_record(id: String, record: ContainerRecord) -> Self {
        Self {
            id,
            labels: record.labels,
            image: record.image,
            runtime: record.runtime,
            spec: record.spec,
            snapshotter: record.snapshotter,
            snapshot_key: record.snapshot_key,
            created_at: record.created_at,
            updated_at: record.updated_at,
            extensions: record.extensions,
            sandbox_id: record.sandbox_id,
        }
    }

    fn to_record(&self) -> ContainerRecord {
        self.clone().into_record()
    }

    pub fn into_record(self) -> ContainerRecord {
        ContainerRecord {
            labels: self.labels,
            image: self.image,
            runtime: self.runtime,
            spec: self.spec,
            snapshotter: self.snapshotter,
            snapshot_key: self.snapshot_key,
            created_at: self.created_at,
            updated_at: self.updated_at,
            extensions: self.extensions,
            sandbox_id: self.sandbox_id,
        }
    }
}

impl Adaptor for Container {
    fn field(&self, path: &[&str]) -> Option<String> {
        let present = |value: &str| (!value.is_empty()).then(|| value.to_owned());
        match path {
            ["id"] => present(&self.id),
            ["image"] => present(&self.image),
            ["runtime", "name"] => present(&self.runtime.name),
            ["snapshotter"] => present(&self.snapshotter),
            ["snapshotkey"] => present(&self.snapshot_key),
            ["sandboxid"] => present(&self.sandbox_id),
            ["labels", key @ ..] => filters::label(&self.labels, key),
            _ => None,
        }
    }
}

pub struct ContainerStore {
    db: Arc<Db>,
    events: Arc<EventBus>,
    /// Whether there may be a container that the restart monitor is to look after.
    restarts: AtomicBool,
}

impl ContainerStore {
    pub fn new(db: Arc<Db>, events: Arc<EventBus>) -> Self {
        Self { db, events, restarts: AtomicBool::new(true) }
    }

    /// Whether the restart monitor has anything to look for; from now on it has not, until somebody says so.
    pub fn take_restarts(&self) -> bool {
        self.restarts.swap(false, Ordering::Relaxed)
    }

    /// Says that there is a container for the restart monitor.
    pub fn note_restarts(&self) {
        self.restarts.store(true, Ordering::Relaxed);
    }

    fn note(&self, labels: &Labels) {
        if labels.contains_key(policy::STATUS) {
            self.note_restarts();
        }
    }

    pub fn get(&self, namespace: &Namespace, id: &str) -> Result<Container> {
        self.db
            .get(&tables::CONTAINERS, namespace, id)?
            .map(|record| Container::from_record(id.to_owned(), record))
            .ok_or_else(|| Error::not_found("container", id))
    }

    pub fn list(&self, namespace: &Namespace, filter: &Filter) -> Result<Vec<Container>> {
        let rows = self.db.list(&tables::CONTAINERS, namespace)?;
        let containers = rows.into_iter().map(|row| Container::from_record(row.key, row.record));
        Ok(containers.filter(|container| filter.matches(container)).collect())
    }

    /// As [`Self::get`]: the message that clients are sent.
    pub fn message(&self, namespace: &Namespace, id: &str) -> Result<Vec<u8>> {
        let message = self.db.message(&tables::CONTAINERS, namespace, id)?;
        message.ok_or_else(|| Error::not_found("container", id))
    }

    /// Up to `max` containers in the order of their ids, from the first after `after` on: ids, and messages that clients are sent.
    pub fn messages(
        &self,
        namespace: &Namespace,
        after: Option<&str>,
        max: usize,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        self.db.messages(&tables::CONTAINERS, namespace, after, max)
    }

    /// Whether a container's message is one that matches.
    pub fn matches(&self, filter: &Filter, id: &str, message: &[u8]) -> Result<bool> {
        let unreadable = |source| Error::Record { table: "containers", key: id.to_owned(), source };
        Ok(filter.is_everything() || filter.matches(&Container::kept(message).map_err(unreadable)?))
    }

    /// Stores a new container; its times are set to now.
    pub async fn create(&self, namespace: &Namespace, mut container: Container) -> Result<Container> {
        container.created_at = Timestamp::now();
        container.updated_at = container.created_at;
        settle(&mut container)?;
        self.db.write(|tx| create(tx, namespace, &container)).await?;
        self.created(namespace, &container);
        Ok(container)
    }

    /// Publishes that a container was created: for those who called [`create`] in a batch of their own.
    pub fn created(&self, namespace: &Namespace, container: &Container) {
        self.note(&container.labels);
        let event = events::ContainerCreate {
            id: container.id.clone(),
            image: container.image.clone(),
            runtime: Some(events::container_create::Runtime {
                name: container.runtime.name.clone(),
                options: container.runtime.options.clone().map(Into::into),
            }),
        };
        self.events.publish_message(
            namespace,
            "/containers/create",
            "containerd.events.ContainerCreate",
            &event,
        );
    }

    /// Changes what `mask` names (`labels[.KEY]`, `spec`, `extensions[.KEY]`, `image`, `snapshotkey`); all of these if
    /// it is empty.
    pub async fn update(
        &self,
        namespace: &Namespace,
        changed: Container,
        mask: &[String],
    ) -> Result<Container> {
        let container = self
            .db
            .write(|tx| {
                let record = tx
                    .get(&tables::CONTAINERS, namespace, &changed.id)?
                    .ok_or_else(|| Error::not_found("container", &changed.id))?;
                let mut container = Container::from_record(changed.id.clone(), record);
                apply_mask(&mut container, &changed, mask)?;
                settle(&mut container)?;
                container.updated_at = Timestamp::now();
                tx.put(&tables::CONTAINERS, namespace, &container.id, &container.to_record())?;
                Ok(container)
            })
            .await?;
        self.updated(namespace, &container);
        Ok(container)
    }

    /// Changes a container by a function: for the daemon's own parts.
    pub async fn modify(
        &self,
        namespace: &Namespace,
        id: &str,
        change: impl FnOnce(&mut Container) -> Result<()>,
    ) -> Result<Container> {
        let container = self.db.write(|tx| modify(tx, namespace, id, change)).await?;
        self.updated(namespace, &container);
        Ok(container)
    }

    fn updated(&self, namespace: &Namespace, container: &Container) {
        self.note(&container.labels);
        let event = events::ContainerUpdate {
            id: container.id.clone(),
            image: container.image.clone(),
            labels: to_hash(&container.labels),
            snapshot_key: container.snapshot_key.clone(),
        };
        self.events.publish_message(
            namespace,
            "/containers/update",
            "containerd.events.ContainerUpdate",
            &event,
        );
    }

    pub async fn delete(&self, namespace: &Namespace, id: &str) -> Result<()> {
        self.db.write(|tx| delete(tx, namespace, id)).await?;
        self.deleted(namespace, id);
        Ok(())
    }

    /// Publishes that a container was deleted: for those who called [`delete`] in a batch of their own.
    pub fn deleted(&self, namespace: &Namespace, id: &str) {
        let event = events::ContainerDelete { id: id.to_owned() };
        self.events.publish_message(
            namespace,
            "/containers/delete",
            "containerd.events.ContainerDelete",
            &event,
        );
    }
}

/// Creates a container within a batch.
pub fn create(tx: &mut Tx<'_>, namespace: &Namespace, container: &Container) -> Result<()> {
    check(container)?;
    if tx.contains(&tables::CONTAINERS, namespace, &container.id)? {
        return Err(Error::already_exists("container", &container.id));
    }
    namespaces::ensure(tx, namespace)?;
    tx.put(&tables::CONTAINERS, namespace, &container.id, &container.to_record())
}

/// Changes a container within a batch.
pub fn modify(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    id: &str,
    change: impl FnOnce(&mut Container) -> Result<()>,
) -> Result<Container> {
    let record =
        tx.get(&tables::CONTAINERS, namespace, id)?.ok_or_else(|| Error::not_found("container", id))?;
    let mut container = Container::from_record(id.to_owned(), record);
    change(&mut container)?;
    container.updated_at = Timestamp::now();
    check(&container)?;
    tx.put(&tables::CONTAINERS, namespace, id, &container.to_record())?;
    Ok(container)
}

/// Deletes a container's record within a batch.
pub fn delete(tx: &mut Tx<'_>, namespace: &Namespace, id: &str) -> Result<()> {
    if tx.delete(&tables::CONTAINERS, namespace, id)? {
        Ok(())
    } else {
        Err(Error::not_found("container", id))
    }
}

/// Drops what is empty, and refuses what no container can be.
fn settle(container: &mut Container) -> Result<()> {
    labels::settle(&mut container.labels)?;
    check(container)
}

/// Refuses what no container's record can be.
pub fn check(container: &Container) -> Result<()> {
    check_identifier("container", &container.id)?;
    let refuse = |why: &str| Err(Error::invalid(format!("container \"{}\"", container.id), why));
    labels::check(&container.labels)?;
    if container.runtime.name.is_empty() {
        return refuse("has no runtime name");
    }
    if container.spec.is_none() {
        return refuse("has no spec");
    }
    if !container.snapshot_key.is_empty() && container.snapshotter.is_empty() {
        return refuse("has a snapshot key but no snapshotter");
    }
    if container.extensions.iter().any(|(key, value)| key.is_empty() || value.type_url.is_empty()) {
        return refuse("has an extension without key or type");
    }
    Ok(())
}

fn apply_mask(container: &mut Container, changed: &Container, mask: &[String]) -> Result<()> {
    let immutable = |field: &str| {
        Error::invalid(format!("container \"{}\"", changed.id), format!("its {field} cannot be changed"))
    };
    if mask.is_empty() {
        if changed.snapshotter != container.snapshotter {
            return Err(immutable("snapshotter"));
        }
        if changed.runtime.name != container.runtime.name {
            return Err(immutable("runtime"));
        }
        let all = ["labels", "spec", "extensions", "image", "snapshotkey"].map(str::to_owned);
        return apply_mask(container, changed, &all);
    }
    for path in mask {
        if let Some(key) = path.strip_prefix("labels.") {
            labels::set(&mut container.labels, key, &changed.labels);
        } else if let Some(key) = path.strip_prefix("extensions.") {
            match changed.extensions.get(key) {
                Some(value) => container.extensions.insert(key.to_owned(), value.clone()),
                None => container.extensions.remove(key),
            };
        } else {
            match path.as_str() {
                "labels" => container.labels.clone_from(&changed.labels),
                "spec" => container.spec.clone_from(&changed.spec),
                "extensions" => container.extensions.clone_from(&changed.extensions),
                "image" => container.image.clone_from(&changed.image),
                "snapshotkey" | "snapshot_key" => container.snapshot_key.clone_from(&changed.snapshot_key),
                _ => return Err(immutable(&format!("field {path:?}"))),
            }
        }
    }
    Ok(())
}
