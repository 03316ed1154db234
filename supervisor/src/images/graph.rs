//! The graph below an image's target: which documents and blobs a manifest or an index names, whatever they are made of.
//!
//! What always holds: it is read leniently where [`manifest`](super::manifest) is strict, since attestations and artifacts travel
//! with images and are only stored and passed on; but a document is never a manifest and an index at once, digests have passed
//! their grammar, and the numbers of entries and of nested levels are bounded.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::fetch::MAX_MANIFEST;
use super::manifest::{MAX_DEPTH, MAX_ENTRIES, MAX_LAYERS, ManifestRule};
use super::platform::Platform;
use crate::content::{ContentStore, Descriptor, Digest};
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::namespaces::Namespace;

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const GC_REF: &str = "containerd.io/gc.ref.content";

/// What a descriptor's media type says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Manifest,
    Index,
    Config,
    Layer,
    Attestation,
    Other,
}

impl Kind {
    pub fn of(media_type: &str) -> Kind {
        match media_type {
            OCI_MANIFEST | DOCKER_MANIFEST => Kind::Manifest,
            OCI_INDEX | DOCKER_LIST => Kind::Index,
            OCI_CONFIG
            | DOCKER_CONFIG
            | "application/vnd.containerd.container.criu.checkpoint.criu.tar"
            | "application/vnd.containerd.container.checkpoint.config.v1+proto" => Kind::Config,
            "application/vnd.in-toto+json" => Kind::Attestation,
            other if is_layer(other) => Kind::Layer,
            _ => Kind::Other,
        }
    }

    /// Whether it names other descriptors.
    pub fn has_children(self) -> bool {
        matches!(self, Kind::Manifest | Kind::Index)
    }
}

fn is_layer(media_type: &str) -> bool {
    let base = media_type.split('+').next().unwrap_or_default();
    media_type.starts_with("application/vnd.oci.image.layer.")
        || base.starts_with("application/vnd.docker.image.rootfs.diff.tar")
        || base.starts_with("application/vnd.docker.image.rootfs.foreign.diff.tar")
        || base == "application/vnd.erofs.layer.v1"
}

/// Layers whose licence forbids to hand them on.
pub fn is_non_distributable(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}

/// The name under which clients know the work on a descriptor: `layer-sha256:…`.
pub fn ref_key(descriptor: &Descriptor) -> String {
    let prefix = match Kind::of(&descriptor.media_type) {
        Kind::Manifest => "manifest",
        Kind::Index => "index",
        Kind::Layer => "layer",
        Kind::Config => "config",
        Kind::Attestation => "attestation",
        Kind::Other => "unknown",
    };
    match descriptor.annotations.get(REF_NAME) {
        Some(name) => format!("{prefix}-{name}@{}", descriptor.digest),
        None => format!("{prefix}-{}", descriptor.digest),
    }
}

/// A descriptor in a manifest or index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    pub descriptor: Descriptor,
    pub platform: Option<Platform>,
    /// It is to be had elsewhere than in the registry.
    pub foreign: bool,
}

#[derive(Deserialize)]
struct Document {
    manifests: Option<Vec<Entry>>,
    config: Option<Entry>,
    layers: Option<Vec<Entry>>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    size: i64,
    annotations: Option<BTreeMap<String, String>>,
    platform: Option<EntryPlatform>,
    urls: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct EntryPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

/// What a document of this media type names, in its order; a manifest's config comes first. Nothing for what is neither a manifest
/// nor an index.
pub fn children(bytes: &[u8], media_type: &str) -> Result<Vec<Child>, ManifestRule> {
    let kind = Kind::of(media_type);
    if !kind.has_children() {
        return Ok(Vec::new());
    }
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| ManifestRule::Malformed(error.to_string()))?;
    if document.fs_layers.is_some() {
        return Err(ManifestRule::Schema1);
    }
    let entries = match kind {
        Kind::Index if document.layers.is_some() || document.config.is_some() => {
            return Err(ManifestRule::Both);
        }
        Kind::Index => document.manifests.unwrap_or_default(),
        _ if document.manifests.is_some() => return Err(ManifestRule::Both),
        _ => document.config.into_iter().chain(document.layers.unwrap_or_default()).collect(),
    };
    match kind {
        Kind::Index if entries.len() > MAX_ENTRIES => return Err(ManifestRule::ManyEntries(entries.len())),
        Kind::Manifest if entries.len() > MAX_LAYERS + 1 => {
            return Err(ManifestRule::ManyLayers(entries.len()));
        }
        _ => {}
    }
    entries.into_iter().map(child).collect()
}

fn child(entry: Entry) -> Result<Child, ManifestRule> {
    let digest = Digest::parse(&entry.digest)
        .map_err(|_| ManifestRule::BadDigest(entry.digest.chars().take(150).collect()))?;
    let size = u64::try_from(entry.size).map_err(|_| ManifestRule::BadSize(entry.size))?;
    let platform = entry.platform.map(|p| Platform::new(&p.os, &p.architecture, &p.variant));
    let annotations = entry.annotations.unwrap_or_default();
    Ok(Child {
        descriptor: Descriptor { media_type: entry.media_type, digest, size, annotations },
        platform,
        foreign: entry.urls.is_some_and(|urls| !urls.is_empty()),
    })
}

/// The labels that keep what a document names for as long as the document.
pub fn gc_labels(children: &[Child]) -> Labels {
    let mut labels = Labels::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for child in children {
        let (key, dotted) = match Kind::of(&child.descriptor.media_type) {
            Kind::Config => (".config", false),
            Kind::Manifest => (".m.", true),
            Kind::Layer => (".l.", true),
            Kind::Index | Kind::Attestation | Kind::Other => (".", true),
        };
        let count = counts.entry(key).or_default();
        let number = if dotted || *count > 0 { count.to_string() } else { String::new() };
        *count += 1;
        labels.insert(format!("{GC_REF}{key}{number}"), child.descriptor.digest.to_string());
    }
    labels
}

/// Which of an index's manifests are meant by `wanted`: those of exactly such a platform, and for a platform that none has
/// exactly the one that fits best. Entries that name no platform are always meant; so is everything when `wanted` is empty.
pub fn select(children: Vec<Child>, wanted: &[Platform]) -> Vec<Child> {
    if wanted.is_empty() {
        return children;
    }
    let mut chosen: BTreeSet<usize> = BTreeSet::new();
    for platform in wanted {
        let ranked = children
            .iter()
            .enumerate()
            .filter_map(|(at, child)| Some((platform.rank(child.platform.as_ref()?)?, at)));
        let ranked: Vec<(u32, usize)> = ranked.collect();
        let Some(best) = ranked.iter().min() else { continue };
        if best.0 == 0 {
            chosen.extend(ranked.iter().filter(|(rank, _)| *rank == 0).map(|(_, at)| *at));
        } else {
            chosen.insert(best.1);
        }
    }
    let meant = |(at, child): &(usize, Child)| child.platform.is_none() || chosen.contains(at);
    children.into_iter().enumerate().filter(meant).map(|(_, child)| child).collect()
}

/// The wanted platform that fits each entry best comes first; entries without a platform come last.
pub fn sort(children: &mut [Child], wanted: &[Platform]) {
    children.sort_by_key(|child| match &child.platform {
        None => (u32::MAX, usize::MAX),
        Some(offered) => wanted
            .iter()
            .enumerate()
            .filter_map(|(order, platform)| Some((platform.rank(offered)?, order)))
            .min_by_key(|(rank, order)| (*order, *rank))
            .map_or((u32::MAX - 1, usize::MAX), |(rank, order)| (rank, order)),
    });
}

/// A document that is in the content store, and what it names.
pub async fn read(
    content: &ContentStore,
    namespace: &Namespace,
    descriptor: &Descriptor,
) -> Result<Vec<Child>> {
    if !Kind::of(&descriptor.media_type).has_children() {
        return Ok(Vec::new());
    }
    let blob = content.reader(namespace, &descriptor.digest).await?;
    let bytes = blob.read_all(MAX_MANIFEST as u64).await?;
    children(&bytes, &descriptor.media_type).map_err(|rule| refused(&descriptor.digest, rule))
}

/// Whether all that is below a descriptor is in the content store; what is to be had elsewhere need not be.
pub async fn is_whole(content: &ContentStore, namespace: &Namespace, top: &Descriptor) -> Result<bool> {
    let (mut level, mut budget) = (vec![top.clone()], Budget::default());
    for depth in 0.. {
        let mut next = Vec::new();
        for descriptor in level {
            if !content.exists(namespace, &descriptor.digest)? {
                return Ok(false);
            }
            let children = read(content, namespace, &descriptor).await?;
            budget.spend(&descriptor.digest, depth, children.len())?;
            next.extend(children.into_iter().filter(|child| !child.foreign).map(|child| child.descriptor));
        }
        if next.is_empty() {
            return Ok(true);
        }
        level = next;
    }
    Ok(false)
}

pub fn refused(digest: &Digest, rule: ManifestRule) -> Error {
    std::sync::Arc::new(super::pull::PullError::manifest(digest, rule)).into()
}

/// Bounds a walk: how deep it is, and how many descriptors it has met.
#[derive(Debug, Default)]
pub struct Budget {
    met: usize,
}

impl Budget {
    /// Descriptors of one image in all.
    const MAX: usize = 64 * 1024;

    /// Counts the children of a document at `depth`.
    pub fn spend(&mut self, digest: &Digest, depth: usize, children: usize) -> Result<()> {
        if depth > MAX_DEPTH + 1 {
            return Err(refused(digest, ManifestRule::TooDeep));
        }
        self.met += children;
        if self.met > Self::MAX {
            return Err(refused(digest, ManifestRule::ManyEntries(self.met)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn entry(media_type: &str, platform: Option<&str>) -> Child {
        let digest = Digest::of(format!("{media_type}{platform:?}").as_bytes());
        let descriptor =
            Descriptor { media_type: media_type.into(), digest, size: 1, annotations: Labels::new() };
        Child { descriptor, platform: platform.map(|text| text.parse().unwrap()), foreign: false }
    }

    #[test]
    fn artifacts_are_read_and_ambiguous_documents_are_not() {
        let artifact = json!({"schemaVersion": 2, "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": A, "size": 2},
            "layers": [{"mediaType": "text/spdx", "digest": A, "size": 3}]});
        let found = children(artifact.to_string().as_bytes(), OCI_MANIFEST).unwrap();
        assert_eq!(found.iter().map(|child| child.descriptor.size).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(children(artifact.to_string().as_bytes(), OCI_INDEX), Err(ManifestRule::Both));
        let both = json!({"manifests": [], "layers": []});
        assert_eq!(children(both.to_string().as_bytes(), OCI_MANIFEST), Err(ManifestRule::Both));
        assert_eq!(children(b"{\"manifests\":null}", OCI_INDEX), Ok(Vec::new()));
        assert_eq!(children(b"not json", "text/plain"), Ok(Vec::new()));
        let bad = json!({"manifests": [{"digest": "sha256:../..", "size": 1}]});
        assert!(matches!(children(bad.to_string().as_bytes(), OCI_INDEX), Err(ManifestRule::BadDigest(_))));
    }

    #[test]
    fn labels_are_numbered_as_other_clients_number_them() {
        let children = [
            entry("application/vnd.oci.image.config.v1+json", None),
            entry("application/vnd.oci.image.layer.v1.tar+gzip", None),
            entry("application/vnd.docker.image.rootfs.diff.tar.zstd", None),
            entry("text/plain", None),
            entry(OCI_MANIFEST, None),
        ];
        let keys: Vec<String> = gc_labels(&children).into_keys().collect();
        let expected = [".0", ".config", ".l.0", ".l.1", ".m.0"].map(|end| format!("{GC_REF}{end}"));
        assert_eq!(keys, expected);
        assert!(ref_key(&children[1].descriptor).starts_with("layer-sha256:"));
        assert!(ref_key(&children[3].descriptor).starts_with("unknown-sha256:"));
    }

    #[test]
    fn exact_platforms_are_meant_before_those_that_only_fit() {
        let of = |names: &[&str], wanted: &[&str]| -> Vec<String> {
            let children = names.iter().map(|name| entry(OCI_MANIFEST, Some(name))).collect();
            let wanted: Vec<Platform> = wanted.iter().map(|name| name.parse().unwrap()).collect();
            select(children, &wanted).iter().map(|c| c.platform.as_ref().unwrap().to_string()).collect()
        };
        let offered = ["linux/amd64", "linux/arm/v6", "linux/arm/v7"];
        assert_eq!(of(&offered, &["linux/arm/v7"]), ["linux/arm/v7"]);
        assert_eq!(of(&offered[..2], &["linux/arm/v7"]), ["linux/arm/v6"]);
        assert_eq!(of(&offered, &["linux/arm64"]), ["linux/arm/v7"]);
        assert_eq!(of(&offered, &["linux/amd64", "linux/arm/v6"]), ["linux/amd64", "linux/arm/v6"]);
        assert!(of(&offered, &["linux/s390x"]).is_empty());
        assert_eq!(of(&offered, &[]).len(), 3);
    }
}
