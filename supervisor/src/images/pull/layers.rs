//! One layer: fetched, hashed and unpacked at the same time.
//!
//! What always holds: a blob is committed only with its digest verified over exactly the bytes in the file; a layer that was
//! unpacked while its blob turned out wrong is thrown away.

#![forbid(unsafe_code)]

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use super::Puller;
use super::error::PullError;
use super::progress::{LayerStatus, Progress};
use super::resolve::{Origin, source_labels};
use super::session::Session;
use crate::content::{Blob, CommitOptions, Digest, Hasher, Writer, WriterOptions};
use crate::error::Error;
use crate::images::fetch::blob::BlobFetch;
use crate::images::fetch::error::FetchError;
use crate::images::fetch::feed::{Feed, FeedReader};
use crate::images::manifest::Layer;
use crate::images::unpack::{self, Applied, Form, Limits, Options, UnpackError};

/// How often is looked whether another client has finished with an ingest.
const LOCKED_POLL: Duration = Duration::from_millis(200);
const HASH_BUFFER: usize = 256 * 1024;

/// What a layer came to.
#[derive(Debug)]
pub enum Unpacked {
    /// Into the active snapshot of this key.
    Applied { key: String, applied: Applied },
    /// Not yet: it must be applied on top of the layers below.
    Later,
}

/// What the work on the layers of one image shares.
pub struct Work<'a> {
    pub puller: &'a Puller,
    pub session: &'a Session,
    pub origin: Origin<'a>,
    pub progress: &'a Progress,
    pub connections: &'a Semaphore,
}

/// Where a layer is unpacked to while it arrives.
pub struct Target {
    pub key: String,
    pub directory: OwnedFd,
    pub form: Form,
}

impl Work<'_> {
    /// Makes a layer's blob present, and unpacks it if there is a target. Without a target the result is [`Unpacked::Later`].
    pub async fn layer(
        &self,
        index: usize,
        layer: &Layer,
        target: Option<Target>,
    ) -> Result<Unpacked, PullError> {
        let digest = &layer.descriptor.digest;
        let lock = self.puller.locks.lock(format!("{} {digest}", self.session.namespace)).await;
        if let Some(blob) = self.open_local(digest).await? {
            drop(lock);
            return self.local(index, layer, target, blob).await;
        }
        match self.origin {
            Origin::Registry { host, .. } => self.fetch(index, layer, target, host).await,
            Origin::Local => Err(Error::not_found("content", digest.as_str()).into()),
        }
    }

    async fn local(
        &self,
        index: usize,
        layer: &Layer,
        target: Option<Target>,
        blob: Blob,
    ) -> Result<Unpacked, PullError> {
        self.check_size(layer, blob.size)?;
        self.progress.set(index, LayerStatus::Downloaded);
        let Some(target) = target else { return Ok(Unpacked::Later) };
        self.progress.set(index, LayerStatus::Extracting);
        let cancel = self.session.cancel_flag();
        let _at_work = self.progress.at_work();
        let applied = self.unpack(layer, blob.into_reader(), &target, cancel).await;
        self.finish(layer, target.key, applied).await
    }

    // A blob that another client or namespace has brought.
    async fn brought(
        &self,
        index: usize,
        layer: &Layer,
        target: Option<Target>,
    ) -> Result<Unpacked, PullError> {
        let digest = &layer.descriptor.digest;
        match self.open_local(digest).await? {
            Some(blob) => self.local(index, layer, target, blob).await,
            None => {
                Err(Error::unavailable(format!("content {digest}"), "was deleted meanwhile: pull again")
                    .into())
            }
        }
    }

    async fn open_local(&self, digest: &Digest) -> Result<Option<Blob>, PullError> {
        match self.puller.content.reader(&self.session.namespace, digest).await {
            Ok(blob) => {
                let labels = source_labels(self.origin);
                self.puller.add_labels(self.session, digest, labels).await?;
                Ok(Some(blob))
            }
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn check_size(&self, layer: &Layer, got: u64) -> Result<(), PullError> {
        let expected = layer.descriptor.size;
        if got == expected {
            return Ok(());
        }
        Err(PullError::Size { what: "layer", digest: layer.descriptor.digest.clone(), got, expected })
    }

    // Fetches from one host, and when that fails from the next ones; after wrong data from the beginning, also where an earlier,
    // interrupted fetch may be to blame.
    async fn fetch(
        &self,
        index: usize,
        layer: &Layer,
        mut target: Option<Target>,
        host: usize,
    ) -> Result<Unpacked, PullError> {
        let Origin::Registry { remote, .. } = self.origin else { return Ok(Unpacked::Later) };
        let mut hosts = remote.others(host);
        hosts.reverse();
        let mut host = host;
        loop {
            let writer = match self.writer(layer).await? {
                Some(writer) => writer,
                // Another client has fetched it meanwhile.
                None => return self.brought(index, layer, target).await,
            };
            let resumed = writer.offset() > 0;
            let again_to = target.as_ref().map(|target| (target.key.clone(), target.form));
            let error = match self.attempt(index, layer, target, host, writer).await {
                Ok(unpacked) => return Ok(unpacked),
                Err(error) => error,
            };
            let other = hosts.pop();
            let wrong = matches!(error, PullError::Fetch(FetchError::Digest { .. }));
            let elsewhere = matches!(&error, PullError::Fetch(error) if other.is_some() && !matches!(error, FetchError::Store(_)));
            if !(elsewhere || wrong && resumed) {
                return Err(error);
            }
            tracing::info!("fetching {} again: {error}", layer.descriptor.digest);
            host = other.unwrap_or(host);
            target = match again_to {
                Some((key, form)) => Some(self.renew(&key, form).await?),
                None => None,
            };
        }
    }

    // An empty snapshot in place of one that was partly unpacked into.
    async fn renew(&self, key: &str, form: Form) -> Result<Target, PullError> {
        self.session.remove(key).await;
        let chain_id = key.rsplit(' ').next().unwrap_or_default();
        let (key, _) = self.session.prepare(chain_id, "").await?;
        self.session.target(key, form).await
    }

    // Opens the ingest; `None` if the blob is there. One that another client writes is waited for.
    async fn writer(&self, layer: &Layer) -> Result<Option<Writer>, PullError> {
        let digest = &layer.descriptor.digest;
        loop {
            let options = WriterOptions {
                namespace: self.session.namespace.clone(),
                reference: format!("layer-{digest}"),
                total: layer.descriptor.size,
                expected: Some(digest.clone()),
                lease: Some(self.session.lease.clone()),
            };
            match self.puller.content.writer(options).await {
                Ok(writer) => return Ok(Some(writer)),
                Err(Error::AlreadyExists { .. }) => return Ok(None),
                Err(Error::Unavailable { .. }) => tokio::time::sleep(LOCKED_POLL).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn attempt(
        &self,
        index: usize,
        layer: &Layer,
        target: Option<Target>,
        host: usize,
        writer: Writer,
    ) -> Result<Unpacked, PullError> {
        let Origin::Registry { remote, .. } = self.origin else { return Ok(Unpacked::Later) };
        let digest = &layer.descriptor.digest;
        if writer.is_shared() {
            // Another namespace has verified it.
            self.commit(layer, writer, digest.clone()).await?;
            return self.brought(index, layer, target).await;
        }
        let _at_work = self.progress.at_work();
        let feed = Feed::new(writer.parts(), layer.descriptor.size, writer.frontier());
        self.progress.downloading(index, &feed);
        let hash = self.hash(digest, &feed);
        let fetch = BlobFetch { remote, host, digest, feed: &feed, connections: self.connections };
        let (arrived, all_here) = watch::channel(false);
        let fetched = async {
            let result = fetch.run(writer.missing()).await;
            if result.is_err() {
                feed.fail();
            }
            let got = hash.await;
            if let Err(error) = result {
                self.drop_if_full(writer, &error).await;
                return Err(error.into());
            }
            let got = got?;
            if got != *digest {
                writer.abort().await?;
                return Err(FetchError::Digest {
                    what: format!("blob {digest}"),
                    host: remote.host_name(host),
                    got: got.to_string(),
                }
                .into());
            }
            self.progress.set(index, LayerStatus::Downloaded);
            arrived.send_replace(true);
            self.commit(layer, writer, got).await
        };
        let unpacked = async {
            let target = target.as_ref()?;
            let cancel = self.session.cancel_flag();
            let reader = FeedReader::new(feed.clone(), cancel.clone());
            let work = self.unpack(layer, reader, target, cancel);
            tokio::pin!(work);
            let mut all_here = all_here;
            let arrived = async { all_here.wait_for(|arrived| *arrived).await.is_ok() };
            tokio::select! {
                result = &mut work => Some(result),
                arrived = arrived => {
                    if arrived {
                        self.progress.set(index, LayerStatus::Extracting);
                    }
                    Some(work.await)
                }
            }
        };
        // The fetch has the first word: data that does not unpack is often data that is wrong.
        let (fetched, unpacked) = tokio::join!(fetched, unpacked);
        if let Err(error) = fetched {
            // The ingest is let go of by all before it is opened again.
            self.progress.set(index, LayerStatus::Pulling);
            return Err(error);
        }
        match (target, unpacked) {
            (Some(target), Some(applied)) => self.finish(layer, target.key, applied).await,
            _ => Ok(Unpacked::Later),
        }
    }

    // A disk that is full gets its space back; otherwise the next pull goes on with what is there.
    async fn drop_if_full(&self, writer: Writer, error: &FetchError) {
        let full = matches!(error, FetchError::Store(store) if matches!(**store, Error::DiskFull { .. }));
        let too_long = matches!(error, FetchError::Long { .. });
        if (full || too_long)
            && let Err(error) = writer.abort().await
        {
            tracing::warn!("dropping what was fetched: {error}");
        }
    }

    async fn commit(&self, layer: &Layer, writer: Writer, got: Digest) -> Result<(), PullError> {
        let labels = source_labels(self.origin);
        let options = CommitOptions {
            size: Some(layer.descriptor.size),
            hashed: Some(got),
            labels,
            ..CommitOptions::default()
        };
        match writer.commit(options).await {
            Ok(_) | Err(Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    // Hashes what arrives, on a thread of its own.
    fn hash(
        &self,
        digest: &Digest,
        feed: &Arc<Feed>,
    ) -> impl Future<Output = Result<Digest, PullError>> + use<> {
        let mut reader = FeedReader::new(feed.clone(), self.session.cancel_flag());
        let mut hasher = Hasher::new(digest.algorithm());
        let job = self.session.tracker.spawn_blocking(move || {
            let mut buffer = vec![0; HASH_BUFFER];
            loop {
                match reader.read(&mut buffer)? {
                    0 => return Ok(hasher.digest()),
                    count => hasher.update(&buffer[..count]),
                }
            }
        });
        let digest = digest.clone();
        async move {
            let result: std::io::Result<Digest> =
                job.await.map_err(|_| Error::Lost { what: "hashing a layer" })?;
            result.map_err(|source| PullError::Layer { digest, source: UnpackError::Read(source) })
        }
    }

    async fn unpack(
        &self,
        layer: &Layer,
        reader: impl Read + Send + 'static,
        target: &Target,
        cancel: Arc<AtomicBool>,
    ) -> Result<Applied, PullError> {
        let digest = &layer.descriptor.digest;
        let lost = |source| PullError::Layer { digest: digest.clone(), source };
        let directory = target.directory.try_clone().map_err(|error| lost(UnpackError::Thread(error)))?;
        let (form, compression, compressed) = (target.form, layer.compression, layer.descriptor.size);
        let guard = CancelOnDrop(cancel.clone());
        let reader = self.progress.counted(reader);
        let job = self.session.tracker.spawn_blocking(move || {
            let options =
                Options { form, compression, compressed, limits: Limits::default(), cancel: &cancel };
            unpack::apply_layer(reader, directory.as_fd(), options)
        });
        let result = job.await;
        drop(guard);
        let applied = result.map_err(|_| Error::Lost { what: "unpacking a layer" })?;
        applied.map_err(|source| PullError::Layer { digest: digest.clone(), source })
    }

    async fn finish(
        &self,
        layer: &Layer,
        key: String,
        applied: Result<Applied, PullError>,
    ) -> Result<Unpacked, PullError> {
        match applied {
            Ok(applied) => Ok(Unpacked::Applied { key, applied }),
            Err(PullError::Layer { source: UnpackError::NeedsParent { entry }, .. }) => {
                tracing::debug!(
                    "{} is unpacked again on top of its parent: {entry}",
                    layer.descriptor.digest
                );
                self.session.remove(&key).await;
                Ok(Unpacked::Later)
            }
            Err(error) => Err(error),
        }
    }

    /// Applies a layer that is here on top of its parents, through a mount or into a directory that has all of them.
    pub async fn apply_merged(&self, layer: &Layer, target: Target) -> Result<Applied, PullError> {
        let digest = &layer.descriptor.digest;
        let blob = self.puller.content.reader(&self.session.namespace, digest).await?;
        let cancel = self.session.cancel_flag();
        let _at_work = self.progress.at_work();
        self.unpack(layer, blob.into_reader(), &target, cancel).await
    }
}

struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
