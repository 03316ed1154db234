//! The mount manager: mounts that a container's runtime cannot make by itself are made here, under a name, and are there until they are let
//! go of.
//!
//! What always holds: an activation's record is there before the first of its mounts and goes after the last; what a crash leaves of one
//! that was not finished is taken down at the next start, or by the next of that name. A file is removed only by `rmdir` and `unlink` of what
//! this module has made: never a tree that may be mounted.

mod activate;
mod borrow;
mod folder;
mod format;
mod loopback;
mod mkdir;
mod mkfs;
mod plan;
mod recover;
mod roots;
mod sys;
mod system;
pub mod table;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use activate::Wanted;
pub use plan::needs_activation;
pub use sys::{Reach, set_read_only};
pub use system::{filesystem, mount as mount_at, shifts_owners};

use crate::content::store::blocking;
use crate::error::{Error, Result};
use crate::filters::{self, Adaptor, Filter};
use crate::gc::MountSource;
use crate::labels::{self, Labels};
use crate::metadata::{Db, Reader, tables};
use crate::namespaces::Namespace;
use crate::snapshots::Mount;
use folder::Folder;
use roots::Roots;

/// Mounts of one activation.
const MAX_MOUNTS: usize = 255;
/// Longest name in bytes.
const MAX_NAME: usize = 1024;

/// A mount as it is kept in a record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMount {
    pub kind: String,
    pub source: String,
    pub target: String,
    pub options: Vec<String>,
}

impl From<Mount> for StoredMount {
    fn from(mount: Mount) -> Self {
        Self { kind: mount.kind, source: mount.source, target: mount.target, options: mount.options }
    }
}

impl From<StoredMount> for Mount {
    fn from(mount: StoredMount) -> Self {
        Self { kind: mount.kind, source: mount.source, target: mount.target, options: mount.options }
    }
}

/// A mount that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveMount {
    pub mount: StoredMount,
    pub mounted_at: Timestamp,
    /// Where it is; of a loop device, a link to it.
    pub mount_point: String,
}

/// What is kept of an activation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivationRecord {
    /// Of its folder; never used twice.
    pub id: u64,
    pub state: State,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// The lease that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    #[serde(default)]
    pub active: Vec<ActiveMount>,
    /// What is left to be mounted by the runtime.
    #[serde(default)]
    pub system: Vec<StoredMount>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not all of its mounts are there.
    Making,
    Active,
}

/// An activation with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    pub name: String,
    pub active: Vec<ActiveMount>,
    pub system: Vec<Mount>,
    pub labels: Labels,
}

impl Activation {
    fn new(name: &str, record: ActivationRecord) -> Self {
        let system = record.system.into_iter().map(Mount::from).collect();
        Self { name: name.to_owned(), active: record.active, system, labels: record.labels }
    }
}

impl Adaptor for Activation {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["name"] => Some(self.name.clone()),
            ["labels", key @ ..] => filters::label(&self.labels, key),
            _ => None,
        }
    }
}

impl MountSource for MountManager {
    fn remove_collected(&self, ids: &[u64]) -> Result<()> {
        ids.iter().map(|id| self.folder.take_down(*id)).fold(Ok(()), Result::and)
    }
}

/// Whoever holds it works on the name.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// All activations.
pub struct MountManager {
    db: Arc<Db>,
    folder: Folder,
    roots: Roots,
    next: AtomicU64,
    /// One at a time activates or deactivates a name.
    turns: Mutex<HashMap<(Namespace, String), Turn>>,
}

impl MountManager {
    /// Opens the folder below `state` and makes it and the records agree: after a crash, and after a reboot. `root` is where mounts may
    /// be prepared besides. Blocks.
    pub fn open(state: &Path, root: &Path, db: &Arc<Db>) -> Result<Arc<Self>> {
        let folder = Folder::open(&state.join("mounts"))?;
        let roots = Roots::open([folder.path(), root])?;
        let next = recover::run(db, &folder)?;
        let (db, turns) = (Arc::clone(db), Mutex::default());
        Ok(Arc::new(Self { db, folder, roots, next: AtomicU64::new(next), turns }))
    }

    pub fn info(&self, namespace: &Namespace, name: &str) -> Result<Activation> {
        let record = self.db.get(&tables::MOUNTS, namespace, name)?;
        let record = record.ok_or_else(|| Error::not_found("mount", name))?;
        Ok(Activation::new(name, record))
    }

    /// Activations of the namespace that match, by name.
    pub fn list(&self, namespace: &Namespace, filter: &Filter) -> Result<Vec<Activation>> {
        let rows = self.db.list(&tables::MOUNTS, namespace)?.into_iter();
        let all = rows.map(|row| Activation::new(&row.key, row.record));
        Ok(all.filter(|activation| filter.matches(activation)).collect())
    }

    /// Changes labels: those that `keys` names, or all of them.
    pub async fn update(
        &self,
        namespace: &Namespace,
        name: &str,
        labels: Labels,
        keys: Option<&[String]>,
    ) -> Result<Activation> {
        let record = self
            .db
            .write(|tx| {
                let mut record: ActivationRecord = tx
                    .get(&tables::MOUNTS, namespace, name)?
                    .ok_or_else(|| Error::not_found("mount", name))?;
                match keys {
                    None => record.labels = labels,
                    Some(keys) => keys.iter().for_each(|key| labels::set(&mut record.labels, key, &labels)),
                }
                labels::settle(&mut record.labels)?;
                tx.put(&tables::MOUNTS, namespace, name, &record)?;
                Ok(record)
            })
            .await?;
        Ok(Activation::new(name, record))
    }

    /// Takes an activation's mounts down, the last first, and forgets it.
    pub async fn deactivate(self: &Arc<Self>, namespace: &Namespace, name: &str) -> Result<()> {
        let _turn = self.turn(namespace, name).await;
        let record = self.db.get(&tables::MOUNTS, namespace, name)?;
        let record = record.ok_or_else(|| Error::not_found("mount", name))?;
        self.take_down(record.id).await?;
        self.forget(namespace, name).await
    }

    async fn take_down(self: &Arc<Self>, id: u64) -> Result<()> {
        let manager = Arc::clone(self);
        blocking(move || manager.folder.take_down(id)).await
    }

    async fn forget(&self, namespace: &Namespace, name: &str) -> Result<()> {
        self.db.write(|tx| tx.delete(&tables::MOUNTS, namespace, name).map(drop)).await
    }

    async fn turn(&self, namespace: &Namespace, name: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever waits holds one, too.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry((namespace.clone(), name.to_owned())).or_default())
        };
        turn.lock_owned().await
    }
}
