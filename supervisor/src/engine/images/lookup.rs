//! From what the user calls an image to what a container needs of it: its config, its layers, the snapshot that
//! they were unpacked into. Everything is read from the local store and checked against the limits of what a
//! manifest may be; what was parsed once is kept by digest, which cannot change under it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use super::history::chain_ids;
use crate::content::{Descriptor, Digest};
use crate::engine::Engine;
use crate::engine::config::HealthCheck;
use crate::error::{Error, Result};
use crate::images::platform::Platform;
use crate::images::reference::Reference;
use crate::images::store::Image;
use crate::labels::Labels;

/// Largest manifest, index or config that is read.
const MAX_DOCUMENT: u64 = crate::images::manifest::MAX_CONFIG;

/// Deepest nesting of indexes.
const MAX_DEPTH: usize = 4;

/// Parsed images that are kept.
const CACHED: usize = 256;

/// The fields of an image's config that a container is made from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RunConfig {
    #[serde(rename = "User")]
    pub user: String,
    #[serde(rename = "Env", deserialize_with = "nullable")]
    pub env: Vec<String>,
    #[serde(rename = "Entrypoint", deserialize_with = "nullable")]
    pub entrypoint: Vec<String>,
    #[serde(rename = "Cmd", deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    #[serde(rename = "WorkingDir")]
    pub working_dir: String,
    #[serde(rename = "StopSignal")]
    pub stop_signal: String,
    #[serde(rename = "Labels", deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    #[serde(rename = "ExposedPorts", deserialize_with = "nullable")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(rename = "Volumes", deserialize_with = "nullable")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    #[serde(rename = "Healthcheck", deserialize_with = "healthcheck")]
    pub healthcheck: HealthCheck,
    /// What lines of the form `CMD-SHELL` are given to.
    #[serde(rename = "Shell", deserialize_with = "nullable")]
    pub shell: Vec<String>,
}

/// An image's health check; what cannot be one counts as none, and keeps no container from running.
fn healthcheck<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<HealthCheck, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "PascalCase")]
    struct Document {
        #[serde(deserialize_with = "nullable")]
        test: Vec<String>,
        interval: i64,
        timeout: i64,
        start_period: i64,
        start_interval: i64,
        retries: i32,
    }
    let found = Option::<Document>::deserialize(deserializer)?.unwrap_or_default();
    let check = HealthCheck {
        test: found.test,
        interval: found.interval,
        timeout: found.timeout,
        start_period: found.start_period,
        start_interval: found.start_interval,
        retries: found.retries,
    };
    Ok(if crate::engine::health::check(&check).is_ok() { check } else { HealthCheck::default() })
}

fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Deserialize)]
struct ConfigDocument {
    #[serde(default, deserialize_with = "nullable")]
    config: RunConfig,
    #[serde(default, deserialize_with = "nullable")]
    rootfs: RootfsDocument,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

#[derive(Default, Deserialize)]
struct RootfsDocument {
    #[serde(default, deserialize_with = "nullable")]
    diff_ids: Vec<String>,
}

#[derive(Deserialize)]
struct ManifestDocument {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    #[serde(default)]
    config: Option<DescriptorDocument>,
    #[serde(default)]
    layers: Option<Vec<DescriptorDocument>>,
    #[serde(default)]
    manifests: Option<Vec<DescriptorDocument>>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescriptorDocument {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: i64,
    #[serde(default)]
    platform: Option<PlatformDocument>,
}

#[derive(Clone, Deserialize)]
struct PlatformDocument {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

/// A layer as the manifest names it.
#[derive(Clone, Debug)]
pub struct Layer {
    pub digest: String,
    /// Compressed bytes.
    pub size: i64,
}

/// What is known of an image for one platform.
#[derive(Debug)]
pub struct LocalImage {
    /// Digest of the config: the image's id.
    pub id: Digest,
    pub manifest: Digest,
    pub manifest_type: String,
    /// Bytes of the manifest.
    pub manifest_size: u64,
    pub config: RunConfig,
    /// The config as it is.
    pub config_json: bytes::Bytes,
    pub created: Option<jiff::Timestamp>,
    pub layers: Vec<Layer>,
    /// What the layers unpack to, in their order.
    pub diff_ids: Vec<String>,
    /// Name of the committed snapshot that holds all layers; `None`: there are no layers.
    pub chain_id: Option<String>,
    pub os: String,
    pub architecture: String,
}

/// Parsed images by target digest and platform.
#[derive(Default)]
pub struct ImageCache {
    inner: Mutex<Cached>,
}

#[derive(Default)]
struct Cached {
    images: HashMap<(Digest, String), Arc<LocalImage>>,
    order: VecDeque<(Digest, String)>,
}

impl ImageCache {
    fn get(&self, key: &(Digest, String)) -> Option<Arc<LocalImage>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).images.get(key).cloned()
    }

    fn put(&self, key: (Digest, String), image: Arc<LocalImage>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.images.insert(key.clone(), image).is_none() {
            inner.order.push_back(key);
            if inner.order.len() > CACHED
                && let Some(oldest) = inner.order.pop_front()
            {
                inner.images.remove(&oldest);
            }
        }
    }

    /// What is below this target may not be there any more.
    pub(super) fn forget(&self, target: &Digest) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.images.retain(|(digest, _), _| digest != target);
        inner.order.retain(|(digest, _)| digest != target);
    }
}

impl LocalImage {
    /// The manifest, as an index would name it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.manifest_type.clone(),
            digest: self.manifest.clone(),
            size: self.manifest_size,
            annotations: Labels::new(),
        }
    }
}

/// How an image was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// By a reference, which has this canonical form.
    Reference(Reference),
    /// By its id or a beginning of it.
    Id,
}

impl Engine {
    /// The record of the image that `text` names.
    pub async fn find_image(&self, text: &str) -> Result<(Image, Named)> {
        let reference = Reference::parse(text);
        if let Ok(reference) = &reference {
            match self.images.get(&self.namespace, &reference.canonical()) {
                Ok(image) => return Ok((image, Named::Reference(reference.clone()))),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(image) = self.image_by_id(text).await? {
            return Ok((image, Named::Id));
        }
        match reference {
            Ok(reference) => Err(Error::not_found("image", reference.familiar())),
            Err(_) if looks_like_id(text) => Err(Error::not_found("image", text)),
            Err(error) => Err(error.into()),
        }
    }

    /// By config, manifest or index digest, whole or its beginning.
    async fn image_by_id(&self, text: &str) -> Result<Option<Image>> {
        if !looks_like_id(text) {
            return Ok(None);
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let mut found: Option<(Digest, Image)> = None;
        for image in self.all_images()? {
            let Ok(local) = self.open_image(&image, "").await else { continue };
            let hit = [&local.id, &local.manifest, &image.target.digest]
                .into_iter()
                .any(|digest| digest.digits().starts_with(digits));
            if !hit {
                continue;
            }
            match &found {
                Some((id, _)) if *id != local.id => {
                    return Err(Error::invalid(
                        format!("image {text}"),
                        "ambiguous: give more digits of the id",
                    ));
                }
                Some(_) => {}
                None => found = Some((local.id.clone(), image)),
            }
        }
        Ok(found.map(|(_, image)| image))
    }

    /// Every image record of the engine's namespace.
    pub fn all_images(&self) -> Result<Vec<Image>> {
        self.images.list(&self.namespace, &crate::filters::Filter::default())
    }

    /// The image's parts for a platform (empty: the host's).
    pub async fn open_image(&self, image: &Image, platform: &str) -> Result<Arc<LocalImage>> {
        let key = (image.target.digest.clone(), platform.to_owned());
        // One platform of an image may have been removed without the others.
        if let Some(image) = self.image_cache.get(&key)
            && self.content.exists(&self.namespace, &image.manifest)?
        {
            return Ok(image);
        }
        let wanted = if platform.is_empty() { Platform::host() } else { platform.parse()? };
        let local = Arc::new(self.read_image(&image.target, &wanted, &image.name).await?);
        // A manifest without an index says what it is for in its config only.
        let offered = format!("{}/{}", local.os, local.architecture).parse::<Platform>();
        if !platform.is_empty() && offered.is_ok_and(|offered| wanted.rank(&offered).is_none()) {
            return Err(Error::not_found("image", format!("{} for platform {wanted}", image.name)));
        }
        self.image_cache.put(key, local.clone());
        Ok(local)
    }

    async fn read_image(&self, target: &Descriptor, wanted: &Platform, name: &str) -> Result<LocalImage> {
        let mut digest = target.digest.clone();
        let mut media_type = target.media_type.clone();
        for _ in 0..MAX_DEPTH {
            let document = self.document(&digest).await?;
            let manifest: ManifestDocument = parse(&document, &digest)?;
            match (manifest.manifests, manifest.config, manifest.layers) {
                (Some(manifests), None, None) => {
                    let chosen = choose(&manifests, wanted, name)?;
                    (digest, media_type) = (Digest::parse(&chosen.digest)?, chosen.media_type.clone());
                }
                (None, Some(config), Some(layers)) => {
                    let named = if manifest.media_type.is_empty() { media_type } else { manifest.media_type };
                    let size = document.len() as u64;
                    let manifest = Descriptor { media_type: named, digest, size, annotations: Labels::new() };
                    return self.read_config(manifest, &config, layers).await;
                }
                _ => {
                    return Err(Error::Damaged {
                        what: format!("manifest {digest}"),
                        why: "it is neither an index nor a manifest".to_owned(),
                    });
                }
            }
        }
        Err(Error::Damaged {
            what: format!("index {digest}"),
            why: format!("nested more than {MAX_DEPTH} deep"),
        })
    }

    async fn read_config(
        &self,
        manifest: Descriptor,
        config: &DescriptorDocument,
        layers: Vec<DescriptorDocument>,
    ) -> Result<LocalImage> {
        let id = Digest::parse(&config.digest)?;
        let config_json = self.document(&id).await?;
        let document: ConfigDocument = parse(&config_json, &id)?;
        if document.rootfs.diff_ids.len() != layers.len() {
            return Err(Error::Damaged {
                what: format!("image config {id}"),
                why: format!(
                    "it names {} layers, its manifest {}",
                    document.rootfs.diff_ids.len(),
                    layers.len()
                ),
            });
        }
        Ok(LocalImage {
            chain_id: chain_id(&document.rootfs.diff_ids)?,
            created: document.created.as_deref().and_then(|text| text.parse().ok()),
            layers: layers
                .into_iter()
                .map(|layer| Layer { digest: layer.digest, size: layer.size })
                .collect(),
            config: document.config,
            os: document.os,
            architecture: match document.variant.as_str() {
                "" => document.architecture,
                variant => format!("{}/{variant}", document.architecture),
            },
            diff_ids: document.rootfs.diff_ids,
            id,
            manifest: manifest.digest,
            manifest_type: manifest.media_type,
            manifest_size: manifest.size,
            config_json,
        })
    }

    pub(super) async fn document(&self, digest: &Digest) -> Result<bytes::Bytes> {
        let blob = self.content.reader(&self.namespace, digest).await?;
        blob.read_all(MAX_DOCUMENT).await
    }
}

fn parse<'a, T: Deserialize<'a>>(document: &'a [u8], digest: &Digest) -> Result<T> {
    serde_json::from_slice(document)
        .map_err(|error| Error::Damaged { what: format!("JSON document {digest}"), why: error.to_string() })
}

fn choose<'a>(
    manifests: &'a [DescriptorDocument],
    wanted: &Platform,
    name: &str,
) -> Result<&'a DescriptorDocument> {
    let rank = |manifest: &DescriptorDocument| match &manifest.platform {
        Some(offered) => wanted.rank(&Platform::new(&offered.os, &offered.architecture, &offered.variant)),
        None => Some(u32::MAX),
    };
    let best = manifests
        .iter()
        .filter_map(|manifest| Some((rank(manifest)?, manifest)))
        .min_by_key(|(rank, _)| *rank);
    match best {
        Some((_, manifest)) => Ok(manifest),
        None => Err(Error::not_found("image", format!("{name} for platform {wanted}"))),
    }
}

/// The name under which a stack of layers is kept as a snapshot.
fn chain_id(diff_ids: &[String]) -> Result<Option<String>> {
    Ok(chain_ids(diff_ids)?.pop())
}

fn looks_like_id(text: &str) -> bool {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    !digits.is_empty() && digits.len() <= 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs_with_nulls_are_read() {
        let text = r#"{"config":{"Env":null,"Entrypoint":null,"Cmd":["/hello"],"Labels":null,"Volumes":null},
            "rootfs":{"type":"layers","diff_ids":null},"os":"linux","architecture":"amd64"}"#;
        let document: ConfigDocument = serde_json::from_str(text).unwrap();
        assert_eq!(document.config.cmd, ["/hello"]);
        let document: ConfigDocument = serde_json::from_str(r#"{"config":null}"#).unwrap();
        assert!(document.config.cmd.is_empty());
    }

    #[test]
    fn chain_ids() {
        assert_eq!(chain_id(&[]).unwrap(), None);
        let layer = format!("sha256:{}", "a".repeat(64));
        assert_eq!(chain_id(std::slice::from_ref(&layer)).unwrap().as_deref(), Some(layer.as_str()));
        let two = chain_id(&[layer.clone(), layer.clone()]).unwrap().unwrap();
        assert_eq!(two, Digest::of(format!("{layer} {layer}").as_bytes()).as_str());
    }

    #[test]
    fn what_can_be_an_id() {
        assert!(looks_like_id("abc123") && looks_like_id("sha256:ab"));
        assert!(!looks_like_id("busybox") && !looks_like_id("") && !looks_like_id(&"a".repeat(65)));
    }
}
