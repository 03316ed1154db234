//! One container of a pod as the daemon knows it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::Pods;
use super::config::Map;
use super::record::{self, ContainerRecord, State};
use crate::any::Any;
use crate::containers::{self, Runtime};
use crate::error::Result;
use crate::labels::Labels;

/// The type URL of a container's specification.
const SPEC_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

pub struct Container {
    pub id: String,
    pub pod: String,
    /// What it is run by, as JSON.
    pub spec: Bytes,
    /// Held by whoever changes it.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    record: Mutex<ContainerRecord>,
    /// Told when it has ended.
    pub(super) ended: tokio::sync::watch::Sender<bool>,
}

impl Container {
    pub(super) fn new(id: String, spec: Bytes, record: ContainerRecord) -> Arc<Container> {
        let ended = tokio::sync::watch::Sender::new(record.state == State::Exited);
        let pod = record.pod.clone();
        Arc::new(Container { id, pod, spec, turn: Arc::default(), record: Mutex::new(record), ended })
    }

    pub fn read<T>(&self, look: impl FnOnce(&ContainerRecord) -> T) -> T {
        look(&self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn record(&self) -> ContainerRecord {
        self.read(ContainerRecord::clone)
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut ContainerRecord) -> T) -> T {
        change(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn state(&self) -> State {
        self.read(|record| record.state)
    }

    /// As containerd's clients see it.
    fn stored(&self, snapshotter: &str) -> Result<containers::Container> {
        let record = self.record();
        let runtime = Runtime { name: crate::engine::RUNTIME.to_owned(), options: None };
        let mut stored = containers::Container::new(&self.id, runtime);
        stored.labels = store_labels(&record.config.labels, "container");
        stored.image.clone_from(&record.image_ref);
        stored.spec = Some(Any::new(SPEC_URL, self.spec.clone()));
        snapshotter.clone_into(&mut stored.snapshotter);
        stored.snapshot_key.clone_from(&self.id);
        stored.sandbox_id.clone_from(&self.pod);
        let extension = record::pack(record::CONTAINER, &self.id, &record)?;
        stored.extensions.insert(record::CONTAINER.to_owned(), extension);
        Ok(stored)
    }
}

/// Those that containerd's store takes, and what its clients tell pods' records by.
pub(super) fn store_labels(labels: &Map, kind: &str) -> Labels {
    let mut all = crate::engine::record::labels_for_containerd(labels);
    all.insert("io.cri-containerd.kind".to_owned(), kind.to_owned());
    all
}

impl Pods {
    /// Keeps a new container; durable when it returns.
    pub(super) async fn keep_container(&self, container: &Container, snapshotter: &str) -> Result<()> {
        self.containers.create(&self.namespace, container.stored(snapshotter)?).await.map(drop)
    }

    /// Keeps a container's changes; durable when it returns.
    pub(super) async fn save_container(&self, container: &Container) -> Result<()> {
        let extension = record::pack(record::CONTAINER, &container.id, &container.record())?;
        let change = |stored: &mut containers::Container| {
            stored.extensions.insert(record::CONTAINER.to_owned(), extension);
            Ok(())
        };
        self.containers.modify(&self.namespace, &container.id, change).await.map(drop)
    }
}
