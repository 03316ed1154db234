//! The store: blobs at `blobs/<algorithm>/<hex>`, ingests under `ingest/`, records in the metadata.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use longshore_proto::containerd::events;
use tokio::sync::Notify;

use super::ingest::{IngestDir, IngestInfo, IngestStatus};
use super::remote::{self, Remote};
use super::{Blob, BlobInfo, BlobRecord, Digest};
use crate::config::Sharing;
use crate::error::{Error, Result};
use crate::events::EventBus;
use crate::filters::{self, Adaptor, Filter};
use crate::labels::{self, Labels};
use crate::leases::{self, Resource};
use crate::metadata::{Db, Reader, Tx, tables};
use crate::namespaces::Namespace;
use crate::plugins::Plugin;

/// Longest reference of an ingest in bytes.
pub const MAX_REFERENCE: usize = 1024;

/// The label of a namespace that gives its blobs to all others.
const SHAREABLE: &str = "containerd.io/namespace.shareable";

impl BlobInfo {
    pub(super) fn new(digest: Digest, record: BlobRecord) -> Self {
        let BlobRecord { size, labels, created_at, updated_at } = record;
        Self { digest, size, labels, created_at, updated_at }
    }
}

impl Adaptor for BlobInfo {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["digest"] => Some(self.digest.to_string()),
            ["size"] => Some(self.size.to_string()),
            ["labels", key @ ..] => filters::label(&self.labels, key),
            _ => None,
        }
    }
}

/// What is being done to a blob's file right now.
#[derive(Debug, PartialEq, Eq)]
enum Use {
    /// So many commits rely on the file being there.
    Pinned(usize),
    /// The collector is unlinking it.
    Removing,
}

pub struct ContentStore {
    pub(super) db: Arc<Db>,
    pub(super) events: Arc<EventBus>,
    blobs: PathBuf,
    pub(super) ingests: PathBuf,
    pub(super) max_writers: usize,
    pub(super) max_blob: u64,
    sharing: Sharing,
    /// References that have a writer, by namespace.
    open: Mutex<HashSet<(Namespace, String)>>,
    uses: Mutex<HashMap<Digest, Use>>,
    removed: Notify,
    /// Keeps the bytes, if the configuration names one: what is here is a cache then.
    pub(super) remote: Option<Arc<Remote>>,
}

impl ContentStore {
    /// Opens or creates the store below `root` and brings disk and records together. With a plugin, which keeps the bytes then, it
    /// needs a runtime.
    pub fn open(
        root: &Path,
        db: Arc<Db>,
        events: Arc<EventBus>,
        limits: &crate::config::Content,
        plugin: Option<Plugin>,
    ) -> Result<Self> {
        let store = Self {
            db,
            events,
            blobs: root.join("blobs"),
            ingests: root.join("ingest"),
            max_writers: limits.max_writers,
            max_blob: limits.max_blob_bytes,
            sharing: limits.sharing,
            open: Mutex::default(),
            uses: Mutex::default(),
            removed: Notify::new(),
            remote: plugin.map(|plugin| Remote::open(root, plugin).map(Arc::new)).transpose()?,
        };
        for folder in [store.blobs.join("sha256"), store.blobs.join("sha512"), store.ingests.clone()] {
            fs::create_dir_all(&folder)
                .map_err(|source| Error::io("creating the content folder", &folder, source))?;
        }
        super::reconcile::run(&store)?;
        Ok(store)
    }

    /// Where the blob's file is, whether or not it exists.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.algorithm().name()).join(digest.digits())
    }

    pub(super) fn blob_folders(&self) -> [(&'static str, PathBuf); 2] {
        ["sha256", "sha512"].map(|name| (name, self.blobs.join(name)))
    }

    pub fn info(&self, namespace: &Namespace, digest: &Digest) -> Result<BlobInfo> {
        self.db
            .get(&tables::BLOBS, namespace, digest.as_str())?
            .map(|record| BlobInfo::new(digest.clone(), record))
            .ok_or_else(|| Error::not_found("content", digest.as_str()))
    }

    /// As [`Self::info`]: the message that clients are sent.
    pub fn message(&self, namespace: &Namespace, digest: &Digest) -> Result<Vec<u8>> {
        let message = self.db.message(&tables::BLOBS, namespace, digest.as_str())?;
        message.ok_or_else(|| Error::not_found("content", digest.as_str()))
    }

    pub fn exists(&self, namespace: &Namespace, digest: &Digest) -> Result<bool> {
        self.db.contains(&tables::BLOBS, namespace, digest.as_str())
    }

    /// Whether the namespace has the blob; if so the lease holds it from now on, so that it stays.
    pub async fn claim(&self, namespace: &Namespace, digest: &Digest, lease: Option<&str>) -> Result<bool> {
        let Some(lease) = lease else { return self.exists(namespace, digest) };
        let claim = |tx: &mut Tx<'_>| {
            let exists = tx.contains(&tables::BLOBS, namespace, digest.as_str())?;
            if exists {
                leases::hold(tx, namespace, lease, &Resource::Content(digest.clone()))?;
            }
            Ok(exists)
        };
        self.db.write(claim).await
    }

    /// Whether a namespace that has not got the blob may commit it without sending it.
    pub(super) fn may_share(&self, digest: &Digest) -> Result<bool> {
        if self.sharing == Sharing::Shared {
            return Ok(true);
        }
        for row in self.db.scan(&tables::NAMESPACES)? {
            let shareable = row.record.labels.get(SHAREABLE).is_some_and(|value| value == "true");
            if shareable && self.exists(&row.namespace, digest)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Changes the labels: those that `keys` names, or all of them.
    pub async fn update(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        labels: Labels,
        keys: Option<&[String]>,
    ) -> Result<BlobInfo> {
        let record = self
            .db
            .write(|tx| {
                let mut record: BlobRecord = tx
                    .get(&tables::BLOBS, namespace, digest.as_str())?
                    .ok_or_else(|| Error::not_found("content", digest.as_str()))?;
                match keys {
                    None => record.labels = labels,
                    Some(keys) => keys.iter().for_each(|key| labels::set(&mut record.labels, key, &labels)),
                }
                labels::settle(&mut record.labels)?;
                record.updated_at = Timestamp::now();
                tx.put(&tables::BLOBS, namespace, digest.as_str(), &record)?;
                Ok(record)
            })
            .await?;
        Ok(BlobInfo::new(digest.clone(), record))
    }

    /// Blobs that match, in the order of their digests.
    pub fn list(&self, namespace: &Namespace, filter: &Filter) -> Result<Vec<BlobInfo>> {
        let rows = self.db.list(&tables::BLOBS, namespace)?;
        let infos =
            rows.into_iter().filter_map(|row| Some(BlobInfo::new(Digest::parse(&row.key).ok()?, row.record)));
        Ok(infos.filter(|info| filter.matches(info)).collect())
    }

    /// Up to `max` blobs in the order of their digests, from the first after `after` on.
    pub fn page(&self, namespace: &Namespace, after: Option<&Digest>, max: usize) -> Result<Vec<BlobInfo>> {
        let rows = self.db.page(&tables::BLOBS, namespace, after.map(Digest::as_str), max)?;
        rows.into_iter().map(|row| Ok(BlobInfo::new(Digest::parse(&row.key)?, row.record))).collect()
    }

    /// Deletes the namespace's record and takes it out of the lease; the file is left to the collector.
    pub async fn delete(&self, namespace: &Namespace, digest: &Digest, lease: Option<&str>) -> Result<()> {
        self.db
            .write(|tx| {
                if !tx.delete(&tables::BLOBS, namespace, digest.as_str())? {
                    return Err(Error::not_found("content", digest.as_str()));
                }
                let Some(lease) = lease else { return Ok(()) };
                leases::release(tx, namespace, lease, &Resource::Content(digest.clone()))
            })
            .await?;
        let event = events::ContentDelete { digest: digest.to_string() };
        self.events.publish_message(namespace, "/content/delete", "containerd.events.ContentDelete", &event);
        Ok(())
    }

    /// Opens a blob for reading; one that only the plugin has is fetched first.
    pub async fn reader(&self, namespace: &Namespace, digest: &Digest) -> Result<Blob> {
        let info = self.info(namespace, digest)?;
        let path = self.path(digest);
        let wanted = self.remote.as_ref().map(|_| info.size);
        let here = {
            let path = path.clone();
            blocking(move || remote::open(&path, wanted)).await?
        };
        let file = match (here, &self.remote) {
            (Some(file), _) => file,
            (None, Some(remote)) => remote.fetch(digest, info.size, path).await?,
            (None, None) => {
                return Err(Error::Damaged {
                    what: format!("blob {}", path.display()),
                    why: "its file is missing; pull the image again".into(),
                });
            }
        };
        Ok(Blob { digest: digest.clone(), size: info.size, file: Arc::new(file) })
    }

    pub async fn status(&self, namespace: &Namespace, reference: &str) -> Result<IngestStatus> {
        let folder = self.ingest(namespace, reference);
        let status = blocking(move || match folder.load()? {
            Some(info) => folder.status(&info).map(Some),
            None => Ok(None),
        });
        status.await?.ok_or_else(|| Error::not_found("ingest", reference))
    }

    pub async fn list_statuses(&self, namespace: &Namespace, filter: &Filter) -> Result<Vec<IngestStatus>> {
        let (ingests, namespace) = (self.ingests.clone(), namespace.clone());
        let all = blocking(move || all_ingests(&ingests)).await?;
        let mut statuses = Vec::new();
        for (folder, info) in all.into_iter().filter(|(_, info)| info.namespace == namespace) {
            let status = folder.status(&info)?;
            if filter.matches(&status) {
                statuses.push(status);
            }
        }
        statuses.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(statuses)
    }

    /// Drops an ingest and what was written. One that has a writer is refused.
    pub async fn abort(&self, namespace: &Namespace, reference: &str, lease: Option<&str>) -> Result<()> {
        let _lock = self.lock(namespace, reference)?;
        let folder = self.ingest(namespace, reference);
        let found = blocking(move || {
            let found = folder.path().exists();
            folder.remove()?;
            Ok(found)
        });
        if !found.await? {
            return Err(Error::not_found("ingest", reference));
        }
        let Some(lease) = lease else { return Ok(()) };
        let resource = Resource::Ingest(reference.to_owned());
        self.db.write(|tx| leases::release(tx, namespace, lease, &resource)).await
    }

    pub(super) fn ingest(&self, namespace: &Namespace, reference: &str) -> IngestDir {
        IngestDir::of(&self.ingests, namespace, reference)
    }

    /// Makes the caller the reference's only writer until the guard is dropped.
    pub(super) fn lock<'a>(&'a self, namespace: &Namespace, reference: &str) -> Result<RefLock<&'a Self>> {
        self.take(namespace, reference)?;
        Ok(RefLock { store: self, key: (namespace.clone(), reference.to_owned()) })
    }

    pub(super) fn lock_owned(
        self: &Arc<Self>,
        namespace: &Namespace,
        reference: &str,
    ) -> Result<RefLock<Arc<Self>>> {
        self.take(namespace, reference)?;
        Ok(RefLock { store: Arc::clone(self), key: (namespace.clone(), reference.to_owned()) })
    }

    fn take(&self, namespace: &Namespace, reference: &str) -> Result<()> {
        check_reference(reference)?;
        let mut open = lock(&self.open);
        if open.len() >= self.max_writers {
            return Err(Error::ResourceExhausted {
                what: format!("ingest \"{reference}\""),
                limit: "content.max_writers",
                max: self.max_writers as u64,
            });
        }
        if !open.insert((namespace.clone(), reference.to_owned())) {
            return Err(Error::unavailable(format!("ref {reference}"), "locked by another writer"));
        }
        Ok(())
    }

    /// Keeps the blob's file from being unlinked until the pin is dropped; waits for an unlinking under way.
    pub(super) async fn pin(self: &Arc<Self>, digest: &Digest) -> Pin {
        loop {
            let removed = self.removed.notified();
            tokio::pin!(removed);
            removed.as_mut().enable();
            {
                let mut uses = lock(&self.uses);
                match uses.entry(digest.clone()).or_insert(Use::Pinned(0)) {
                    Use::Pinned(count) => {
                        *count += 1;
                        return Pin { store: Arc::clone(self), digest: digest.clone() };
                    }
                    Use::Removing => {}
                }
            }
            removed.await;
        }
    }

    /// The ingests of all namespaces. Blocks.
    pub fn all_statuses(&self) -> Result<Vec<(Namespace, IngestStatus)>> {
        let all = all_ingests(&self.ingests)?;
        all.iter().map(|(folder, info)| Ok((info.namespace.clone(), folder.status(info)?))).collect()
    }

    /// Drops an ingest unless it has a writer; the bytes that became free. Blocks.
    pub fn remove_ingest(&self, namespace: &Namespace, reference: &str) -> Result<Option<u64>> {
        let Ok(_lock) = self.lock(namespace, reference) else { return Ok(None) };
        let folder = self.ingest(namespace, reference);
        let size = fs::metadata(folder.data()).map_or(0, |metadata| metadata.len());
        folder.remove()?;
        Ok(Some(size))
    }

    /// Unlinks the files of blobs that no namespace has a record of, and deletes them in the plugin; how many, and the bytes that
    /// became free. Blocks.
    pub fn remove_unrecorded(&self) -> Result<(usize, u64)> {
        let mut files = HashSet::new();
        if let Some(remote) = &self.remote {
            files.extend(remote.marked()?);
        }
        for (algorithm, folder) in self.blob_folders() {
            let at = |source| Error::io("listing blobs in", &folder, source);
            for entry in fs::read_dir(&folder).map_err(at)? {
                let name = entry.map_err(at)?.file_name();
                files.extend(Digest::parse(&format!("{algorithm}:{}", name.to_string_lossy())));
            }
        }
        if files.is_empty() {
            return Ok((0, 0));
        }
        let recorded: HashSet<String> = self
            .db
            .scan(&tables::BLOBS.view::<serde::de::IgnoredAny>())?
            .into_iter()
            .map(|row| row.key)
            .collect();
        files.retain(|digest| !recorded.contains(digest.as_str()));
        let mut removed = (0, 0);
        let mut is_reachable = true;
        for digest in &files {
            if let Some(freed) = self.remove_file(digest, &mut is_reachable)? {
                removed = (removed.0 + 1, removed.1 + freed);
            }
        }
        Ok(removed)
    }

    /// Unlinks one file unless a record or a commit under way needs it.
    fn remove_file(&self, digest: &Digest, is_reachable: &mut bool) -> Result<Option<u64>> {
        if !self.start_removing(digest) {
            return Ok(None);
        }
        let result = self.unlink(digest, is_reachable);
        lock(&self.uses).remove(digest);
        self.removed.notify_waiters();
        result
    }

    fn start_removing(&self, digest: &Digest) -> bool {
        let mut uses = lock(&self.uses);
        if uses.contains_key(digest) {
            return false;
        }
        uses.insert(digest.clone(), Use::Removing);
        true
    }

    fn unlink(&self, digest: &Digest, is_reachable: &mut bool) -> Result<Option<u64>> {
        if self.has_record(digest)? {
            return Ok(None);
        }
        let Some(remote) = &self.remote else { return self.unlink_here(digest) };
        remote.mark_now(digest)?;
        let freed = self.unlink_here(digest)?;
        if *is_reachable {
            match remote.delete(digest) {
                Ok(()) => remote.unmark(digest)?,
                Err(error) => {
                    tracing::warn!(
                        "{digest} was not deleted in the content plugin, next time again: {error}"
                    );
                    *is_reachable = false;
                }
            }
        }
        Ok(freed)
    }

    fn unlink_here(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.path(digest);
        let size = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        match fs::remove_file(&path) {
            Ok(()) => Ok(Some(size)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::io("removing blob", path, source)),
        }
    }

    fn has_record(&self, digest: &Digest) -> Result<bool> {
        for row in self.db.scan(&tables::NAMESPACES)? {
            if self.db.contains(&tables::BLOBS, &row.namespace, digest.as_str())? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The right to write to one reference.
pub struct RefLock<S: AsRef<ContentStore>> {
    store: S,
    key: (Namespace, String),
}

impl<S: AsRef<ContentStore>> Drop for RefLock<S> {
    fn drop(&mut self) {
        lock(&self.store.as_ref().open).remove(&self.key);
    }
}

impl AsRef<ContentStore> for ContentStore {
    fn as_ref(&self) -> &ContentStore {
        self
    }
}

/// Keeps a blob's file.
pub struct Pin {
    store: Arc<ContentStore>,
    digest: Digest,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut uses = lock(&self.store.uses);
        if let Some(Use::Pinned(count)) = uses.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                uses.remove(&self.digest);
            }
        }
    }
}

/// All readable ingests of all namespaces.
pub fn all_ingests(ingests: &Path) -> Result<Vec<(IngestDir, IngestInfo)>> {
    let at = |source| Error::io("listing ingests in", ingests, source);
    let mut all = Vec::new();
    for entry in fs::read_dir(ingests).map_err(at)? {
        let folder = IngestDir::at(entry.map_err(at)?.path());
        if let Some(info) = folder.load()? {
            all.push((folder, info));
        }
    }
    Ok(all)
}

fn check_reference(reference: &str) -> Result<()> {
    if reference.is_empty() || reference.len() > MAX_REFERENCE || reference.contains(['\0', '\x1f']) {
        let what = format!("ref {:?}", reference.chars().take(64).collect::<String>());
        return Err(Error::invalid(
            what,
            format!("must be 1 to {MAX_REFERENCE} bytes without control characters"),
        ));
    }
    Ok(())
}

/// Runs what may wait for a disk where it holds nobody up.
pub async fn blocking<R: Send + 'static>(work: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Lost { what: "a blocking task" }))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
