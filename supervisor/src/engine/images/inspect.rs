//! Everything about one image.

use std::sync::Arc;

use super::list::Group;
use super::{ImageSummary, LocalImage};
use crate::engine::Engine;
use crate::error::Result;

/// What `image inspect` shows.
#[derive(Clone, Debug)]
pub struct Inspected {
    pub summary: ImageSummary,
    pub local: Arc<LocalImage>,
    pub target_digest: String,
    pub target_media_type: String,
    pub target_size: u64,
    /// When its last name was given.
    pub tagged_at: Option<jiff::Timestamp>,
    pub snapshotter: String,
}

impl Engine {
    pub async fn inspect_image(&self, text: &str, platform: &str) -> Result<Inspected> {
        let (image, _) = self.find_image(text).await?;
        let local = self.open_image(&image, platform).await?;
        let mut names = Vec::new();
        for other in self.all_images()? {
            if self.open_image(&other, platform).await.is_ok_and(|opened| opened.id == local.id) {
                names.push(other);
            }
        }
        let tagged_at = names.iter().map(|name| name.updated_at).max();
        let group = Group { local: local.clone(), names };
        Ok(Inspected {
            summary: self.image_summary(&group).await,
            local,
            target_digest: image.target.digest.as_str().to_owned(),
            target_media_type: image.target.media_type,
            target_size: image.target.size,
            tagged_at,
            snapshotter: self.snapshotter()?.name().to_owned(),
        })
    }
}
