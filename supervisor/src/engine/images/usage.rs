//! How much of the disk images take, and what of it they share.

use std::collections::HashMap;

use super::ImageSummary;
use super::history::chain_ids;
use crate::engine::Engine;
use crate::error::Result;

/// One image's part.
#[derive(Clone, Debug)]
pub struct ImageUsage {
    pub summary: ImageSummary,
    /// Unpacked bytes of layers that other images have, too.
    pub shared: u64,
}

impl Engine {
    /// Every image, newest first, and the bytes of all their layers, each once.
    pub async fn image_usage(&self) -> Result<(Vec<ImageUsage>, u64)> {
        let mut layers: HashMap<String, (u64, usize)> = HashMap::new();
        let mut found = Vec::new();
        for group in self.image_groups().await? {
            let chains = chain_ids(&group.local.diff_ids)?;
            for (chain, size) in chains.iter().zip(self.layer_sizes(&group.local).await?) {
                layers.entry(chain.clone()).or_insert((size, 0)).1 += 1;
            }
            found.push((self.image_summary(&group).await, chains));
        }
        found.sort_by(|(a, _), (b, _)| b.created_at.cmp(&a.created_at).then_with(|| a.tags.cmp(&b.tags)));
        let usage = found.into_iter().map(|(summary, chains)| {
            let in_common =
                chains.iter().filter_map(|chain| layers.get(chain)).filter(|(_, users)| *users > 1);
            let shared = in_common.map(|(size, _)| size).sum();
            ImageUsage { summary, shared }
        });
        let images = usage.collect();
        Ok((images, layers.values().map(|(size, _)| size).sum()))
    }
}
