//! Writing a blob: appended by one client, or in parallel ranges by a pull; then committed under its digest.
//!
//! What always holds: one writer per reference; dropping it keeps what was written for the next; the order of a
//! commit is data fsync, rename, folder fsync, record, acknowledgement.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use longshore_proto::containerd::events;
use tokio::sync::watch;

use super::digest::{Algorithm, Digest, Hasher};
use super::ingest::{IngestDir, IngestInfo, Ranges};
use super::store::{ContentStore, Pin, RefLock, blocking};
use super::{BlobInfo, BlobRecord};
use crate::error::{Error, Result};
use crate::labels::{self, Labels};
use crate::leases::{self, Resource};
use crate::metadata::{Reader, tables};
use crate::namespaces::{self, Namespace};

/// After so many new bytes the parts that are there are noted on disk.
const NOTE_EVERY: u64 = 1024 * 1024;
/// Bytes hashed in one read when hashing catches up.
const HASH_CHUNK: usize = 256 * 1024;

/// What a writer is opened for.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    pub namespace: Namespace,
    /// Names the ingest: a later writer of the same reference goes on where this one ended.
    pub reference: String,
    /// Size of the blob in bytes; 0: not known.
    pub total: u64,
    pub expected: Option<Digest>,
    /// The lease that holds the ingest, and then the blob.
    pub lease: Option<String>,
}

/// How a blob is committed.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    /// Refused unless the blob has this size.
    pub size: Option<u64>,
    /// Refused unless the blob has this digest.
    pub expected: Option<Digest>,
    pub labels: Labels,
    /// The digest, if the caller computed it over exactly the bytes of the file: nothing is read again.
    pub hashed: Option<Digest>,
}

struct Written {
    ranges: Ranges,
    /// Bytes since `ranges` were last noted on disk; `None` while the data is only appended.
    unnoted: Option<u64>,
    /// The last change, and whether the file on disk says so: its own time is that of the kernel's last tick.
    updated_at: Timestamp,
    is_stamped: bool,
}

struct Hashed {
    hasher: Hasher,
    upto: u64,
}

struct Inner {
    info: IngestInfo,
    folder: IngestDir,
    file: Arc<File>,
    written: Mutex<Written>,
    /// Held by whoever notes the parts on disk; taken before `written`.
    noting: Mutex<()>,
    hashed: Mutex<Hashed>,
    frontier: watch::Sender<u64>,
    max_blob: u64,
}

/// The only writer of a reference. Its methods take `&self`: ranges may be written from several tasks.
pub struct Writer {
    store: Arc<ContentStore>,
    inner: Arc<Inner>,
    lease: Option<String>,
    /// The blob is here already, for another namespace, or in the plugin: its size, and what keeps it. Nothing needs to be written.
    shared: Option<(u64, Pin)>,
    _lock: RefLock<Arc<ContentStore>>,
}

impl ContentStore {
    /// Opens a writer, for a new ingest or one that was begun.
    ///
    /// AlreadyExists if the namespace has the expected blob; Unavailable if the reference has a writer.
    pub async fn writer(self: &Arc<Self>, options: WriterOptions) -> Result<Writer> {
        let WriterOptions { namespace, reference, total, expected, lease } = options;
        if total > self.max_blob {
            return Err(too_large(&reference, total, self.max_blob));
        }
        let lock = self.lock_owned(&namespace, &reference)?;
        let shared = match &expected {
            Some(expected) => self.find_expected(&namespace, &reference, expected, lease.as_deref()).await?,
            None => None,
        };
        // With a wrong size it is the commit that fails.
        let shared = shared.filter(|(size, _)| total == 0 || *size == total);
        if let Some(lease) = &lease {
            let resource = Resource::Ingest(reference.clone());
            self.db.write(|tx| leases::hold(tx, &namespace, lease, &resource)).await?;
        }
        let folder = self.ingest(&namespace, &reference);
        let info = IngestInfo { namespace, reference, started_at: Timestamp::now(), total, expected };
        let max_blob = self.max_blob;
        let inner = blocking(move || Inner::open(folder, info, max_blob)).await?;
        Ok(Writer { store: Arc::clone(self), inner: Arc::new(inner), lease, shared, _lock: lock })
    }

    /// The expected blob if another namespace or the plugin shares it; an error if this one has it.
    async fn find_expected(
        self: &Arc<Self>,
        namespace: &Namespace,
        reference: &str,
        expected: &Digest,
        lease: Option<&str>,
    ) -> Result<Option<(u64, Pin)>> {
        if self.claim(namespace, expected, lease).await? {
            let folder = self.ingest(namespace, reference);
            blocking(move || folder.remove()).await?;
            return Err(Error::already_exists("content", expected.as_str()));
        }
        if !self.may_share(expected)? {
            return Ok(None);
        }
        let pin = self.pin(expected).await;
        let path = self.path(expected);
        let here = blocking(move || Ok(fs::metadata(path).ok().map(|metadata| metadata.len()))).await?;
        let size = match (here, &self.remote) {
            // Not told here: to clients Unavailable means another writer, for which they wait. The commit tells it.
            (None, Some(remote)) => remote.size(expected).await.unwrap_or_else(|error| {
                tracing::debug!("whether the plugin has {expected} is not known: {error}");
                None
            }),
            _ => here,
        };
        Ok(size.map(|size| (size, pin)))
    }

    /// Whether a blob that was shared is still there, and in the plugin.
    async fn check_shared(&self, digest: &Digest, size: u64) -> Result<()> {
        let path = self.path(digest);
        let here = blocking(move || super::remote::open(&path, Some(size))).await?;
        let is_there = match (here, &self.remote) {
            (Some(file), Some(remote)) => {
                remote.send(digest, size, &Arc::new(file)).await?;
                true
            }
            (None, Some(remote)) => {
                remote.mark(digest).await?;
                let is_there = remote.size(digest).await? == Some(size);
                if is_there {
                    remote.keep(digest).await?;
                }
                is_there
            }
            (here, None) => here.is_some(),
        };
        if is_there {
            return Ok(());
        }
        Err(Error::unavailable(format!("content {digest}"), "was deleted meanwhile: write it again"))
    }
}

impl Inner {
    fn open(folder: IngestDir, wanted: IngestInfo, max_blob: u64) -> Result<Self> {
        let (info, updated_at, file) = match folder.load()? {
            Some(begun) if fits(&begun, &wanted)? => {
                let updated_at = folder.updated_at().unwrap_or(begun.started_at);
                let file = folder.open_data()?;
                (IngestInfo { started_at: begun.started_at, ..merge(begun, wanted) }, updated_at, file)
            }
            _ => {
                let file = folder.create(&wanted)?;
                let started_at = wanted.started_at;
                (wanted, started_at, file)
            }
        };
        if let Err(error) = preallocate(&file, info.total, &folder) {
            folder.remove()?;
            return Err(error);
        }
        let ranges = folder.load_ranges()?;
        let algorithm = info.expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let frontier = watch::Sender::new(ranges.contiguous());
        let unnoted = folder.has_ranges().then_some(0);
        Ok(Self {
            info,
            folder,
            file: Arc::new(file),
            written: Mutex::new(Written { ranges, unnoted, updated_at, is_stamped: true }),
            noting: Mutex::new(()),
            hashed: Mutex::new(Hashed { hasher: Hasher::new(algorithm), upto: 0 }),
            frontier,
            max_blob,
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.saturating_add(bytes.len() as u64);
        self.check_end(end)?;
        self.file
            .write_all_at(bytes, offset)
            .map_err(|source| Error::io("writing the ingest", self.folder.data(), source))?;
        let due = {
            let mut written = lock(&self.written);
            if written.unnoted.is_none() && offset != written.ranges.end() {
                written.unnoted = Some(NOTE_EVERY);
            }
            written.ranges.add(offset..end);
            written.touch();
            self.frontier.send_replace(written.ranges.contiguous());
            let unnoted = written.unnoted.map(|unnoted| unnoted + bytes.len() as u64);
            let due = unnoted.is_some_and(|unnoted| unnoted >= NOTE_EVERY);
            written.unnoted = if due { Some(0) } else { unnoted };
            due
        };
        if due { self.note() } else { Ok(()) }
    }

    /// Notes on disk which parts are there. Several threads write: they take turns, and the last has the newest.
    fn note(&self) -> Result<()> {
        let _turn = lock(&self.noting);
        let ranges = lock(&self.written).ranges.clone();
        self.folder.store_ranges(&ranges)
    }

    fn check_end(&self, end: u64) -> Result<()> {
        if self.info.total > 0 && end > self.info.total {
            let why = format!("writes up to {end}, but the total is {}", self.info.total);
            return Err(Error::OutOfRange { what: format!("ref {}", self.info.reference), why });
        }
        if end > self.max_blob {
            return Err(too_large(&self.info.reference, end, self.max_blob));
        }
        Ok(())
    }

    /// Appends at the frontier and hashes on the way.
    fn append(&self, bytes: &[u8]) -> Result<u64> {
        let offset = *self.frontier.borrow();
        let mut hashed = lock(&self.hashed);
        self.write_at(offset, bytes)?;
        if hashed.upto == offset {
            hashed.hasher.update(bytes);
            hashed.upto += bytes.len() as u64;
        }
        Ok(offset + bytes.len() as u64)
    }

    /// On a full disk, a part of a blob would only keep others from what they need.
    fn give_back(&self, error: &Error) {
        if matches!(error, Error::DiskFull { .. })
            && let Err(error) = self.truncate(0).and_then(|()| self.folder.remove())
        {
            tracing::warn!("the ingest {} was not removed: {error}", self.info.reference);
        }
    }

    fn truncate(&self, length: u64) -> Result<()> {
        let mut hashed = lock(&self.hashed);
        let _turn = lock(&self.noting);
        let mut written = lock(&self.written);
        self.file
            .set_len(length)
            .map_err(|source| Error::io("truncating the ingest", self.folder.data(), source))?;
        written.ranges.truncate(length);
        written.touch();
        if written.unnoted.is_some() {
            self.folder.store_ranges(&written.ranges)?;
        }
        if hashed.upto > length {
            let algorithm = self.info.expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
            *hashed = Hashed { hasher: Hasher::new(algorithm), upto: 0 };
        }
        self.frontier.send_replace(written.ranges.contiguous());
        Ok(())
    }

    /// The digest of everything up to the frontier.
    fn digest(&self) -> Result<Digest> {
        let end = *self.frontier.borrow();
        let mut hashed = lock(&self.hashed);
        let mut buffer = vec![0; if hashed.upto < end { HASH_CHUNK } else { 0 }];
        while hashed.upto < end {
            let length = buffer.len().min(usize::try_from(end - hashed.upto).unwrap_or(usize::MAX));
            self.file
                .read_exact_at(&mut buffer[..length], hashed.upto)
                .map_err(|source| Error::io("reading back the ingest", self.folder.data(), source))?;
            hashed.hasher.update(&buffer[..length]);
            hashed.upto += length as u64;
        }
        Ok(hashed.hasher.digest())
    }
}

impl Written {
    fn touch(&mut self) {
        self.updated_at = Timestamp::now();
        self.is_stamped = false;
    }
}

impl Writer {
    pub fn namespace(&self) -> &Namespace {
        &self.inner.info.namespace
    }

    pub fn reference(&self) -> &str {
        &self.inner.info.reference
    }

    /// Expected size in bytes; 0: not known.
    pub fn total(&self) -> u64 {
        self.inner.info.total
    }

    pub fn started_at(&self) -> Timestamp {
        self.inner.info.started_at
    }

    /// When data was last written, by this writer or one before it.
    pub fn updated_at(&self) -> Timestamp {
        lock(&self.inner.written).updated_at
    }

    /// Whether another namespace or the plugin has the blob, so that it can be committed without writing anything.
    pub fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Bytes that are there from the beginning without a gap; survives kill -9.
    pub fn offset(&self) -> u64 {
        self.shared.as_ref().map_or_else(|| *self.inner.frontier.borrow(), |(size, _)| *size)
    }

    /// Follows [`Writer::offset`]: for readers of what arrives in order.
    pub fn frontier(&self) -> watch::Receiver<u64> {
        self.inner.frontier.subscribe()
    }

    /// The parts that are not there yet, if the total is known.
    pub fn missing(&self) -> Vec<Range<u64>> {
        if self.shared.is_some() {
            Vec::new()
        } else {
            lock(&self.inner.written).ranges.missing(self.total())
        }
    }

    /// A handle that writes and reads parts from blocking threads. Only for as long as the writer lives.
    pub fn parts(&self) -> Parts {
        Parts { inner: Arc::clone(&self.inner) }
    }

    /// Appends at the frontier; the new offset.
    pub async fn write(&mut self, bytes: bytes::Bytes) -> Result<u64> {
        self.unshare();
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.append(&bytes).inspect_err(|error| inner.give_back(error))).await
    }

    /// Drops what was written from `length` on.
    pub async fn truncate(&mut self, length: u64) -> Result<()> {
        self.unshare();
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.truncate(length)).await
    }

    fn unshare(&mut self) {
        self.shared = None;
    }

    /// The digest of what is there up to the offset.
    pub async fn digest(&self) -> Result<Digest> {
        if let (Some(_), Some(expected)) = (&self.shared, &self.inner.info.expected) {
            return Ok(expected.clone());
        }
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.digest()).await
    }

    /// Drops the ingest and what was written.
    pub async fn abort(self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let removed = blocking(move || inner.folder.remove()).await;
        self.release_lease()?;
        removed
    }

    fn release_lease(&self) -> Result<()> {
        let Some(lease) = &self.lease else { return Ok(()) };
        let resource = Resource::Ingest(self.reference().to_owned());
        self.store.db.write_lazy(|tx| leases::release(tx, self.namespace(), lease, &resource))
    }

    /// Commits the blob. When this returns it survives a power cut. FailedPrecondition if size or digest are wrong (the
    /// ingest stays); AlreadyExists if the namespace has the blob (the ingest is dropped).
    pub async fn commit(self, mut options: CommitOptions) -> Result<BlobInfo> {
        labels::settle(&mut options.labels)?;
        let (size, digest) = self.verify(&options).await?;
        let _pin = self.store.pin(&digest).await;
        if self.shared.is_none() {
            if let Some(remote) = &self.store.remote {
                remote.send(&digest, size, &self.inner.file).await?;
            }
            let (inner, target) = (Arc::clone(&self.inner), self.store.path(&digest));
            blocking(move || place(&inner, &target, size)).await?;
        } else {
            self.store.check_shared(&digest, size).await?;
        }
        let info = self.record(&digest, size, options.labels).await;
        let folder = self.inner.folder.clone();
        blocking(move || folder.remove()).await?;
        let info = info?;
        let event = events::ContentCreate {
            digest: digest.to_string(),
            size: i64::try_from(size).unwrap_or(i64::MAX),
            media_type: String::new(),
        };
        self.store.events.publish_message(
            self.namespace(),
            "/content/create",
            "containerd.events.ContentCreate",
            &event,
        );
        Ok(info)
    }

    async fn verify(&self, options: &CommitOptions) -> Result<(u64, Digest)> {
        let what = || format!("ref {}", self.reference());
        let size = self.offset();
        if self.shared.is_none() && lock(&self.inner.written).ranges.end() != size {
            return Err(Error::precondition(what(), format!("there is a gap after {size} bytes")));
        }
        let wanted = options.size.or_else(|| (self.total() > 0).then(|| self.total()));
        if let Some(wanted) = wanted
            && wanted != size
        {
            return Err(Error::precondition(
                what(),
                format!("unexpected commit size {size}, expected {wanted}"),
            ));
        }
        let digest = match &options.hashed {
            Some(digest) => digest.clone(),
            None => self.digest().await?,
        };
        for expected in [&options.expected, &self.inner.info.expected].into_iter().flatten() {
            if *expected != digest {
                let why = format!("unexpected commit digest {digest}, expected {expected}");
                return Err(Error::precondition(what(), why));
            }
        }
        Ok((size, digest))
    }

    async fn record(&self, digest: &Digest, size: u64, labels: Labels) -> Result<BlobInfo> {
        let now = Timestamp::now();
        let record = BlobRecord { size, labels, created_at: now, updated_at: now };
        let namespace = self.namespace();
        let existed = self
            .store
            .db
            .write(|tx| {
                namespaces::ensure(tx, namespace)?;
                let existed = tx.contains(&tables::BLOBS, namespace, digest.as_str())?;
                if !existed {
                    tx.put(&tables::BLOBS, namespace, digest.as_str(), &record)?;
                }
                if let Some(lease) = &self.lease {
                    leases::hold(tx, namespace, lease, &Resource::Content(digest.clone()))?;
                    leases::release(tx, namespace, lease, &Resource::Ingest(self.reference().to_owned()))?;
                }
                Ok(existed)
            })
            .await?;
        if existed {
            return Err(Error::already_exists("content", digest.as_str()));
        }
        Ok(BlobInfo::new(digest.clone(), record))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let written = self.written.get_mut().unwrap_or_else(PoisonError::into_inner);
        if written.is_stamped || !self.folder.path().exists() {
            return;
        }
        if let Err(error) = self.file.set_modified(written.updated_at.into()) {
            tracing::debug!("the time of ingest {} was not set: {error}", self.info.reference);
        }
        if written.unnoted.is_some_and(|unnoted| unnoted > 0)
            && let Err(error) = self.folder.store_ranges(&written.ranges)
        {
            tracing::warn!("the parts of ingest {} were not noted: {error}", self.info.reference);
        }
    }
}

/// Writes and reads parts of an ingest; for threads beside the task that owns the [`Writer`].
#[derive(Clone)]
pub struct Parts {
    inner: Arc<Inner>,
}

impl Parts {
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.inner.write_at(offset, bytes)
    }

    /// The parts that are not there yet, if the total is known.
    pub fn missing(&self) -> Vec<Range<u64>> {
        lock(&self.inner.written).ranges.missing(self.inner.info.total)
    }

    /// Fills `buffer` from `offset`; the caller keeps below the frontier.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.inner
            .file
            .read_at(buffer, offset)
            .map_err(|source| Error::io("reading back the ingest", self.inner.folder.data(), source))
    }
}

/// Whether a begun ingest can be gone on with; a contradiction is an error.
fn fits(begun: &IngestInfo, wanted: &IngestInfo) -> Result<bool> {
    if begun.total > 0 && wanted.total > 0 && begun.total != wanted.total {
        let why = format!("it was begun with a total of {}, not {}", begun.total, wanted.total);
        return Err(Error::precondition(format!("ref {}", wanted.reference), why));
    }
    Ok(begun.namespace == wanted.namespace && begun.reference == wanted.reference)
}

fn merge(begun: IngestInfo, wanted: IngestInfo) -> IngestInfo {
    IngestInfo {
        total: if wanted.total > 0 { wanted.total } else { begun.total },
        expected: wanted.expected.or(begun.expected),
        namespace: wanted.namespace,
        reference: wanted.reference,
        started_at: begun.started_at,
    }
}

/// A disk that cannot hold the blob is told before the first byte is fetched.
fn preallocate(file: &File, total: u64, folder: &IngestDir) -> Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    if total == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, total) {
        Err(error) if error == rustix::io::Errno::NOSPC => {
            Err(Error::io("reserving space for", folder.data(), io::Error::from(error)))
        }
        _ => Ok(()),
    }
}

/// Data fsync, rename, folder fsync.
fn place(inner: &Inner, target: &Path, size: u64) -> Result<()> {
    let at = |source| Error::io("committing blob", target, source);
    // Releases what was preallocated behind the end.
    inner.file.set_len(size).map_err(at)?;
    inner.file.sync_all().map_err(at)?;
    fs::set_permissions(inner.folder.data(), std::os::unix::fs::PermissionsExt::from_mode(0o400))
        .map_err(at)?;
    fs::rename(inner.folder.data(), target).map_err(at)?;
    match target.parent() {
        Some(parent) => File::open(parent).and_then(|folder| folder.sync_all()).map_err(at),
        None => Ok(()),
    }
}

fn too_large(reference: &str, size: u64, max: u64) -> Error {
    Error::ResourceExhausted {
        what: format!("ref {reference}: blob of {size} bytes"),
        limit: "content.max_blob_bytes",
        max,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
