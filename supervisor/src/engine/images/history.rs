//! How an image came to be, step by step, as its config tells it.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Deserialize;

use super::LocalImage;
use crate::content::Digest;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::images::reference::Reference;

/// One step, which made a layer or did not.
#[derive(Clone, Debug, Default)]
pub struct HistoryEntry {
    /// The image's, for the newest; else empty.
    pub id: String,
    pub created_at: Option<Timestamp>,
    pub created_by: String,
    /// Unpacked bytes.
    pub size: u64,
    pub comment: String,
    pub tags: Vec<String>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    history: Option<Vec<Step>>,
}

#[derive(Deserialize)]
struct Step {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    created_by: Option<String>,
    #[serde(default)]
    comment: Option<String>,
    #[serde(default)]
    empty_layer: Option<bool>,
}

impl Engine {
    /// Newest first.
    pub async fn image_history(&self, text: &str, platform: &str) -> Result<Vec<HistoryEntry>> {
        let (image, _) = self.find_image(text).await?;
        let local = self.open_image(&image, platform).await?;
        let document: Document = serde_json::from_slice(&local.config_json).map_err(|error| {
            Error::Damaged { what: format!("image config {}", local.id), why: error.to_string() }
        })?;
        let mut sizes = self.layer_sizes(&local).await?.into_iter();
        let mut entries = Vec::new();
        for step in document.history.unwrap_or_default() {
            let size = if step.empty_layer == Some(true) { 0 } else { sizes.next().unwrap_or(0) };
            entries.push(HistoryEntry {
                created_at: step.created.and_then(|text| text.parse().ok()),
                created_by: step.created_by.unwrap_or_default(),
                comment: step.comment.unwrap_or_default(),
                size,
                ..HistoryEntry::default()
            });
        }
        // Layers that no step tells of were made by something.
        entries.extend(sizes.map(|size| HistoryEntry { size, ..HistoryEntry::default() }));
        entries.reverse();
        if entries.is_empty() {
            entries.push(HistoryEntry { created_at: local.created, ..HistoryEntry::default() });
        }
        if let Some(newest) = entries.first_mut() {
            newest.id = local.id.to_string();
            newest.tags = self.tags_of(&local).await?;
        }
        Ok(entries)
    }

    /// Unpacked bytes of each layer, the lowest first; packed ones where it is not unpacked.
    pub(super) async fn layer_sizes(&self, local: &LocalImage) -> Result<Vec<u64>> {
        let snapshotter = self.snapshotter()?;
        let mut sizes = Vec::new();
        for (chain, layer) in chain_ids(&local.diff_ids)?.iter().zip(&local.layers) {
            let packed = u64::try_from(layer.size).unwrap_or(0);
            let usage = snapshotter.usage(&self.namespace, chain).await;
            sizes.push(usage.map_or(packed, |usage| usage.size));
        }
        Ok(sizes)
    }

    async fn tags_of(&self, local: &LocalImage) -> Result<Vec<String>> {
        let mut tags = Vec::new();
        let mut same: HashMap<Digest, bool> = HashMap::new();
        for image in self.all_images()? {
            let Some(name) = Reference::parse(&image.name).ok().filter(|name| name.digest().is_none()) else {
                continue;
            };
            let is_same = match same.get(&image.target.digest) {
                Some(known) => *known,
                None => self.open_image(&image, "").await.is_ok_and(|other| other.id == local.id),
            };
            same.insert(image.target.digest.clone(), is_same);
            if is_same {
                tags.push(name.familiar());
            }
        }
        Ok(tags)
    }
}

/// The names under which each layer, with all below it, is kept as a snapshot; the lowest first.
pub(super) fn chain_ids(diff_ids: &[String]) -> Result<Vec<String>> {
    let mut chains: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        let diff_id = Digest::parse(diff_id)?;
        chains.push(match chains.last() {
            None => diff_id.to_string(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()).to_string(),
        });
    }
    Ok(chains)
}
