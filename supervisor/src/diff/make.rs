//! A layer in content, made of the difference between two mount lists.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};

use super::layer::Layer;
use super::plan::{Plan, plan, read_only};
use super::stream::{self, Made};
use super::upper::{self, Fit};
use super::{CancelOnDrop, PLAIN_LAYER, UNCOMPRESSED, walk};
use crate::content::store::blocking;
use crate::content::{CommitOptions, ContentStore, Descriptor, Parts, Writer, WriterOptions};
use crate::error::{Error, Result};
use crate::images::detached;
use crate::images::unpack::Compression;
use crate::labels::Labels;
use crate::namespaces::Namespace;
use crate::snapshots::Mount;

const GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// What layer is wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Empty: tar+gzip.
    pub media_type: String,
    /// Of the ingest; empty: one of its own.
    pub reference: String,
    pub labels: Labels,
    /// Times of files that are later become this one.
    pub newest: Option<Timestamp>,
    pub lease: Option<String>,
}

/// Makes the layer that leads from `left` to `right`.
pub async fn make(
    content: &Arc<ContentStore>,
    namespace: &Namespace,
    (left, right): (Vec<Mount>, Vec<Mount>),
    wanted: Wanted,
) -> Result<Descriptor> {
    let (media_type, compression) = match wanted.media_type.as_str() {
        "" | GZIP_LAYER => (GZIP_LAYER, Compression::Gzip),
        PLAIN_LAYER => (PLAIN_LAYER, Compression::Plain),
        ZSTD_LAYER => (ZSTD_LAYER, Compression::Zstd),
        other => {
            let shown: String = other.chars().take(200).collect();
            return Err(Error::Unimplemented { what: format!("a layer of the media type {shown:?}") });
        }
    };
    let own = wanted.reference.is_empty();
    let reference = if own { unique() } else { wanted.reference };
    let mut writer = content
        .writer(WriterOptions {
            namespace: namespace.clone(),
            reference,
            total: 0,
            expected: None,
            lease: wanted.lease.clone(),
        })
        .await?;
    writer.truncate(0).await?;
    let newest = wanted.newest.map(|newest| u64::try_from(newest.as_second()).unwrap_or(0));
    let cancel = Arc::new(AtomicBool::new(false));
    let _guard = CancelOnDrop(Arc::clone(&cancel));
    let job = Job { left, right, compression, newest, cancel };
    let made = match write(&mut writer, job).await {
        Ok(made) => made,
        Err(error) => {
            if (own || matches!(error, Error::DiskFull { .. }))
                && let Err(error) = writer.abort().await
            {
                tracing::warn!("dropping an unfinished layer: {error}");
            }
            return Err(error);
        }
    };
    let mut labels = wanted.labels;
    if compression != Compression::Plain {
        labels.insert(UNCOMPRESSED.to_owned(), made.diff_id.to_string());
    }
    commit(content, namespace, writer, made, labels, media_type, wanted.lease.as_deref()).await
}

/// What is to be compared, and how it is written.
#[derive(Clone)]
struct Job {
    left: Vec<Mount>,
    right: Vec<Mount>,
    compression: Compression,
    newest: Option<u64>,
    cancel: Arc<AtomicBool>,
}

async fn write(writer: &mut Writer, job: Job) -> Result<Made> {
    if let Plan::Upper(directory) = plan(&job.left, &job.right) {
        let (parts, job) = (writer.parts(), job.clone());
        let made = blocking(move || {
            let upper = rustix::fs::open(&directory, DIRECTORY, Mode::empty())
                .map_err(|errno| Error::io("opening the snapshot", &directory, errno.into()))?;
            from_upper(&parts, &job, &upper)
        });
        if let (Fit::Complete, made) = made.await? {
            return Ok(made);
        }
        writer.truncate(0).await?;
    }
    let parts = writer.parts();
    blocking(move || from_both(&parts, &job)).await
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn from_upper(parts: &Parts, job: &Job, upper: &OwnedFd) -> Result<(Fit, Made)> {
    let below = open(&job.left)?;
    stream::run(parts, job.compression, &job.cancel, |out| {
        upper::run(&mut Layer::new(out, upper.as_fd(), job.newest), below.as_ref(), upper)
    })
}

fn from_both(parts: &Parts, job: &Job) -> Result<Made> {
    let lower = open(&job.left)?;
    let Some(upper) = open(&job.right)? else {
        return Err(Error::invalid("diff", "names no mounts to compare with"));
    };
    let ((), made) = stream::run(parts, job.compression, &job.cancel, |out| {
        walk::run(&mut Layer::new(out, upper.as_fd(), job.newest), lower.as_ref(), &upper)
    })?;
    Ok(made)
}

fn open(mounts: &[Mount]) -> Result<Option<OwnedFd>> {
    if mounts.is_empty() { Ok(None) } else { detached::open(&read_only(mounts)).map(Some) }
}

async fn commit(
    content: &Arc<ContentStore>,
    namespace: &Namespace,
    writer: Writer,
    made: Made,
    labels: Labels,
    media_type: &str,
    lease: Option<&str>,
) -> Result<Descriptor> {
    let Made { diff_id, digest } = made;
    let options =
        CommitOptions { hashed: Some(digest.clone()), labels: labels.clone(), ..CommitOptions::default() };
    let size = match writer.commit(options).await {
        Ok(info) => info.size,
        Err(Error::AlreadyExists { .. }) => {
            // The same layer was made before, or came with an image.
            content.claim(namespace, &digest, lease).await?;
            let info = content.info(namespace, &digest)?;
            if labels.contains_key(UNCOMPRESSED) && !info.labels.contains_key(UNCOMPRESSED) {
                let labels = Labels::from([(UNCOMPRESSED.to_owned(), diff_id.to_string())]);
                content.update(namespace, &digest, labels, Some(&[UNCOMPRESSED.to_owned()])).await?;
            }
            info.size
        }
        Err(error) => return Err(error),
    };
    Ok(Descriptor { media_type: media_type.to_owned(), digest, size, annotations: Labels::new() })
}

fn unique() -> String {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    format!("diff-{nanos}-{}", crate::hex::encode(&rand::random::<[u8; 4]>()))
}
