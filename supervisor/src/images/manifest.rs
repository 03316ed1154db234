//! Manifests, indexes and configs: read strictly, before anything that they name is fetched.
//!
//! What always holds: what two readers could understand differently is refused; digests have passed their grammar before they
//! become part of a path or URL; numbers of entries, layers and levels are bounded.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use oci_distribution::manifest::{ImageIndexEntry, OciDescriptor, OciImageIndex, OciImageManifest};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::platform::Platform;
use super::unpack::Compression;
use crate::content::{Descriptor, Digest};

/// Of an index.
pub const MAX_ENTRIES: usize = 1024;
/// Overlayfs takes as many lower directories.
pub const MAX_LAYERS: usize = 500;
/// Levels of indexes in indexes.
pub const MAX_DEPTH: usize = 4;
/// Of a config, in bytes.
pub const MAX_CONFIG: u64 = 8 << 20;

const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// What a manifest must not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestRule {
    #[error("it is not valid JSON of its kind: {0}")]
    Malformed(String),
    #[error("it is of schema version 1, which is no longer safe to use: push the image again")]
    Schema1,
    #[error("its schemaVersion must be 2")]
    SchemaVersion,
    #[error("it has both `layers` and `manifests`: it must not be a manifest and an index at once")]
    Both,
    #[error("it has neither `layers` nor `manifests`")]
    Neither,
    #[error("its field {0:?} differs from one of the specification only in case")]
    FieldCase(String),
    #[error("its media type {found:?} contradicts {expected:?}, as which it was served or listed")]
    MediaType { found: String, expected: String },
    #[error("the digest {0:?} in it is malformed")]
    BadDigest(String),
    #[error("the size {0} in it is out of range")]
    BadSize(i64),
    #[error("it has {0} entries; the limit is {MAX_ENTRIES}")]
    ManyEntries(usize),
    #[error("it has {0} layers; the limit is {MAX_LAYERS}")]
    ManyLayers(usize),
    #[error("indexes are nested deeper than {MAX_DEPTH}, or in a cycle")]
    TooDeep,
    #[error("layer {0} is encrypted, which is not supported")]
    Encrypted(String),
    #[error("layer {0} is to be fetched from a foreign URL, which is not allowed")]
    ForeignUrl(String),
    #[error("layer {digest} is of media type {media_type:?}, which is no layer of an image")]
    LayerType { digest: String, media_type: String },
    #[error("its config is of media type {0:?}: it is not a container image")]
    NotAnImage(String),
    #[error("its config lists {diff_ids} layers, the manifest {layers}")]
    LayerCount { diff_ids: usize, layers: usize },
    #[error("its config has the diffID {0:?}, which is not a sha256 digest")]
    BadDiffId(String),
    #[error("its config is longer than {MAX_CONFIG} bytes")]
    LargeConfig,
    #[error("no image in it fits {wanted}; it has {offered}")]
    NoPlatform { wanted: String, offered: String },
}

/// A manifest or an index.
#[derive(Debug)]
pub enum Document {
    Image(Manifest),
    Index(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Layer>,
}

#[derive(Debug, Clone)]
pub struct Layer {
    pub descriptor: Descriptor,
    pub compression: Compression,
}

/// One entry of an index.
#[derive(Debug, Clone)]
pub struct Entry {
    pub descriptor: Descriptor,
    pub platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<i64>,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<IgnoredAny>,
}

const FIELDS: [&str; 6] = ["schemaVersion", "mediaType", "layers", "manifests", "config", "fsLayers"];

/// Reads a manifest or index. `expected` is the media type as which it was served or listed, if known. The second value is its
/// media type.
pub fn parse(bytes: &[u8], expected: &str) -> Result<(Document, String), ManifestRule> {
    let malformed = |error: serde_json::Error| ManifestRule::Malformed(error.to_string());
    let fields: BTreeMap<String, IgnoredAny> = serde_json::from_slice(bytes).map_err(malformed)?;
    for field in fields.keys() {
        if FIELDS.iter().any(|known| known != field && known.eq_ignore_ascii_case(field)) {
            return Err(ManifestRule::FieldCase(field.chars().take(50).collect()));
        }
    }
    let shape: Shape = serde_json::from_slice(bytes).map_err(malformed)?;
    let schema1 =
        |media_type: &str| media_type.starts_with("application/vnd.docker.distribution.manifest.v1+");
    if shape.schema_version == Some(1) || shape.fs_layers.is_some() || schema1(expected) {
        return Err(ManifestRule::Schema1);
    }
    if shape.schema_version != Some(2) {
        return Err(ManifestRule::SchemaVersion);
    }
    let index = match (shape.layers.is_some(), shape.manifests.is_some()) {
        (true, true) => return Err(ManifestRule::Both),
        (false, false) => return Err(ManifestRule::Neither),
        (layers, _) => !layers,
    };
    let media_type = media_type(index, shape.media_type.as_deref(), expected)?;
    let document = if index {
        let index: OciImageIndex = serde_json::from_slice(bytes).map_err(malformed)?;
        Document::Index(entries(index.manifests)?)
    } else {
        let manifest: OciImageManifest = serde_json::from_slice(bytes).map_err(malformed)?;
        Document::Image(image(manifest)?)
    };
    Ok((document, media_type))
}

// Its own statement, how it was served, and its form must agree; OCI lets it leave out its own.
fn media_type(index: bool, own: Option<&str>, expected: &str) -> Result<String, ManifestRule> {
    let known = if index { [OCI_INDEX, DOCKER_LIST] } else { [OCI_MANIFEST, DOCKER_MANIFEST] };
    let contradiction = |found: &str, expected: &str| {
        let short = |text: &str| text.chars().take(100).collect();
        ManifestRule::MediaType { found: short(found), expected: short(expected) }
    };
    if let Some(own) = own
        && !known.contains(&own)
    {
        return Err(contradiction(own, known[0]));
    }
    // Servers that know no better call it plain JSON or text.
    let told = expected.starts_with("application/vnd.");
    match own {
        Some(own) if told && own != expected => Err(contradiction(own, expected)),
        Some(own) => Ok(own.to_owned()),
        None if told && !known.contains(&expected) => Err(contradiction(known[0], expected)),
        None if told => Ok(expected.to_owned()),
        None => Ok(known[0].to_owned()),
    }
}

fn descriptor(
    media_type: String,
    digest: &str,
    size: i64,
    annotations: Option<BTreeMap<String, String>>,
) -> Result<Descriptor, ManifestRule> {
    let parsed =
        Digest::parse(digest).map_err(|_| ManifestRule::BadDigest(digest.chars().take(150).collect()))?;
    let size = u64::try_from(size).map_err(|_| ManifestRule::BadSize(size))?;
    Ok(Descriptor { media_type, digest: parsed, size, annotations: annotations.unwrap_or_default() })
}

fn entries(entries: Vec<ImageIndexEntry>) -> Result<Vec<Entry>, ManifestRule> {
    if entries.len() > MAX_ENTRIES {
        return Err(ManifestRule::ManyEntries(entries.len()));
    }
    let entry = |entry: ImageIndexEntry| {
        let platform = entry.platform.map(|platform| {
            let variant = platform.variant.unwrap_or_default();
            Platform::new(&platform.os.to_string(), &platform.architecture.to_string(), &variant)
        });
        let descriptor = descriptor(entry.media_type, &entry.digest, entry.size, entry.annotations)?;
        Ok(Entry { descriptor, platform })
    };
    entries.into_iter().map(entry).collect()
}

fn image(manifest: OciImageManifest) -> Result<Manifest, ManifestRule> {
    if manifest.layers.len() > MAX_LAYERS {
        return Err(ManifestRule::ManyLayers(manifest.layers.len()));
    }
    let config = manifest.config;
    if !CONFIGS.contains(&config.media_type.as_str()) {
        return Err(ManifestRule::NotAnImage(config.media_type.chars().take(100).collect()));
    }
    let config = descriptor(config.media_type, &config.digest, config.size, config.annotations)?;
    if config.size > MAX_CONFIG {
        return Err(ManifestRule::LargeConfig);
    }
    let layers = manifest.layers.into_iter().map(layer).collect::<Result<_, _>>()?;
    Ok(Manifest { config, layers })
}

fn layer(layer: OciDescriptor) -> Result<Layer, ManifestRule> {
    let foreign = layer.urls.is_some_and(|urls| !urls.is_empty());
    let descriptor = descriptor(layer.media_type, &layer.digest, layer.size, layer.annotations)?;
    let digest = descriptor.digest.to_string();
    if descriptor.media_type.ends_with("+encrypted") {
        return Err(ManifestRule::Encrypted(digest));
    }
    if foreign {
        return Err(ManifestRule::ForeignUrl(digest));
    }
    let compression = Compression::of_media_type(&descriptor.media_type).map_err(|_| {
        ManifestRule::LayerType { digest, media_type: descriptor.media_type.chars().take(100).collect() }
    })?;
    Ok(Layer { descriptor, compression })
}

/// The entry of an index that fits best; the first of equals. Entries without a platform fit where nothing else does.
pub fn select(entries: &[Entry], wanted: &Platform) -> Result<Entry, ManifestRule> {
    let rank = |entry: &Entry| match &entry.platform {
        Some(platform) => wanted.rank(platform),
        None => Some(u32::MAX),
    };
    let best = entries.iter().filter_map(|entry| Some((rank(entry)?, entry))).min_by_key(|(rank, _)| *rank);
    if let Some((_, entry)) = best {
        return Ok(entry.clone());
    }
    let mut offered: Vec<String> = entries
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .map(Platform::to_string)
        .filter(|platform| platform != "unknown/unknown")
        .take(20)
        .collect();
    offered.dedup();
    let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
    Err(ManifestRule::NoPlatform { wanted: wanted.to_string(), offered })
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// The diffIDs of a config, one for each layer of its manifest.
pub fn diff_ids(config: &[u8], layers: usize) -> Result<Vec<String>, ManifestRule> {
    let config: Config =
        serde_json::from_slice(config).map_err(|error| ManifestRule::Malformed(error.to_string()))?;
    let diff_ids = config.rootfs.diff_ids;
    if diff_ids.len() != layers {
        return Err(ManifestRule::LayerCount { diff_ids: diff_ids.len(), layers });
    }
    for diff_id in &diff_ids {
        if !diff_id.starts_with("sha256:") || Digest::parse(diff_id).is_err() {
            return Err(ManifestRule::BadDiffId(diff_id.chars().take(150).collect()));
        }
    }
    Ok(diff_ids)
}

/// The chain IDs of a stack of layers: what each names with all below it.
pub fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()).to_string(),
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn manifest() -> Value {
        json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": CONFIGS[0], "digest": A, "size": 10},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": A, "size": 10}],
        })
    }

    fn rule(value: &Value) -> ManifestRule {
        parse(value.to_string().as_bytes(), "").unwrap_err()
    }

    #[test]
    fn a_manifest_is_read() {
        let (document, media_type) = parse(manifest().to_string().as_bytes(), OCI_MANIFEST).unwrap();
        assert_eq!(media_type, OCI_MANIFEST);
        let Document::Image(image) = document else { panic!("an image") };
        assert_eq!(image.layers[0].compression, Compression::Gzip);
        assert_eq!(image.config.size, 10);
    }

    #[test]
    fn cve_2021_41190_ambiguous_manifests_are_refused() {
        let with = |key: &str, value: Value| {
            let mut manifest = manifest();
            manifest[key] = value;
            manifest
        };
        assert_eq!(rule(&with("manifests", json!([]))), ManifestRule::Both);
        assert_eq!(rule(&with("Manifests", json!([]))), ManifestRule::FieldCase("Manifests".to_owned()));
        assert_eq!(rule(&with("schemaVersion", json!(1))), ManifestRule::Schema1);
        assert_eq!(rule(&with("schemaVersion", json!(3))), ManifestRule::SchemaVersion);
        assert!(matches!(rule(&with("mediaType", json!(OCI_INDEX))), ManifestRule::MediaType { .. }));
        assert_eq!(rule(&json!({"schemaVersion": 2})), ManifestRule::Neither);
        let served_as_index = parse(manifest().to_string().as_bytes(), OCI_INDEX).unwrap_err();
        assert!(matches!(served_as_index, ManifestRule::MediaType { .. }));
        assert!(matches!(parse(b"{\"layers\":[],\"layers\":[]", ""), Err(ManifestRule::Malformed(_))));
        assert!(matches!(
            parse(b"{\"schemaVersion\":2,\"schemaVersion\":2}", ""),
            Err(ManifestRule::Malformed(_))
        ));
        assert!(matches!(parse(b"[]", ""), Err(ManifestRule::Malformed(_))));
    }

    #[test]
    fn layers_that_cannot_be_trusted_are_refused() {
        let layer = |change: Value| {
            let mut manifest = manifest();
            for (key, value) in change.as_object().unwrap() {
                manifest["layers"][0][key] = value.clone();
            }
            rule(&manifest)
        };
        assert_eq!(
            layer(json!({"digest": "sha256:../../etc"})),
            ManifestRule::BadDigest("sha256:../../etc".to_owned())
        );
        assert_eq!(layer(json!({"size": -1})), ManifestRule::BadSize(-1));
        assert_eq!(layer(json!({"urls": ["https://x/"]})), ManifestRule::ForeignUrl(A.to_owned()));
        let encrypted = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
        assert_eq!(layer(json!({"mediaType": encrypted})), ManifestRule::Encrypted(A.to_owned()));
        assert!(matches!(layer(json!({"mediaType": "text/plain"})), ManifestRule::LayerType { .. }));
        let mut many = manifest();
        many["layers"] = Value::Array(vec![many["layers"][0].clone(); 501]);
        assert_eq!(rule(&many), ManifestRule::ManyLayers(501));
        let mut artifact = manifest();
        artifact["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
        assert!(matches!(rule(&artifact), ManifestRule::NotAnImage(_)));
    }

    #[test]
    fn the_best_platform_is_selected() {
        let entry = |platform: Value| {
            let mut entry = json!({"mediaType": OCI_MANIFEST, "digest": A, "size": 1, "annotations": {"p": platform.to_string()}});
            if !platform.is_null() {
                entry["platform"] = platform;
            }
            entry
        };
        let index = json!({"schemaVersion": 2, "manifests": [
            entry(json!({"os": "unknown", "architecture": "unknown"})),
            entry(json!({"os": "linux", "architecture": "arm", "variant": "v6"})),
            entry(json!({"os": "linux", "architecture": "arm", "variant": "v7"})),
            entry(json!({"os": "linux", "architecture": "arm64"})),
        ]});
        let (document, _) = parse(index.to_string().as_bytes(), DOCKER_LIST).unwrap();
        let Document::Index(entries) = document else { panic!("an index") };
        let chosen = |platform: &str| {
            select(&entries, &platform.parse().unwrap()).map(|e| e.platform.unwrap().to_string())
        };
        assert_eq!(chosen("linux/arm64").unwrap(), "linux/arm64");
        assert_eq!(chosen("linux/arm/v8").unwrap(), "linux/arm/v7");
        let error = chosen("linux/amd64").unwrap_err().to_string();
        assert!(
            error.contains("linux/amd64") && error.contains("linux/arm/v6") && !error.contains("unknown"),
            "{error}"
        );
    }

    #[test]
    fn configs_fit_their_manifests() {
        let config = json!({"rootfs": {"type": "layers", "diff_ids": [A]}}).to_string();
        assert_eq!(diff_ids(config.as_bytes(), 1).unwrap(), [A]);
        assert_eq!(diff_ids(config.as_bytes(), 2), Err(ManifestRule::LayerCount { diff_ids: 1, layers: 2 }));
        let config = json!({"rootfs": {"diff_ids": ["sha256:x"]}}).to_string();
        assert!(matches!(diff_ids(config.as_bytes(), 1), Err(ManifestRule::BadDiffId(_))));
        let chain = chain_ids(&[A.to_owned(), A.to_owned()]);
        assert_eq!(chain[0], A);
        assert_eq!(chain[1], Digest::of(format!("{A} {A}").as_bytes()).to_string());
    }
}
