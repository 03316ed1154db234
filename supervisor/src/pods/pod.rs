//! One pod as the daemon knows it.

use std::sync::{Arc, Mutex, PoisonError};

use super::Pods;
use super::record::{self, PodRecord, PodState};
use crate::any::Any;
use crate::containers::Runtime;
use crate::error::Result;
use crate::sandboxes::{Sandbox, SandboxRecord};

pub struct Pod {
    pub id: String,
    /// Held by whoever changes it: stops, removes, makes containers in it.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    record: Mutex<PodRecord>,
}

impl Pod {
    pub(super) fn new(id: String, record: PodRecord) -> Arc<Pod> {
        Arc::new(Pod { id, turn: Arc::default(), record: Mutex::new(record) })
    }

    pub fn read<T>(&self, look: impl FnOnce(&PodRecord) -> T) -> T {
        look(&self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn record(&self) -> PodRecord {
        self.read(PodRecord::clone)
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut PodRecord) -> T) -> T {
        change(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn is_ready(&self) -> bool {
        self.state() == PodState::Ready
    }

    pub(super) fn state(&self) -> PodState {
        self.read(|record| record.state)
    }

    /// As containerd's clients see it.
    fn sandbox(&self) -> Result<Sandbox> {
        let record = self.record();
        let extension: Any = record::pack(record::POD, &self.id, &record)?;
        Ok(Sandbox {
            id: self.id.clone(),
            record: SandboxRecord {
                labels: super::container::store_labels(&record.config.labels, "sandbox"),
                runtime: Runtime { name: crate::engine::RUNTIME.to_owned(), options: None },
                spec: None,
                extensions: [(record::POD.to_owned(), extension)].into(),
                sandboxer: "longshore.pods".to_owned(),
                created_at: record.created_at,
                updated_at: record.created_at,
            },
        })
    }
}

impl Pods {
    /// Keeps a new pod; durable when it returns.
    pub(super) async fn keep_pod(&self, pod: &Pod) -> Result<()> {
        self.sandboxes.create(&self.namespace, pod.sandbox()?).await.map(drop)
    }

    /// Keeps a pod's changes; durable when it returns.
    pub(super) async fn save_pod(&self, pod: &Pod) -> Result<()> {
        let fields = [format!("extensions.{}", record::POD)];
        self.sandboxes.update(&self.namespace, pod.sandbox()?, &fields).await.map(drop)
    }
}
