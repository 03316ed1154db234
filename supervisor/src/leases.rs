//! Leases: what a client or a pull is working on, kept from the collector until it says that it is done, or expires.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::content::Digest;
use crate::error::{Error, Result};
use crate::filters::{self, Adaptor, Filter};
use crate::labels::{self, Labels};
use crate::metadata::{Db, Reader, Tx, tables};
use crate::namespaces::{self, Namespace, check_identifier};

/// The label with the time (RFC 3339) from which on a lease or an image no longer keeps anything.
pub const EXPIRE: &str = "containerd.io/gc.expire";
/// Joins the parts of a resource's key.
const SEPARATOR: char = '\x1f';

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: String,
    pub created_at: Timestamp,
    pub labels: Labels,
}

impl Lease {
    fn new(id: &str, record: LeaseRecord) -> Self {
        Self { id: id.to_owned(), created_at: record.created_at, labels: record.labels }
    }
}

impl Adaptor for Lease {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["id"] => Some(self.id.clone()),
            ["labels", key @ ..] => filters::label(&self.labels, key),
            _ => None,
        }
    }
}

/// What a lease can hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    Content(Digest),
    Snapshot {
        snapshotter: String,
        key: String,
    },
    /// By its reference.
    Ingest(String),
    Image(String),
}

impl Resource {
    /// From the wire's form: `content`, `snapshots/NAME`, `ingests` or `images`, and the id.
    pub fn parse(kind: &str, id: &str) -> Result<Self> {
        if id.is_empty() || id.contains(['\0', SEPARATOR]) {
            return Err(Error::invalid(format!("lease resource of type {kind:?}"), "has no usable id"));
        }
        match kind.split_once('/') {
            None if kind == "content" => Ok(Self::Content(Digest::parse(id)?)),
            None if kind == "ingests" => Ok(Self::Ingest(id.to_owned())),
            None if kind == "images" => Ok(Self::Image(id.to_owned())),
            Some(("snapshots", snapshotter)) => {
                check_identifier("snapshotter", snapshotter)?;
                Ok(Self::Snapshot { snapshotter: snapshotter.to_owned(), key: id.to_owned() })
            }
            None if kind == "snapshots" => Err(Error::invalid(
                "lease resource type \"snapshots\"",
                "names no snapshotter: snapshots/NAME",
            )),
            _ => Err(Error::Unimplemented { what: format!("lease resource type {kind:?}") }),
        }
    }

    pub fn kind(&self) -> String {
        match self {
            Self::Content(_) => "content".into(),
            Self::Snapshot { snapshotter, .. } => format!("snapshots/{snapshotter}"),
            Self::Ingest(_) => "ingests".into(),
            Self::Image(_) => "images".into(),
        }
    }

    pub fn id(&self) -> &str {
        match self {
            Self::Content(digest) => digest.as_str(),
            Self::Snapshot { key, .. } => key,
            Self::Ingest(id) | Self::Image(id) => id,
        }
    }
}

pub struct Leases {
    db: Arc<Db>,
}

impl Leases {
    pub fn new(db: Arc<Db>) -> Self {
        Self { db }
    }

    /// Creates a lease; without `id` a random one, without `expire` one that lives until it is deleted.
    pub async fn create(
        &self,
        namespace: &Namespace,
        id: Option<&str>,
        mut labels: Labels,
        expire: Option<Timestamp>,
    ) -> Result<Lease> {
        let id = id.map_or_else(random_id, str::to_owned);
        check_id(&id)?;
        if let Some(expire) = expire {
            labels.insert(EXPIRE.to_owned(), expire.to_string());
        }
        labels::settle(&mut labels)?;
        let record = LeaseRecord { created_at: Timestamp::now(), labels };
        self.db
            .write(|tx| {
                if tx.contains(&tables::LEASES, namespace, &id)? {
                    return Err(Error::already_exists("lease", &id));
                }
                namespaces::ensure(tx, namespace)?;
                tx.put(&tables::LEASES, namespace, &id, &record)
            })
            .await?;
        Ok(Lease::new(&id, record))
    }

    /// Deletes a lease; what it held is left to the collector.
    pub async fn delete(&self, namespace: &Namespace, id: &str) -> Result<()> {
        self.db.write(|tx| delete(tx, namespace, id)).await
    }

    pub fn list(&self, namespace: &Namespace, filter: &Filter) -> Result<Vec<Lease>> {
        let rows = self.db.list(&tables::LEASES, namespace)?;
        let leases = rows.into_iter().map(|row| Lease::new(&row.key, row.record));
        Ok(leases.filter(|lease| filter.matches(lease)).collect())
    }

    pub async fn add(&self, namespace: &Namespace, id: &str, resource: &Resource) -> Result<()> {
        self.db.write(|tx| hold(tx, namespace, id, resource)).await
    }

    /// Lets go of a resource; one that is not held is not an error.
    pub async fn remove(&self, namespace: &Namespace, id: &str, resource: &Resource) -> Result<()> {
        self.db
            .write(|tx| {
                exists(tx, namespace, id)?;
                tx.delete(&tables::LEASE_RESOURCES, namespace, &key(id, resource)).map(drop)
            })
            .await
    }

    pub fn resources(&self, namespace: &Namespace, id: &str) -> Result<Vec<Resource>> {
        exists(&*self.db, namespace, id)?;
        let rows = self.db.list_prefix(&tables::LEASE_RESOURCES, namespace, &format!("{id}{SEPARATOR}"))?;
        Ok(rows.iter().filter_map(|row| split(&row.key)).map(|(_, resource)| resource).collect())
    }
}

/// Attaches a resource to a lease within a batch: what every request with a lease header does for what it makes.
pub fn hold(tx: &mut Tx<'_>, namespace: &Namespace, id: &str, resource: &Resource) -> Result<()> {
    exists(tx, namespace, id)?;
    tx.put(&tables::LEASE_RESOURCES, namespace, &key(id, resource), &())
}

/// Lets go of a resource within a batch.
pub fn release(tx: &mut Tx<'_>, namespace: &Namespace, id: &str, resource: &Resource) -> Result<()> {
    tx.delete(&tables::LEASE_RESOURCES, namespace, &key(id, resource)).map(drop)
}

/// Deletes a lease within a batch.
pub fn delete(tx: &mut Tx<'_>, namespace: &Namespace, id: &str) -> Result<()> {
    if !tx.delete(&tables::LEASES, namespace, id)? {
        return Err(Error::not_found("lease", id));
    }
    for row in tx.list_prefix(&tables::LEASE_RESOURCES, namespace, &format!("{id}{SEPARATOR}"))? {
        tx.delete(&tables::LEASE_RESOURCES, namespace, &row.key)?;
    }
    Ok(())
}

/// The lease's id and the resource in a key of [`tables::LEASE_RESOURCES`].
pub fn split(key: &str) -> Option<(&str, Resource)> {
    let (lease, rest) = key.split_once(SEPARATOR)?;
    let (kind, id) = rest.split_once(SEPARATOR)?;
    Some((lease, Resource::parse(kind, id).ok()?))
}

fn key(id: &str, resource: &Resource) -> String {
    format!("{id}{SEPARATOR}{}{SEPARATOR}{}", resource.kind(), resource.id())
}

fn exists(reader: &impl Reader, namespace: &Namespace, id: &str) -> Result<()> {
    if reader.contains(&tables::LEASES, namespace, id)? { Ok(()) } else { Err(Error::not_found("lease", id)) }
}

/// Lease ids are freer than identifiers: some clients put digests and references in them.
fn check_id(id: &str) -> Result<()> {
    if id.is_empty() || id.len() > 256 || id.contains(|c: char| c.is_control()) {
        return Err(Error::invalid("lease id", "must be 1 to 256 bytes without control characters"));
    }
    Ok(())
}

fn random_id() -> String {
    crate::hex::encode(&rand::random::<[u8; 16]>())
}
