//! Keeping containers: the record is written once as an extension of the container, the state, which changes with
//! every start and exit, beside it in a table of its own.

use std::collections::BTreeMap;

use crate::any::Any;
use crate::containers::{self, Container, Runtime};
use crate::error::{Error, Result};
use crate::metadata::{Reader, Tx, tables};

use super::config::Record;
use super::registry::Entry;
use super::{EXTENSION, Engine};

/// The type URL of a runtime specification.
const SPEC_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

impl Engine {
    /// The container record for a new container.
    pub(super) fn container(&self, id: &str, record: &Record, spec: bytes::Bytes) -> Result<Container> {
        let runtime = Runtime { name: self.runtime_for(&record.config.runtime)?, options: None };
        let mut container = Container::new(id, runtime);
        container.image.clone_from(&record.image_ref);
        container.labels = labels_for_containerd(&record.config.labels);
        container.spec = Some(Any::new(SPEC_URL, spec));
        container.snapshotter.clone_from(&record.snapshotter);
        id.clone_into(&mut container.snapshot_key);
        container.extensions.insert(EXTENSION.to_owned(), extension(record)?);
        Ok(container)
    }

    /// Puts a new container into a batch.
    pub(super) fn put_new(&self, tx: &mut Tx<'_>, container: &Container, record: &Record) -> Result<()> {
        containers::create(tx, &self.namespace, container)?;
        tx.put(&tables::ENGINE, &self.namespace, &container.id, &record.state)
    }

    /// Keeps the state; durable when it returns.
    pub(super) async fn save_state(&self, entry: &Entry) -> Result<()> {
        let state = entry.state();
        self.db.write(|tx| tx.put(&tables::ENGINE, &self.namespace, &entry.id, &state)).await
    }

    /// Keeps the state within half a second.
    pub(super) fn save_state_soon(&self, entry: &Entry) {
        let state = entry.state();
        let saved = self.db.write_lazy(|tx| {
            // A container that was removed meanwhile keeps nothing.
            if tx.contains(&tables::CONTAINERS, &self.namespace, &entry.id)? {
                tx.put(&tables::ENGINE, &self.namespace, &entry.id, &state)?;
            }
            Ok(())
        });
        if let Err(error) = saved {
            tracing::error!(container = %entry.id, %error, "the state of a container could not be kept");
        }
    }

    /// Keeps the whole record; durable when it returns.
    pub(super) async fn save_record(&self, entry: &Entry) -> Result<()> {
        let record = entry.record();
        let value = extension(&record)?;
        self.containers
            .modify(&self.namespace, &entry.id, |container| {
                container.extensions.insert(EXTENSION.to_owned(), value);
                Ok(())
            })
            .await?;
        Ok(())
    }

    /// Takes a container out of the metadata.
    pub(super) fn drop_record(&self, tx: &mut Tx<'_>, id: &str) -> Result<()> {
        match containers::delete(tx, &self.namespace, id) {
            Ok(()) => {}
            // A client of containerd's API was faster.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        tx.delete(&tables::ENGINE, &self.namespace, id)?;
        Ok(())
    }

    /// Reads a container back; `None` if it is not one of the engine's.
    pub(super) fn read_back(&self, container: &Container) -> Result<Option<Record>> {
        let Some(value) = container.extensions.get(EXTENSION) else { return Ok(None) };
        let mut record: Record = serde_json::from_slice(&value.value).map_err(|source| Error::Record {
            table: "containers",
            key: container.id.clone(),
            source: source.into(),
        })?;
        if let Some(state) = self.db.get(&tables::ENGINE, &self.namespace, &container.id)? {
            record.state = state;
        }
        Ok(Some(record))
    }
}

fn extension(record: &Record) -> Result<Any> {
    let json = serde_json::to_vec(record).map_err(|source| Error::Record {
        table: "containers",
        key: record.name.clone(),
        source: source.into(),
    })?;
    Ok(Any::new(EXTENSION, json))
}

/// The user's labels as containerd's clients see them: names that mean something to containerd are the daemon's to
/// give, and what is over containerd's limits stays in the engine's record only.
pub fn labels_for_containerd(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    labels
        .iter()
        .filter(|(key, value)| {
            let reserved = key.starts_with("containerd.io/") || key.starts_with("io.containerd.");
            !reserved && !key.is_empty() && key.len() + value.len() <= crate::labels::MAX_LABEL
        })
        .take(crate::labels::MAX_LABELS)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
