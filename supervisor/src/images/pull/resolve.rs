//! From a reference to the manifest, config and layers of one platform's image.
//!
//! What always holds: every document is verified against the digest and size by which it was named, and stored with labels that
//! keep what it names from the collector.

#![forbid(unsafe_code)]

use bytes::Bytes;

use super::Puller;
use super::error::PullError;
use super::session::Session;
use crate::content::{CommitOptions, Descriptor, Digest, Hasher, WriterOptions};
use crate::error::Error;
use crate::images::fetch::error::FetchError;
use crate::images::fetch::retry::Patience;
use crate::images::fetch::{MAX_MANIFEST, Remote};
use crate::images::manifest::{self, Document, Manifest};
use crate::images::platform::Platform;
use crate::images::reference::Reference;
use crate::labels::Labels;
use crate::namespaces::Namespace;

const REFERS: &str = "containerd.io/gc.ref.content";
const SOURCE: &str = "containerd.io/distribution.source";
/// Bytes; longer source labels of much-copied blobs are left as they are.
const MAX_SOURCE: usize = 2048;

/// Where documents and blobs come from.
#[derive(Clone, Copy)]
pub enum Origin<'a> {
    Registry {
        remote: &'a Remote,
        reference: &'a Reference,
        host: usize,
    },
    /// Only what is here already.
    Local,
}

/// An image of one platform, all its documents stored.
pub struct Resolved {
    pub target: Descriptor,
    pub manifest: Manifest,
    pub diff_ids: Vec<String>,
    pub chain_ids: Vec<String>,
}

/// A manifest or index, verified.
struct Read {
    bytes: Bytes,
    document: Document,
    descriptor: Descriptor,
}

impl Puller {
    /// Asks the registry what the reference stands for. The second value is the host that has answered.
    pub(super) async fn ask(
        &self,
        remote: &Remote,
        reference: &Reference,
    ) -> Result<(Bytes, Descriptor, usize), PullError> {
        let what = format!("manifest for {}", reference.familiar());
        let fetched = remote.manifest(reference.object(), &what).await?;
        let size = fetched.bytes.len() as u64;
        let descriptor = Descriptor {
            media_type: fetched.media_type,
            digest: fetched.digest,
            size,
            annotations: Labels::new(),
        };
        Ok((fetched.bytes, descriptor, fetched.host))
    }

    /// Follows indexes down to the platform's image, and reads its config.
    pub(super) async fn resolve(
        &self,
        session: &Session,
        origin: Origin<'_>,
        (bytes, target): (Bytes, Descriptor),
        platform: &Platform,
    ) -> Result<Resolved, PullError> {
        let mut read = self.read(bytes, target)?;
        let target = read.descriptor.clone();
        for _ in 0..=manifest::MAX_DEPTH {
            let entries = match read.document {
                Document::Image(manifest) => {
                    return self.image(session, origin, target, read.descriptor, read.bytes, manifest).await;
                }
                Document::Index(ref entries) => entries,
            };
            let refuse = |rule| PullError::manifest(&read.descriptor.digest, rule);
            let chosen = manifest::select(entries, platform).map_err(refuse)?;
            let index = entries
                .iter()
                .position(|entry| entry.descriptor.digest == chosen.descriptor.digest)
                .unwrap_or_default();
            let labels =
                Labels::from([(format!("{REFERS}.m.{index}"), chosen.descriptor.digest.to_string())]);
            self.store(session, origin, "index", &read.descriptor, read.bytes.clone(), labels).await?;
            let bytes =
                self.document(session, origin, "manifest", &chosen.descriptor, MAX_MANIFEST as u64).await?;
            read = self.read(bytes, chosen.descriptor)?;
        }
        Err(PullError::manifest(&target.digest, manifest::ManifestRule::TooDeep))
    }

    fn read(&self, bytes: Bytes, mut descriptor: Descriptor) -> Result<Read, PullError> {
        let parsed = manifest::parse(&bytes, &descriptor.media_type);
        let (document, media_type) = parsed.map_err(|rule| PullError::manifest(&descriptor.digest, rule))?;
        descriptor.media_type = media_type;
        Ok(Read { bytes, document, descriptor })
    }

    async fn image(
        &self,
        session: &Session,
        origin: Origin<'_>,
        target: Descriptor,
        descriptor: Descriptor,
        bytes: Bytes,
        manifest: Manifest,
    ) -> Result<Resolved, PullError> {
        let mut labels = Labels::from([(format!("{REFERS}.config"), manifest.config.digest.to_string())]);
        for (index, layer) in manifest.layers.iter().enumerate() {
            labels.insert(format!("{REFERS}.l.{index}"), layer.descriptor.digest.to_string());
        }
        self.store(session, origin, "manifest", &descriptor, bytes, labels).await?;
        let config = self.document(session, origin, "config", &manifest.config, manifest::MAX_CONFIG).await?;
        let refuse = |rule| PullError::Config { digest: manifest.config.digest.clone(), rule };
        let diff_ids = manifest::diff_ids(&config, manifest.layers.len()).map_err(refuse)?;
        let chain_ids = manifest::chain_ids(&diff_ids);
        let mut labels = Labels::new();
        if let Some(chain_id) = chain_ids.last() {
            labels.insert(
                format!("containerd.io/gc.ref.snapshot.{}", session.snapshotter.name()),
                chain_id.clone(),
            );
        }
        self.store(session, origin, "config", &manifest.config, config, labels).await?;
        Ok(Resolved { target, manifest, diff_ids, chain_ids })
    }

    /// A document that another one names: from here if it is here, else from the registry; verified.
    pub(super) async fn document(
        &self,
        session: &Session,
        origin: Origin<'_>,
        what: &'static str,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Bytes, PullError> {
        let Descriptor { digest, size, .. } = descriptor;
        if *size > limit {
            return Err(FetchError::TooLong { what: format!("{what} {digest}"), limit }.into());
        }
        let local = match self.content.reader(&session.namespace, digest).await {
            Ok(blob) => Some(blob.read_all(limit).await?),
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let bytes = match (local, origin) {
            (Some(bytes), _) => bytes,
            (None, Origin::Local) => return Err(Error::not_found("content", digest.as_str()).into()),
            (None, Origin::Registry { remote, .. }) if what == "manifest" => {
                remote.manifest(digest.as_str(), &format!("manifest {digest}")).await?.bytes
            }
            (None, Origin::Registry { remote, host, .. }) => {
                let mut others = remote.others(host).into_iter();
                let (mut host, mut patience) = (host, Patience::new());
                loop {
                    let error = match remote.small_blob(host, digest, *size).await {
                        Ok(bytes) => break bytes,
                        Err(error) => error,
                    };
                    if let Err(error) = patience.wait(error).await {
                        let Some(other) = others.next() else { return Err(error.into()) };
                        tracing::info!("{what} {digest} is asked of the next host: {error}");
                        (host, patience) = (other, Patience::new());
                    }
                }
            }
        };
        if bytes.len() as u64 != *size {
            return Err(PullError::Size {
                what,
                digest: digest.clone(),
                got: bytes.len() as u64,
                expected: *size,
            });
        }
        Ok(bytes)
    }

    /// Stores a document after it was verified, or adds the labels to the one that is there.
    pub(super) async fn store(
        &self,
        session: &Session,
        origin: Origin<'_>,
        what: &'static str,
        descriptor: &Descriptor,
        bytes: Bytes,
        mut labels: Labels,
    ) -> Result<(), PullError> {
        let digest = &descriptor.digest;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        if hasher.digest() != *digest {
            return Err(FetchError::Digest {
                what: format!("{what} {digest}"),
                host: "the source".into(),
                got: hasher.digest().to_string(),
            }
            .into());
        }
        labels.extend(source_labels(origin));
        let options = WriterOptions {
            namespace: session.namespace.clone(),
            reference: format!("{what}-{digest}"),
            total: bytes.len() as u64,
            expected: Some(digest.clone()),
            lease: Some(session.lease.clone()),
        };
        let _lock = self.locks.lock(format!("{} {digest}", session.namespace)).await;
        let written = async {
            let mut writer = self.content.writer(options).await?;
            if !writer.is_shared() {
                if writer.offset() > 0 {
                    writer.truncate(0).await?;
                }
                writer.write(bytes).await?;
            }
            writer.commit(CommitOptions { labels: labels.clone(), ..CommitOptions::default() }).await
        };
        match written.await {
            Ok(_) => Ok(()),
            Err(Error::AlreadyExists { .. }) => Ok(self.add_labels(session, digest, labels).await?),
            Err(error) => Err(error.into()),
        }
    }

    /// Holds a blob that was here before for the session, and adds labels to it.
    pub(super) async fn add_labels(
        &self,
        session: &Session,
        digest: &Digest,
        labels: Labels,
    ) -> Result<(), Error> {
        let resource = crate::leases::Resource::Content(digest.clone());
        self.leases.add(&session.namespace, &session.lease, &resource).await?;
        self.merge_labels(&session.namespace, digest, labels).await
    }

    pub(super) async fn merge_labels(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        mut labels: Labels,
    ) -> Result<(), Error> {
        let info = self.content.info(namespace, digest)?;
        for (key, value) in &mut labels {
            if let Some(before) = info.labels.get(key).filter(|_| key.starts_with(SOURCE)) {
                *value = merge_source(before, value);
            }
        }
        labels.retain(|key, value| info.labels.get(key) != Some(value));
        if labels.is_empty() {
            return Ok(());
        }
        let keys: Vec<String> = labels.keys().cloned().collect();
        self.content.update(namespace, digest, labels, Some(&keys)).await.map(drop)
    }
}

/// Where a blob can be had, for later pushes to mount it from.
pub fn source_label(reference: &Reference) -> (String, String) {
    (format!("{SOURCE}.{}", reference.registry()), reference.repository().to_owned())
}

/// As [`source_label`], of wherever it comes from.
pub fn source_labels(origin: Origin<'_>) -> Labels {
    match origin {
        Origin::Registry { reference, .. } => Labels::from([source_label(reference)]),
        Origin::Local => Labels::new(),
    }
}

/// Adds a repository to those that a label lists.
pub fn merge_source(before: &str, repository: &str) -> String {
    if before.split(',').any(|known| known == repository) || before.len() + repository.len() > MAX_SOURCE {
        return before.to_owned();
    }
    format!("{before},{repository}")
}
