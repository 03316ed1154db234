//! Namespaces: the validated name that every record is kept under, and the records of their labels.
//!
//! What always holds: a namespace exists from the first object stored in it, and cannot be deleted
//! while it holds one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use longshore_proto::containerd::events;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::events::EventBus;
use crate::labels::{self, Labels, to_hash};
use crate::metadata::{Db, Reader, Tx, tables};

/// Longest identifier in bytes: namespaces, containers, execs, snapshotters.
pub const MAX_IDENTIFIER: usize = 76;

/// The name of a namespace: 1 to 76 characters of `[A-Za-z0-9]+([._-][A-Za-z0-9]+)*`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Namespace(Arc<str>);

impl Namespace {
    pub fn parse(name: &str) -> Result<Self> {
        check_identifier("namespace", name)?;
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Namespace {
    type Error = Error;
    fn try_from(name: String) -> Result<Self> {
        Self::parse(&name)
    }
}

impl From<Namespace> for String {
    fn from(namespace: Namespace) -> Self {
        namespace.0.as_ref().to_owned()
    }
}

/// Refuses what is no identifier: `[A-Za-z0-9]+([._-][A-Za-z0-9]+)*`, at most 76 bytes. `kind` names the
/// thing in the error.
pub fn check_identifier(kind: &'static str, name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid(format!("{kind} identifier"), "must not be empty"));
    }
    if name.len() > MAX_IDENTIFIER {
        return Err(Error::invalid(
            format!("{kind} identifier \"{name:.80}\""),
            format!("is {} characters long, the limit is {MAX_IDENTIFIER}", name.len()),
        ));
    }
    let well_formed = name.split(['.', '_', '-']).all(|part| !part.is_empty())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if !well_formed {
        return Err(Error::invalid(
            format!("{kind} identifier {name:?}"),
            "must be letters and digits, with single '.', '_' or '-' between them",
        ));
    }
    Ok(())
}

/// What is kept of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceRecord {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
}

/// A label of a namespace that says what is taken where a request names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preference {
    Runtime,
    Snapshotter,
}

impl Preference {
    fn label(self) -> &'static str {
        match self {
            Self::Runtime => "containerd.io/defaults/runtime",
            Self::Snapshotter => "containerd.io/defaults/snapshotter",
        }
    }
}

/// What the namespace's labels say is taken by default; `None` if they say nothing.
pub fn preferred(db: &Db, namespace: &Namespace, preference: Preference) -> Result<Option<String>> {
    let record = db.get(&tables::NAMESPACES, namespace, namespace.as_str())?;
    let value = record.and_then(|record| record.labels.get(preference.label()).cloned());
    Ok(value.filter(|value| !value.is_empty()))
}

/// The namespaces' records.
pub struct Namespaces {
    db: Arc<Db>,
    events: Arc<EventBus>,
}

impl Namespaces {
    pub fn new(db: Arc<Db>, events: Arc<EventBus>) -> Self {
        Self { db, events }
    }

    /// The labels; empty ones for a namespace that does not exist.
    pub fn get(&self, namespace: &Namespace) -> Result<NamespaceRecord> {
        Ok(self.db.get(&tables::NAMESPACES, namespace, namespace.as_str())?.unwrap_or_default())
    }

    pub fn list(&self) -> Result<Vec<(Namespace, NamespaceRecord)>> {
        Ok(self.db.scan(&tables::NAMESPACES)?.into_iter().map(|row| (row.namespace, row.record)).collect())
    }

    pub async fn create(&self, namespace: &Namespace, labels: Labels) -> Result<NamespaceRecord> {
        labels::check(&labels)?;
        let record = NamespaceRecord { labels };
        let name = namespace.as_str();
        self.db
            .write(|tx| {
                if tx.contains(&tables::NAMESPACES, namespace, name)? {
                    return Err(Error::already_exists("namespace", name));
                }
                tx.put(&tables::NAMESPACES, namespace, name, &record)
            })
            .await?;
        let event = events::NamespaceCreate { name: name.to_owned(), labels: to_hash(&record.labels) };
        self.events.publish_message(
            namespace,
            "/namespaces/create",
            "containerd.events.NamespaceCreate",
            &event,
        );
        Ok(record)
    }

    /// Changes the labels: those that `keys` names, or all of them. A namespace that does not exist is made, as by
    /// anything else that is stored in it.
    pub async fn update(
        &self,
        namespace: &Namespace,
        labels: Labels,
        keys: Option<&[String]>,
    ) -> Result<NamespaceRecord> {
        let name = namespace.as_str();
        let record = self
            .db
            .write(|tx| {
                let mut record = tx.get(&tables::NAMESPACES, namespace, name)?.unwrap_or_default();
                match keys {
                    None => record.labels = labels,
                    Some(keys) => keys.iter().for_each(|key| labels::set(&mut record.labels, key, &labels)),
                }
                labels::check(&record.labels)?;
                tx.put(&tables::NAMESPACES, namespace, name, &record)?;
                Ok(record)
            })
            .await?;
        let event = events::NamespaceUpdate { name: name.to_owned(), labels: to_hash(&record.labels) };
        self.events.publish_message(
            namespace,
            "/namespaces/update",
            "containerd.events.NamespaceUpdate",
            &event,
        );
        Ok(record)
    }

    /// Deletes an empty namespace, with its leases; one that holds anything else is refused, with what it holds.
    pub async fn delete(&self, namespace: &Namespace) -> Result<()> {
        let name = namespace.as_str();
        self.db
            .write(|tx| {
                if !tx.contains(&tables::NAMESPACES, namespace, name)? {
                    return Err(Error::not_found("namespace", name));
                }
                let held = held(tx, namespace)?;
                if !held.is_empty() {
                    return Err(Error::precondition(
                        format!("namespace \"{name}\""),
                        format!("must be empty, but it still has {}", held.join(", ")),
                    ));
                }
                // What only leases name is nothing to lose.
                for lease in tx.list::<serde::de::IgnoredAny>(&tables::LEASES.view(), namespace)? {
                    crate::leases::delete(tx, namespace, &lease.key)?;
                }
                tx.delete(&tables::NAMESPACES, namespace, name).map(drop)
            })
            .await?;
        let event = events::NamespaceDelete { name: name.to_owned() };
        self.events.publish_message(
            namespace,
            "/namespaces/delete",
            "containerd.events.NamespaceDelete",
            &event,
        );
        Ok(())
    }
}

/// Records that the namespace exists, as part of the batch that stores an object in it.
pub fn ensure(tx: &mut Tx<'_>, namespace: &Namespace) -> Result<()> {
    if tx.contains(&tables::NAMESPACES, namespace, namespace.as_str())? {
        return Ok(());
    }
    tx.put(&tables::NAMESPACES, namespace, namespace.as_str(), &NamespaceRecord::default())
}

fn held(tx: &Tx<'_>, namespace: &Namespace) -> Result<Vec<&'static str>> {
    let mut held = Vec::new();
    if tx.any(&tables::IMAGES, namespace)? {
        held.push("images");
    }
    if tx.any(&tables::BLOBS, namespace)? {
        held.push("blobs");
    }
    if tx.any(&tables::CONTAINERS, namespace)? {
        held.push("containers");
    }
    if tx.any(&tables::SANDBOXES, namespace)? {
        held.push("sandboxes");
    }
    Ok(held)
}
