//! Exporting: images become one archive that is an OCI layout and, for one platform, what `docker load` reads.
//!
//! What always holds: what cannot be exported is told before the first byte is written; each blob's digest is verified while it is
//! written; the same images make the same archive.

#![forbid(unsafe_code)]

mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use self::write::{Record, Source};
use super::archive::{
    ArchiveError, DOCKER_FILE, DockerImage, INDEX_FILE, LAYOUT_FILE, LAYOUT_VERSION, NAME, REF_NAME,
    REPOSITORIES_FILE,
};
use super::graph::{self, Budget, Child, Kind};
use super::held::Held;
use super::platform::Platform;
use super::reference::Reference;
use crate::content::{Blob, ContentStore, Descriptor, Digest};
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::leases::Resource;

const SOURCE: &str = "containerd.io/distribution.source.";

/// What is exported, and how.
#[derive(Debug, Clone)]
pub struct ExportRequest {
    /// Names and targets. The same target may have several names; an empty name is none.
    pub images: Vec<(String, Descriptor)>,
    /// Of an index, only these; the first is what `docker load` gets.
    pub platforms: Vec<Platform>,
    /// All that an index names, whatever the platform.
    pub all_platforms: bool,
    pub absent: Absent,
    pub docker: DockerManifest,
    pub non_distributable: NonDistributable,
}

/// What becomes of a platform whose image is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// It is an error.
    Refused,
    /// The others are exported.
    LeftOut,
}

/// Whether docker can load the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DockerManifest {
    Written,
    /// And the file by which docker named images before 1.10, which some tools still read.
    WithRepositories,
    LeftOut,
}

/// What becomes of layers that must not be handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonDistributable {
    Exported,
    LeftOut,
}

/// An archive that can be written.
pub struct Plan {
    records: BTreeMap<String, Record>,
}

// What a plan is made with.
struct Planner<'a> {
    content: &'a ContentStore,
    held: &'a Held,
    request: &'a ExportRequest,
    records: BTreeMap<String, Record>,
    folders: BTreeSet<String>,
    /// For docker: the manifest of an image, and its tags, in order.
    docker: Vec<(Descriptor, Vec<String>)>,
}

/// Finds all that belongs to the archive. It is `held` from here on.
pub async fn plan(content: &Arc<ContentStore>, held: &Held, request: &ExportRequest) -> Result<Plan> {
    let mut planner = Planner {
        content,
        held,
        request,
        records: BTreeMap::new(),
        folders: BTreeSet::new(),
        docker: Vec::new(),
    };
    let mut index = Vec::new();
    for (name, target) in &request.images {
        held.hold(&Resource::Content(target.digest.clone())).await?;
        // What stands for the name of one that has none is no name.
        let shown = if name.is_empty() { format!("image {}", target.digest) } else { name.clone() };
        planner.image(&shown, target).await?;
        index.push(planner.entry(name, target)?);
    }
    planner.documents(index).await?;
    Ok(Plan { records: planner.records })
}

impl Plan {
    /// Writes the archive; blocks. How many bytes it has.
    pub fn write(&self, out: impl Write) -> Result<u64> {
        write::write(&self.records, out)
    }
}

impl Planner<'_> {
    async fn image(&mut self, name: &str, target: &Descriptor) -> Result<()> {
        match Kind::of(&target.media_type) {
            Kind::Manifest => {
                self.tree(name, target).await?;
                self.name_for_docker(target, name);
                Ok(())
            }
            Kind::Index => self.index(name, target).await,
            _ => {
                let (image, media_type) = (name.to_owned(), target.media_type.clone());
                Err(ArchiveError::NoManifest { image, media_type }.into())
            }
        }
    }

    async fn index(&mut self, name: &str, target: &Descriptor) -> Result<()> {
        self.blob(name, "the index", target).await?;
        let mut children = graph::read(self.content, self.held.namespace(), target).await?;
        if self.request.absent == Absent::LeftOut {
            children = self.here(children).await?;
        }
        let mut meant = graph::select(children.clone(), &self.request.platforms);
        let host = [Platform::host()];
        let preferred: &[Platform] =
            if self.request.platforms.is_empty() { &host } else { &self.request.platforms };
        graph::sort(&mut meant, preferred);
        let Some(first) = meant.iter().find(|child| child.platform.is_some()).or(meant.first()) else {
            let wanted: Vec<String> = self.request.platforms.iter().map(Platform::to_string).collect();
            return Err(ArchiveError::NoPlatform { image: name.to_owned(), wanted: wanted.join(", ") }.into());
        };
        if Kind::of(&first.descriptor.media_type) == Kind::Manifest {
            self.name_for_docker(&first.descriptor, name);
        }
        let exported: Vec<Child> = if self.request.all_platforms { children } else { meant };
        for child in &exported {
            self.tree(name, &child.descriptor).await?;
        }
        Ok(())
    }

    // Those of which nothing is missing.
    async fn here(&self, children: Vec<Child>) -> Result<Vec<Child>> {
        let mut here = Vec::new();
        for child in children {
            if graph::is_whole(self.content, self.held.namespace(), &child.descriptor).await? {
                here.push(child);
            }
        }
        Ok(here)
    }

    fn name_for_docker(&mut self, manifest: &Descriptor, name: &str) {
        // Docker knows tags only: an image that is named by its digest has none.
        let tag = Reference::parse(name).ok().filter(|reference| reference.digest().is_none());
        let tag = tag.map(|reference| reference.familiar());
        match self.docker.iter_mut().find(|(known, _)| known.digest == manifest.digest) {
            Some((_, tags)) => {
                tags.extend(tag.filter(|tag| !tags.contains(tag)).into_iter().collect::<Vec<_>>())
            }
            None => self.docker.push((manifest.clone(), tag.into_iter().collect())),
        }
    }

    // A manifest or a nested index, with all below it.
    async fn tree(&mut self, name: &str, top: &Descriptor) -> Result<()> {
        let mut budget = Budget::default();
        let mut level = vec![top.clone()];
        let mut seen = BTreeSet::new();
        for depth in 1.. {
            let mut next = Vec::new();
            for descriptor in level {
                if !seen.insert(descriptor.digest.clone()) {
                    continue;
                }
                let what = match Kind::of(&descriptor.media_type) {
                    Kind::Manifest => "the manifest",
                    Kind::Index => "the index",
                    Kind::Config => "the config",
                    Kind::Layer => "the layer",
                    Kind::Attestation | Kind::Other => "the blob",
                };
                let left_out = self.request.non_distributable == NonDistributable::LeftOut
                    && graph::is_non_distributable(&descriptor.media_type);
                if left_out {
                    continue;
                }
                self.blob(name, what, &descriptor).await?;
                let children = graph::read(self.content, self.held.namespace(), &descriptor).await?;
                budget.spend(&descriptor.digest, depth, children.len())?;
                next.extend(children.into_iter().map(|child| child.descriptor));
            }
            if next.is_empty() {
                break;
            }
            level = next;
        }
        Ok(())
    }

    async fn blob(&mut self, image: &str, what: &'static str, descriptor: &Descriptor) -> Result<()> {
        let digest = &descriptor.digest;
        let path = path(digest);
        if self.records.contains_key(&path) {
            return Ok(());
        }
        let blob = match self.content.reader(self.held.namespace(), digest).await {
            Ok(blob) => blob,
            Err(Error::NotFound { .. }) => {
                let (image, digest) = (image.to_owned(), digest.clone());
                return Err(ArchiveError::NotHere { image, what, digest }.into());
            }
            Err(error) => return Err(error),
        };
        if blob.size != descriptor.size {
            let (digest, got, expected) = (digest.clone(), blob.size, descriptor.size);
            return Err(Arc::new(super::pull::PullError::Size { what: "blob", digest, got, expected }).into());
        }
        // Opened again when it is written: an image may have more blobs than a process may have files.
        let Blob { digest, size, .. } = blob;
        let file = self.content.path(&digest);
        self.folders.insert(digest.algorithm().name().to_owned());
        self.records.insert(path, Record { mode: 0o444, source: Source::Blob { digest, size, file } });
        Ok(())
    }

    // An image in the archive's index, with its name and where it came from.
    fn entry(&self, name: &str, target: &Descriptor) -> Result<Value> {
        let mut annotations: Labels = target.annotations.clone();
        let info = self.content.info(self.held.namespace(), &target.digest)?;
        annotations.extend(info.labels.into_iter().filter(|(key, _)| key.starts_with(SOURCE)));
        if name.is_empty() {
            annotations.remove(NAME);
            annotations.remove(REF_NAME);
            return Ok(entry(target, annotations));
        }
        annotations.insert(NAME.to_owned(), name.to_owned());
        let tag = Reference::parse_untagged(name).ok().filter(|reference| reference.digest().is_none());
        let tag = tag.and_then(|reference| reference.tag().map(str::to_owned));
        annotations.insert(REF_NAME.to_owned(), tag.unwrap_or_else(|| name.to_owned()));
        Ok(entry(target, annotations))
    }

    async fn documents(&mut self, index: Vec<Value>) -> Result<()> {
        let layout = json!({"imageLayoutVersion": LAYOUT_VERSION});
        self.text(LAYOUT_FILE, 0o444, &layout);
        let index = json!({"schemaVersion": 2, "mediaType": graph::OCI_INDEX, "manifests": index});
        self.text(INDEX_FILE, 0o644, &index);
        if self.request.docker != DockerManifest::LeftOut && !self.docker.is_empty() {
            let mut images = Vec::new();
            for (manifest, tags) in std::mem::take(&mut self.docker) {
                images.extend(self.docker_image(&manifest, tags).await?);
            }
            if self.request.docker == DockerManifest::WithRepositories {
                self.text(REPOSITORIES_FILE, 0o644, &repositories(&images));
            }
            self.text(DOCKER_FILE, 0o644, &json!(images));
        }
        for folder in std::mem::take(&mut self.folders) {
            self.records.insert("blobs/".to_owned(), Record { mode: 0o755, source: Source::Folder });
            self.records.insert(format!("blobs/{folder}/"), Record { mode: 0o755, source: Source::Folder });
        }
        Ok(())
    }

    // Artifacts are none of docker's.
    async fn docker_image(&self, manifest: &Descriptor, tags: Vec<String>) -> Result<Option<DockerImage>> {
        let children = graph::read(self.content, self.held.namespace(), manifest).await?;
        let mut children = children.into_iter().map(|child| child.descriptor);
        let config = children.next().filter(|config| Kind::of(&config.media_type) == Kind::Config);
        Ok(config.map(|config| DockerImage {
            config: path(&config.digest),
            repo_tags: Some(tags).filter(|tags| !tags.is_empty()),
            layers: children.map(|layer| path(&layer.digest)).collect(),
        }))
    }

    fn text(&mut self, name: &str, mode: u32, text: &Value) {
        let source = Source::Text(Bytes::from(text.to_string()));
        self.records.insert(name.to_owned(), Record { mode, source });
    }
}

fn entry(target: &Descriptor, annotations: Labels) -> Value {
    let Descriptor { media_type, digest, size, .. } = target;
    let mut entry = json!({"mediaType": media_type, "digest": digest.to_string(), "size": size});
    if !annotations.is_empty() {
        entry["annotations"] = json!(annotations);
    }
    entry
}

// For each repository its tags, with the uppermost layer of each.
fn repositories(images: &[DockerImage]) -> Value {
    let mut all: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for image in images {
        let Some(top) = image.layers.last().and_then(|layer| layer.rsplit('/').next()) else { continue };
        for (repository, tag) in image.repo_tags.iter().flatten().filter_map(|tag| tag.rsplit_once(':')) {
            all.entry(repository).or_default().insert(tag, top);
        }
    }
    json!(all)
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.digits())
}
