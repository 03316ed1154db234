//! What `docker save` writes: `manifest.json` names each image's config, layers and tags; a manifest is made of that.
//!
//! What always holds: the manifest describes the blobs as they are in the store, however the archive packed them.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::Write;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::read::File;
use super::{Files, ImportRequest, Importer};
use crate::content::store::blocking;
use crate::content::{CommitOptions, Descriptor, Digest, Hasher, WriterOptions};
use crate::error::{Error, Result};
use crate::filters::Filter;
use crate::images::archive::{ArchiveError, DOCKER_FILE, DockerImage, NAME, REF_NAME};
use crate::images::graph::{self, Child};
use crate::images::held::Held;
use crate::images::manifest::{MAX_CONFIG, MAX_LAYERS};
use crate::images::pull::selection::config_platform;
use crate::images::reference::Reference;
use crate::labels::Labels;

const UNCOMPRESSED: &str = "containerd.io/uncompressed";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Images of one archive, and their tags.
const MAX_IMAGES: usize = 1024;
const BUFFER: usize = 256 * 1024;

impl Importer {
    /// An index of the images that `manifest.json` lists.
    pub(super) async fn docker(
        &self,
        held: &Held,
        files: &Files,
        list: &Bytes,
        request: &ImportRequest,
    ) -> Result<(Descriptor, Vec<Child>)> {
        let failed =
            |error: serde_json::Error| ArchiveError::Json { file: DOCKER_FILE, why: error.to_string() };
        let images: Vec<DockerImage> = serde_json::from_slice(list).map_err(failed)?;
        let tags: usize = images.iter().map(|image| 1 + image.repo_tags.as_ref().map_or(0, Vec::len)).sum();
        if tags > MAX_IMAGES {
            return Err(ArchiveError::Many { what: "its images and tags", limit: MAX_IMAGES }.into());
        }
        let known = self.known_layers(held)?;
        let mut children = Vec::new();
        for image in &images {
            let child = self.docker_image(held, files, image, request, &known).await?;
            let tags = image.repo_tags.as_deref().unwrap_or_default();
            if tags.is_empty() {
                children.push(child);
                continue;
            }
            for tag in tags {
                let mut named = child.clone();
                named.descriptor.annotations = names(tag)?;
                children.push(named);
            }
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": graph::OCI_INDEX,
            "manifests": children.iter().map(entry).collect::<Vec<_>>(),
        });
        let labels = graph::gc_labels(&children);
        let index = self.store(held, index.to_string().into(), graph::OCI_INDEX, labels).await?;
        Ok((index, children))
    }

    async fn docker_image(
        &self,
        held: &Held,
        files: &Files,
        image: &DockerImage,
        request: &ImportRequest,
        known: &BTreeMap<String, Digest>,
    ) -> Result<Child> {
        if image.layers.len() > MAX_LAYERS {
            return Err(ArchiveError::Many { what: "the layers of an image", limit: MAX_LAYERS }.into());
        }
        let config = files.find("the config", &image.config, DOCKER_FILE)?;
        let blob = self.content.reader(held.namespace(), &config.digest).await?;
        let platform = config_platform(&blob.read_all(MAX_CONFIG).await?);
        let mut layers = Vec::new();
        for name in &image.layers {
            let file = files.find("the layer", name, DOCKER_FILE)?;
            layers.push(self.docker_layer(held, file, request, known).await?);
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": graph::DOCKER_MANIFEST,
            "config": {"mediaType": graph::DOCKER_CONFIG, "digest": config.digest.to_string(), "size": config.size},
            "layers": layers,
        });
        let bytes = Bytes::from(manifest.to_string());
        let refuse = |rule| ArchiveError::Manifest { file: DOCKER_FILE.to_owned(), rule };
        let labels = graph::gc_labels(&graph::children(&bytes, graph::DOCKER_MANIFEST).map_err(refuse)?);
        let descriptor = self.store(held, bytes, graph::DOCKER_MANIFEST, labels).await?;
        Ok(Child { descriptor, platform, foreign: false })
    }

    // Compressed blobs that are here, by what they unpack to: an image that came from a registry keeps its layers.
    fn known_layers(&self, held: &Held) -> Result<BTreeMap<String, Digest>> {
        let all = self.content.list(held.namespace(), &Filter::default())?;
        let known =
            all.into_iter().filter_map(|mut info| Some((info.labels.remove(UNCOMPRESSED)?, info.digest)));
        Ok(known.collect())
    }

    async fn docker_layer(
        &self,
        held: &Held,
        file: File,
        request: &ImportRequest,
        known: &BTreeMap<String, Digest>,
    ) -> Result<Value> {
        let mut file = file;
        if let Some(digest) = known.get(file.digest.as_str())
            && self.content.claim(held.namespace(), digest, Some(held.lease())).await?
        {
            let size = self.content.info(held.namespace(), digest)?.size;
            file = File { digest: digest.clone(), size };
        }
        let mut compression = self.compression(held, &file).await?;
        if compression.is_empty() && request.compress {
            file = self.compress(held, &file).await?;
            compression = ".gzip";
        }
        let media_type = format!("{LAYER}{compression}");
        Ok(json!({"mediaType": media_type, "digest": file.digest.to_string(), "size": file.size}))
    }

    // The end of the media type, by how the blob begins.
    async fn compression(&self, held: &Held, file: &File) -> Result<&'static str> {
        let blob = self.content.reader(held.namespace(), &file.digest).await?;
        let start = blocking(move || blob.read_at(0, 4)).await?;
        Ok(match start.as_slice() {
            [0x1f, 0x8b, ..] => ".gzip",
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => ".zstd",
            _ => "",
        })
    }

    async fn compress(&self, held: &Held, file: &File) -> Result<File> {
        let options = WriterOptions {
            namespace: held.namespace().clone(),
            reference: format!("import-{}-compress-{}", held.lease(), file.digest),
            total: 0,
            expected: None,
            lease: Some(held.lease().to_owned()),
        };
        let (content, namespace) = (self.content.clone(), held.namespace().clone());
        let (lease, source, runtime) = (held.lease().to_owned(), file.digest.clone(), Handle::current());
        let blob = self.content.reader(&namespace, &source).await?;
        blocking(move || {
            let writer = runtime.block_on(content.writer(options))?;
            let mut sink = Sink { parts: writer.parts(), hasher: Hasher::default(), at: 0, failed: None };
            let packed = pack(blob.into_reader(), &mut sink);
            if let Err(error) = packed {
                let error = sink
                    .failed
                    .take()
                    .unwrap_or_else(|| Error::io("compressing blob", source.as_str(), error));
                runtime.block_on(writer.abort())?;
                return Err(error);
            }
            let (digest, size) = (sink.hasher.digest(), sink.at);
            let labels = Labels::from([(UNCOMPRESSED.to_owned(), source.to_string())]);
            let options = CommitOptions {
                size: Some(size),
                hashed: Some(digest.clone()),
                labels,
                ..CommitOptions::default()
            };
            match runtime.block_on(writer.commit(options)) {
                Ok(_) => {}
                Err(error) if error.is_already_exists() => {
                    runtime.block_on(content.claim(&namespace, &digest, Some(&lease)))?;
                }
                Err(error) => return Err(error),
            }
            Ok(File { digest, size })
        })
        .await
    }
}

fn pack(mut source: impl std::io::Read, sink: &mut Sink) -> std::io::Result<()> {
    let mut encoder = flate2::write::GzEncoder::new(sink, flate2::Compression::default());
    let mut buffer = vec![0; BUFFER];
    loop {
        match source.read(&mut buffer)? {
            0 => return encoder.finish().map(drop),
            count => encoder.write_all(&buffer[..count])?,
        }
    }
}

// Writes into an ingest and hashes.
struct Sink {
    parts: crate::content::Parts,
    hasher: Hasher,
    at: u64,
    failed: Option<Error>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Err(error) = self.parts.write_at(self.at, bytes) {
            self.failed = Some(error);
            return Err(std::io::ErrorKind::Other.into());
        }
        self.hasher.update(bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

// The annotations that a tag of the archive becomes.
fn names(tag: &str) -> Result<Labels> {
    let reference = Reference::parse(tag).map_err(|error| ArchiveError::Name {
        name: tag.chars().take(200).collect(),
        why: error.to_string(),
    })?;
    let name = reference.canonical();
    let short = match reference.digest() {
        None => reference.object().to_owned(),
        Some(_) => name.clone(),
    };
    Ok(Labels::from([(NAME.to_owned(), name), (REF_NAME.to_owned(), short)]))
}

fn entry(child: &Child) -> Value {
    let Descriptor { media_type, digest, size, annotations } = &child.descriptor;
    let mut entry = json!({"mediaType": media_type, "digest": digest.to_string(), "size": size});
    if !annotations.is_empty() {
        entry["annotations"] = json!(annotations);
    }
    if let Some(platform) = &child.platform {
        entry["platform"] = json!({"os": platform.os, "architecture": platform.architecture});
        if !platform.variant.is_empty() {
            entry["platform"]["variant"] = json!(platform.variant);
        }
    }
    entry
}
