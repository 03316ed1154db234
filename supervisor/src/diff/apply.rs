//! Applying a layer to mounts: what containerd's clients ask for when they unpack an image themselves.
//!
//! What always holds: a layer is refused as in a pull.

#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{CancelOnDrop, PLAIN_LAYER, UNCOMPRESSED};
use crate::content::store::blocking;
use crate::content::{ContentStore, Descriptor, Digest};
use crate::error::{Error, Result};
use crate::images::detached;
use crate::images::pull::PullError;
use crate::images::unpack::{self, Applied, Compression, Form, Limits, Options, UnpackError};
use crate::labels::Labels;
use crate::namespaces::Namespace;
use crate::snapshots::Mount;

/// Whether the files are on the disk when the call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When the snapshot is committed.
    Later,
    Now,
}

/// Applies the layer `diff` to `mounts`; the result describes the tar stream inside it.
pub async fn apply(
    content: &Arc<ContentStore>,
    namespace: &Namespace,
    diff: &Descriptor,
    mounts: Vec<Mount>,
    durability: Durability,
) -> Result<Descriptor> {
    let compression =
        Compression::of_media_type(&diff.media_type).map_err(|source| refused(&diff.digest, source))?;
    let blob = content.reader(namespace, &diff.digest).await?;
    if diff.size > 0 && blob.size != diff.size {
        let (digest, got, expected) = (diff.digest.clone(), blob.size, diff.size);
        return Err(Arc::new(PullError::Size { what: "layer", digest, got, expected }).into());
    }
    let cancel = Arc::new(AtomicBool::new(false));
    // A client that goes away ends the work.
    let _guard = CancelOnDrop(cancel.clone());
    let digest = diff.digest.clone();
    let applied = blocking(move || {
        let (root, form) = match upper_alone(&mounts) {
            Some(upper) => (detached::open(&[upper])?, Form::Upper),
            None => (detached::open(&mounts)?, Form::Merged),
        };
        let (compressed, limits) = (blob.size, Limits::default());
        let options = Options { form, compression, compressed, limits, cancel: &cancel };
        let applied = unpack::apply_layer(blob.into_reader(), root.as_fd(), options)
            .map_err(|source| refused(&digest, source))?;
        if durability == Durability::Now {
            rustix::fs::syncfs(&root).map_err(|errno| Error::io("syncing", "the snapshot", errno.into()))?;
        }
        Ok(applied)
    })
    .await?;
    describe(content, namespace, diff, &applied).await
}

// An upper directory without lower ones cannot be mounted. Clients that unpack layers side by side mean the directory itself, as an
// overlay mount will see it later.
fn upper_alone(mounts: &[Mount]) -> Option<Mount> {
    let [mount] = mounts else { return None };
    let find = |key: &str| mount.options.iter().find_map(|option| option.strip_prefix(key));
    if mount.kind != "overlay" || find("lowerdir").is_some() {
        return None;
    }
    let source = find("upperdir=")?.to_owned();
    Some(Mount { kind: "bind".to_owned(), source, target: String::new(), options: Vec::new() })
}

fn refused(digest: &Digest, source: UnpackError) -> Error {
    Arc::new(PullError::Layer { digest: digest.clone(), source }).into()
}

// Checked against what was known of the layer, and noted if nothing was.
async fn describe(
    content: &ContentStore,
    namespace: &Namespace,
    diff: &Descriptor,
    applied: &Applied,
) -> Result<Descriptor> {
    let diff_id = applied.diff_id();
    let info = content.info(namespace, &diff.digest)?;
    match info.labels.get(UNCOMPRESSED) {
        Some(expected) if *expected != diff_id => {
            let (digest, got, expected) = (diff.digest.clone(), diff_id, expected.clone());
            return Err(Arc::new(PullError::DiffId { digest, got, expected }).into());
        }
        Some(_) => {}
        None => {
            let labels = Labels::from([(UNCOMPRESSED.to_owned(), diff_id.clone())]);
            content.update(namespace, &diff.digest, labels, Some(&[UNCOMPRESSED.to_owned()])).await?;
        }
    }
    let (digest, annotations) = (Digest::parse(&diff_id)?, Labels::new());
    Ok(Descriptor { media_type: PLAIN_LAYER.to_owned(), digest, size: applied.inflated, annotations })
}
