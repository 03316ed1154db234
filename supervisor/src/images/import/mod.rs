//! Importing: an archive of images, an OCI layout or what `docker save` writes, becomes content.
//!
//! What always holds: the archive is untrusted: sizes and numbers are bounded, names and links lead nowhere but within it, digests are
//! verified; what an image names is there when its record may be written; what was brought belongs to a lease from the beginning.

#![forbid(unsafe_code)]

mod docker;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

pub use self::read::Form;

use self::read::{File, Target};
use super::archive::{ArchiveError, INDEX_FILE, LAYOUT_VERSION};
use super::graph::{self, Budget, Child, Kind};
use super::held::Held;
use super::platform::Platform;
use super::pull::Puller;
use super::pull::selection::{Unpack, config_platform, unpack_for};
use crate::content::store::blocking;
use crate::content::{CommitOptions, ContentStore, Descriptor, Digest, WriterOptions};
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::leases::Resource;

/// What is wanted of an archive.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    pub form: Form,
    /// Layers of a docker archive are compressed where they are not.
    pub compress: bool,
    /// Of an index in the archive, only these; all if there is none.
    pub platforms: Vec<Platform>,
    /// Manifests and configs of the other platforms must be there, too.
    pub all_metadata: bool,
    pub manifest_limit: usize,
    pub unpacks: Vec<Unpack>,
}

/// What was in an archive.
#[derive(Debug, Clone)]
pub struct Imported {
    /// Stands for the archive as a whole.
    pub index: Descriptor,
    /// The images, with the annotations that name them.
    pub images: Vec<Descriptor>,
}

/// An archive's files.
#[derive(Debug, Default)]
pub struct Files {
    layout: Option<Bytes>,
    index: Option<Bytes>,
    docker: Option<Bytes>,
    /// It has the file by which docker named images before 1.10.
    legacy: bool,
    blobs: BTreeMap<String, File>,
    /// Names that stand for others; `None`: for something outside.
    links: BTreeMap<String, Option<String>>,
}

// What a document names.
struct Named {
    child: Child,
    /// With all below it.
    whole: bool,
    by: Digest,
    /// The archive may lack it.
    sparse: bool,
}

/// Imports archives.
pub struct Importer {
    content: Arc<ContentStore>,
    puller: Arc<Puller>,
}

impl Importer {
    pub fn new(content: &Arc<ContentStore>, puller: &Arc<Puller>) -> Arc<Importer> {
        Arc::new(Importer { content: content.clone(), puller: puller.clone() })
    }

    /// Reads an archive from a blocking source and unpacks what is asked for. What was brought is `held`'s; the images' records are
    /// the caller's to write.
    pub async fn import(
        &self,
        held: &Held,
        source: impl Read + Send + 'static,
        request: &ImportRequest,
    ) -> Result<Imported> {
        let files = self.read(held, source, request.form).await?;
        let (index, children) = match &files {
            Files { layout: Some(layout), .. } => self.layout(held, &files, layout).await?,
            Files { docker: Some(list), .. } => self.docker(held, &files, list, request).await?,
            Files { legacy: true, .. } => return Err(ArchiveError::Legacy.into()),
            _ => return Err(ArchiveError::Unrecognized.into()),
        };
        let manifests = self.walk(held, &index, children.clone(), request).await?;
        for (manifest, platform) in manifests {
            self.unpack(held, &manifest, platform, &request.unpacks).await?;
        }
        let images = children.into_iter().map(|child| child.descriptor).collect();
        Ok(Imported { index, images })
    }

    async fn read(&self, held: &Held, source: impl Read + Send + 'static, form: Form) -> Result<Files> {
        let (content, namespace) = (self.content.clone(), held.namespace().clone());
        let (lease, runtime) = (held.lease().to_owned(), Handle::current());
        blocking(move || {
            let target = Target { content: &content, namespace: &namespace, lease: &lease, runtime };
            read::read(source, form, &target)
        })
        .await
    }

    async fn layout(&self, held: &Held, files: &Files, layout: &Bytes) -> Result<(Descriptor, Vec<Child>)> {
        #[derive(serde::Deserialize)]
        struct Layout {
            #[serde(rename = "imageLayoutVersion")]
            version: String,
        }
        let failed =
            |error: serde_json::Error| ArchiveError::Json { file: "oci-layout", why: error.to_string() };
        let layout: Layout = serde_json::from_slice(layout).map_err(failed)?;
        if layout.version != LAYOUT_VERSION {
            return Err(ArchiveError::LayoutVersion(layout.version.chars().take(50).collect()).into());
        }
        let index = files.index.clone().ok_or_else(|| ArchiveError::Missing {
            what: "the file",
            name: INDEX_FILE.to_owned(),
            by: "its OCI layout".to_owned(),
        })?;
        let refuse = |rule| ArchiveError::Manifest { file: INDEX_FILE.to_owned(), rule };
        let children = graph::children(&index, graph::OCI_INDEX).map_err(refuse)?;
        let labels = graph::gc_labels(&children);
        let descriptor = self.store(held, index, graph::OCI_INDEX, labels).await?;
        Ok((descriptor, children))
    }

    // Puts a small document into the store.
    async fn store(&self, held: &Held, bytes: Bytes, media_type: &str, labels: Labels) -> Result<Descriptor> {
        let digest = Digest::of(&bytes);
        let size = bytes.len() as u64;
        let options = WriterOptions {
            namespace: held.namespace().clone(),
            reference: format!("import-{}-{digest}", held.lease()),
            total: size,
            expected: Some(digest.clone()),
            lease: Some(held.lease().to_owned()),
        };
        let written = async {
            let mut writer = self.content.writer(options).await?;
            if !writer.is_shared() {
                writer.write(bytes).await?;
            }
            writer.commit(CommitOptions { labels: labels.clone(), ..CommitOptions::default() }).await
        };
        match written.await {
            Ok(_) => {}
            Err(error) if error.is_already_exists() => self.label(held, &digest, labels).await?,
            Err(error) => return Err(error),
        }
        Ok(Descriptor { media_type: media_type.to_owned(), digest, size, annotations: Labels::new() })
    }

    async fn label(&self, held: &Held, digest: &Digest, labels: Labels) -> Result<()> {
        held.hold(&Resource::Content(digest.clone())).await?;
        if labels.is_empty() {
            return Ok(());
        }
        let keys: Vec<String> = labels.keys().cloned().collect();
        self.content.update(held.namespace(), digest, labels, Some(&keys)).await.map(drop)
    }

    // Checks that all is there that is wanted, and labels it; the manifests to unpack. An index may name images that the archive
    // has only in part, as long as it has one of them whole.
    async fn walk(
        &self,
        held: &Held,
        index: &Descriptor,
        top: Vec<Child>,
        request: &ImportRequest,
    ) -> Result<Vec<(Descriptor, Option<Platform>)>> {
        let (mut seen, mut budget) = (BTreeSet::new(), Budget::default());
        let (mut manifests, mut partial, mut missing) = (Vec::new(), BTreeSet::new(), None);
        budget.spend(&index.digest, 0, top.len())?;
        let named = |child| Named { child, whole: true, by: index.digest.clone(), sparse: false };
        let mut level: Vec<Named> = top.into_iter().map(named).collect();
        for depth in 1.. {
            let mut next = Vec::new();
            for Named { child: Child { descriptor, platform, .. }, whole, by, sparse } in level {
                if !seen.insert((descriptor.digest.clone(), whole)) {
                    continue;
                }
                match self.expect(held, &descriptor, &by).await {
                    Err(Error::Archive(error @ ArchiveError::Missing { .. })) if sparse => {
                        partial.extend([by, descriptor.digest]);
                        missing.get_or_insert(error);
                        continue;
                    }
                    expected => expected?,
                }
                let kind = Kind::of(&descriptor.media_type);
                if !kind.has_children() {
                    continue;
                }
                let children = graph::read(&self.content, held.namespace(), &descriptor).await?;
                budget.spend(&descriptor.digest, depth, children.len())?;
                self.label(held, &descriptor.digest, graph::gc_labels(&children)).await?;
                let sparse = sparse || kind == Kind::Index && children.len() > 1;
                let below = below(kind, children, whole, request);
                let by = descriptor.digest.clone();
                next.extend(below.into_iter().map(|(child, whole)| Named {
                    child,
                    whole,
                    by: by.clone(),
                    sparse,
                }));
                if kind == Kind::Manifest && whole {
                    manifests.push((descriptor, platform));
                }
            }
            if next.is_empty() {
                break;
            }
            level = next;
        }
        manifests.retain(|(manifest, _)| !partial.contains(&manifest.digest));
        match missing {
            Some(error) if manifests.is_empty() => Err(error.into()),
            _ => Ok(manifests),
        }
    }

    async fn expect(&self, held: &Held, descriptor: &Descriptor, parent: &Digest) -> Result<()> {
        let Descriptor { digest, size, media_type, .. } = descriptor;
        if !self.content.claim(held.namespace(), digest, Some(held.lease())).await? {
            if graph::is_non_distributable(media_type) {
                return Ok(());
            }
            let what = match Kind::of(media_type) {
                Kind::Manifest => "the manifest",
                Kind::Index => "the index",
                Kind::Config => "the config",
                Kind::Layer => "the layer",
                Kind::Attestation | Kind::Other => "the blob",
            };
            let (name, by) = (digest.to_string(), parent.to_string());
            return Err(ArchiveError::Missing { what, name, by }.into());
        }
        let got = self.content.info(held.namespace(), digest)?.size;
        if got == *size {
            return Ok(());
        }
        let (digest, expected) = (digest.clone(), *size);
        let error = super::pull::PullError::Size { what: "blob", digest, got, expected };
        Err(Arc::new(error).into())
    }

    async fn unpack(
        &self,
        held: &Held,
        manifest: &Descriptor,
        platform: Option<Platform>,
        unpacks: &[Unpack],
    ) -> Result<()> {
        if unpacks.is_empty() {
            return Ok(());
        }
        let children = graph::read(&self.content, held.namespace(), manifest).await?;
        let Some(config) = children.first().map(|child| &child.descriptor) else { return Ok(()) };
        if Kind::of(&config.media_type) != Kind::Config {
            return Ok(());
        }
        let platform = match platform {
            Some(platform) => platform,
            None => self.platform(held, config).await?.unwrap_or_else(Platform::host),
        };
        let Some(unpack) = unpack_for(unpacks, &platform) else { return Ok(()) };
        // Its config, which is held, holds the snapshot from here on.
        self.puller
            .unpack(held.namespace(), manifest, &platform, unpack.snapshotter.as_deref())
            .await
            .map(drop)
    }

    async fn platform(&self, held: &Held, config: &Descriptor) -> Result<Option<Platform>> {
        let blob = self.content.reader(held.namespace(), &config.digest).await?;
        Ok(config_platform(&blob.read_all(super::manifest::MAX_CONFIG).await?))
    }
}

// What is to be there of what a document names, and whether with all below it.
fn below(kind: Kind, children: Vec<Child>, whole: bool, request: &ImportRequest) -> Vec<(Child, bool)> {
    if kind == Kind::Manifest {
        let wanted = |child: &Child| whole || Kind::of(&child.descriptor.media_type) == Kind::Config;
        return children.into_iter().filter(wanted).map(|child| (child, whole)).collect();
    }
    let meant: BTreeSet<Digest> = graph::select(children.clone(), &request.platforms)
        .into_iter()
        .map(|child| child.descriptor.digest)
        .collect();
    let mut children = children;
    if request.manifest_limit > 0 {
        graph::sort(&mut children, &request.platforms);
        children.truncate(request.manifest_limit);
    }
    let marked = children.into_iter().map(|child| {
        let whole = whole && meant.contains(&child.descriptor.digest);
        (child, whole)
    });
    marked.filter(|(_, whole)| *whole || request.all_metadata).collect()
}
