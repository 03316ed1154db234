//! An image made here: a layer on top of an image, or of nothing; its config and manifest are written, it is unpacked, and gets its
//! name last.
//!
//! What always holds: until the name is written a lease holds everything; an image that is named can be run.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::lookup::LocalImage;
use crate::content::{CommitOptions, Descriptor, Digest, WriterOptions};
use crate::engine::Engine;
use crate::engine::config::Record;
use crate::error::{Error, Result};
use crate::images::graph;
use crate::images::held::Held;
use crate::images::platform::Platform;
use crate::images::reference::Reference;
use crate::labels::Labels;
use crate::leases::Resource;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Most layers of an image, as docker has it: more cannot be mounted.
const MAX_LAYERS: usize = 127;

/// What an image is put on.
pub struct Parent {
    /// The config's document; `{}` of nothing.
    pub document: Value,
    /// Descriptors of the layers, as the manifest has them.
    layers: Vec<Value>,
}

/// A layer in the content store.
pub struct Layer {
    pub descriptor: Descriptor,
    pub diff_id: String,
}

/// What an image is made of.
pub struct Assembled {
    pub parent: Parent,
    pub layer: Layer,
    pub config: Map<String, Value>,
    pub history: Value,
    pub author: String,
    pub created: Timestamp,
}

/// The name that an image is to get; `None` of an empty text.
pub fn target(text: &str) -> Result<Option<Reference>> {
    if text.is_empty() {
        return Ok(None);
    }
    let reference = Reference::parse(text)?;
    if reference.digest().is_some() {
        return Err(Error::invalid("refusing to create a tag with a digest reference", text));
    }
    Ok(Some(reference))
}

impl Parent {
    /// Nothing, for a platform.
    pub fn nothing(platform: &Platform) -> Parent {
        let mut document = json!({ "os": platform.os, "architecture": platform.architecture });
        if !platform.variant.is_empty() {
            document["variant"] = json!(platform.variant);
        }
        Parent { document, layers: Vec::new() }
    }
}

impl Engine {
    /// The image that a container was made from.
    pub(in crate::engine) async fn image_of(&self, record: &Record) -> Result<Parent> {
        let named = if record.image_ref.is_empty() { &record.image_id } else { &record.image_ref };
        let local = match self.find_image(named).await {
            Ok((image, _)) => self.open_image(&image, &record.config.platform).await?,
            Err(error) => return Err(error),
        };
        if local.id.as_str() != record.image_id {
            // The name has gone to another image meanwhile.
            let (image, _) = self.find_image(&record.image_id).await?;
            return self.parent(self.open_image(&image, &record.config.platform).await?.as_ref()).await;
        }
        self.parent(&local).await
    }

    async fn parent(&self, local: &LocalImage) -> Result<Parent> {
        let damaged = |what: &Digest, error: serde_json::Error| Error::Damaged {
            what: format!("JSON document {what}"),
            why: error.to_string(),
        };
        let document: Map<String, Value> =
            serde_json::from_slice(&local.config_json).map_err(|error| damaged(&local.id, error))?;
        let document = Value::Object(document);
        let manifest: Value = serde_json::from_slice(&self.document(&local.manifest).await?)
            .map_err(|error| damaged(&local.manifest, error))?;
        let layers = manifest.get("layers").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(Parent { document, layers })
    }

    /// Writes, unpacks and names the image. Returns its id.
    pub(in crate::engine) async fn assemble_image(
        self: &Arc<Self>,
        held: &Held,
        image: Assembled,
        reference: Option<&Reference>,
    ) -> Result<String> {
        let Assembled {
            parent: Parent { mut document, mut layers },
            layer,
            config,
            history,
            author,
            created,
        } = image;
        layers.push(descriptor(&layer.descriptor));
        if layers.len() > MAX_LAYERS {
            return Err(Error::ResourceExhausted {
                what: "image".to_owned(),
                limit: "layers of an image",
                max: MAX_LAYERS as u64,
            });
        }
        let mut diff_ids =
            document.pointer("/rootfs/diff_ids").and_then(Value::as_array).cloned().unwrap_or_default();
        diff_ids.push(layer.diff_id.into());
        let mut past = document.get("history").and_then(Value::as_array).cloned().unwrap_or_default();
        past.push(without_empty(history));
        document["created"] = created.to_string().into();
        document["author"] = author.into();
        document["config"] = Value::Object(config);
        document["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        document["history"] = past.into();
        let platform = platform_of(&document);
        let config = self.store_document(held, without_empty(document), OCI_CONFIG, false).await?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(&config),
            "layers": layers,
        });
        let target = self.store_document(held, manifest, OCI_MANIFEST, true).await?;
        self.puller.unpack(&self.namespace, &target, &platform, None).await?;
        self.name_image(reference, target, Labels::new()).await?;
        self.db.sync().await?;
        let id = config.digest.to_string();
        if let Some(reference) = reference {
            self.image_happened(&id, "tag", &reference.familiar());
        }
        Ok(id)
    }

    async fn store_document(
        &self,
        held: &Held,
        document: Value,
        media_type: &str,
        refers: bool,
    ) -> Result<Descriptor> {
        let bytes = Bytes::from(document.to_string());
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        let labels = if refers {
            let children = graph::children(&bytes, media_type).map_err(|rule| Error::Damaged {
                what: format!("manifest {digest}"),
                why: rule.to_string(),
            })?;
            graph::gc_labels(&children)
        } else {
            Labels::new()
        };
        let options = WriterOptions {
            namespace: self.namespace.clone(),
            reference: format!("image-{}-{digest}", held.lease()),
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
            Err(error) if error.is_already_exists() => {
                held.hold(&Resource::Content(digest.clone())).await?;
                if !labels.is_empty() {
                    let keys: Vec<String> = labels.keys().cloned().collect();
                    self.content.update(&self.namespace, &digest, labels, Some(&keys)).await?;
                }
            }
            Err(error) => return Err(error),
        }
        Ok(Descriptor { media_type: media_type.to_owned(), digest, size, annotations: Labels::new() })
    }
}

fn descriptor(descriptor: &Descriptor) -> Value {
    json!({
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest.to_string(),
        "size": descriptor.size,
    })
}

fn platform_of(document: &Value) -> Platform {
    let text = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default();
    Platform::new(text("os"), text("architecture"), text("variant"))
}

/// Empty texts say nothing.
fn without_empty(mut value: Value) -> Value {
    if let Value::Object(map) = &mut value {
        map.retain(|_, value| value.as_str() != Some(""));
    }
    value
}
