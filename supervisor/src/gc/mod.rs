//! The collector: marks what roots reach, sweeps the rest.
//!
//! What always holds: nothing that a root reaches, a lease holds, or anyone wrote a record of since the mark began is
//! collected; records go first, in one durable batch, then files and snapshots; no lock is held over I/O.

mod conditions;
mod graph;
mod labels;
mod mark;
mod sweep;
mod views;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify};

use crate::content::ContentStore;
use crate::content::store::blocking;
use crate::error::{Error, Result};
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

/// What the collector asks of the mount manager.
pub trait MountSource: Send + Sync {
    /// Takes down the mounts of activations whose records are gone. Blocks.
    fn remove_collected(&self, ids: &[u64]) -> Result<()>;
}

/// How often a collection starts over because too much was written while it marked.
const ATTEMPTS: usize = 3;
/// From so many removed bytes on, freed memory is given back after a collection.
const TRIM_OVER: u64 = 1024 * 1024;

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub blobs: usize,
    pub snapshots: usize,
    pub images: usize,
    pub leases: usize,
    pub ingests: usize,
    /// Bytes of blobs and ingests.
    pub bytes: u64,
}

pub struct Collector {
    db: Arc<Db>,
    content: Arc<ContentStore>,
    images: Arc<ImageStore>,
    snapshots: OnceLock<Arc<dyn SnapshotSource>>,
    mounts: OnceLock<Arc<dyn MountSource>>,
    config: crate::config::Gc,
    wanted: Notify,
    running: Mutex<()>,
    /// How many collections began, and the newest that ended well.
    began: AtomicU64,
    ended: AtomicU64,
}

impl Collector {
    pub fn new(
        db: Arc<Db>,
        content: Arc<ContentStore>,
        images: Arc<ImageStore>,
        config: &crate::config::Gc,
    ) -> Arc<Self> {
        Arc::new(Self {
            db,
            content,
            images,
            snapshots: OnceLock::new(),
            mounts: OnceLock::new(),
            config: config.clone(),
            wanted: Notify::new(),
            running: Mutex::default(),
            began: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        })
    }

    /// The snapshots module joins; before that no snapshot is collected.
    pub fn add_snapshots(&self, source: Arc<dyn SnapshotSource>) {
        if self.snapshots.set(source).is_err() {
            tracing::error!("the collector has snapshots already");
        }
    }

    /// The mount manager joins.
    pub fn add_mounts(&self, source: Arc<dyn MountSource>) {
        if self.mounts.set(source).is_err() {
            tracing::error!("the collector has mounts already");
        }
    }

    /// Collects in the background: soon after a trigger, and now and then.
    pub fn start(self: &Arc<Self>) {
        tokio::spawn(background(Arc::downgrade(self)));
    }

    /// Asks for a collection soon, after a deletion.
    pub fn trigger(&self) {
        self.wanted.notify_one();
    }

    /// Collects, and returns when a collection that began after this call is done.
    pub async fn collect_now(&self) -> Result<()> {
        let asked = self.began.load(Ordering::SeqCst);
        let _running = self.running.lock().await;
        if self.ended.load(Ordering::SeqCst) > asked {
            return Ok(());
        }
        let number = self.began.fetch_add(1, Ordering::SeqCst) + 1;
        self.collect().await?;
        self.ended.store(number, Ordering::SeqCst);
        Ok(())
    }

    async fn collect(&self) -> Result<Collected> {
        if let Some(mark) = self.db.rebuilt() {
            tracing::warn!("nothing is collected as long as {} is there", mark.display());
            return Ok(Collected::default());
        }
        let started = Instant::now();
        for _ in 0..ATTEMPTS {
            self.db.start_recording();
            let marked = self.mark().await?;
            let condemned = match self.snapshots.get() {
                Some(snapshots) => sweep::records(&self.db, &**snapshots, marked).await?,
                None => sweep::records(&self.db, &sweep::NoSnapshots, marked).await?,
            };
            let Some(condemned) = condemned else { continue };
            let collected = self.remove(condemned).await?;
            if collected != Collected::default() {
                tracing::info!(
                    blobs = collected.blobs,
                    snapshots = collected.snapshots,
                    images = collected.images,
                    leases = collected.leases,
                    ingests = collected.ingests,
                    bytes = collected.bytes,
                    took = ?started.elapsed(),
                    "collected"
                );
            }
            if collected.bytes > TRIM_OVER {
                crate::malloc::trim();
            }
            return Ok(collected);
        }
        Err(Error::unavailable("collection", "too much is being written: it will be tried again"))
    }

    async fn mark(&self) -> Result<mark::Marked> {
        let (db, content) = (Arc::clone(&self.db), Arc::clone(&self.content));
        let snapshots = self.snapshots.get().cloned();
        let ingest_age = Duration::from_secs(self.config.ingest_hours * 3600);
        blocking(move || mark::run(&db, &content, snapshots.as_deref(), ingest_age)).await
    }

    /// Files, snapshots and ingests whose records are gone.
    async fn remove(&self, mut condemned: sweep::Condemned) -> Result<Collected> {
        for (namespace, name) in &condemned.images {
            self.images.deleted(namespace, name);
        }
        let mounts = self.mounts.get().cloned().filter(|_| !condemned.mounts.is_empty());
        if let Some(mounts) = mounts {
            // Before the snapshots that they may show.
            let ids = std::mem::take(&mut condemned.mounts);
            if let Err(error) = blocking(move || mounts.remove_collected(&ids)).await {
                tracing::error!("taking down collected mounts: {error}");
            }
        }
        let (content, snapshots) = (Arc::clone(&self.content), self.snapshots.get().cloned());
        blocking(move || sweep::files(&content, snapshots.as_deref(), &condemned)).await
    }
}

async fn background(collector: Weak<Collector>) {
    let Some((delay, interval)) = collector.upgrade().map(|collector| {
        let config = &collector.config;
        (Duration::from_millis(config.delay_ms), config.interval_seconds)
    }) else {
        return;
    };
    let interval = Duration::from_secs(if interval == 0 { u64::from(u32::MAX) } else { interval });
    loop {
        let Some(current) = collector.upgrade() else { return };
        tokio::select! {
            () = current.wanted.notified() => tokio::time::sleep(delay).await,
            () = tokio::time::sleep(interval) => {}
        }
        if let Err(error) = current.collect_now().await {
            tracing::error!("collection: {error}");
        }
    }
}
