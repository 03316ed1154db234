//! Which parts of an image for several platforms are here.

use crate::content::Descriptor;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::images::graph::{self, Kind};
use crate::images::platform::Platform;
use crate::images::store::Image;

/// What of an image is to go out.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub target: Descriptor,
    /// Why it is not the whole image, for people.
    pub note: Option<String>,
}

impl Engine {
    /// The image as it may be pushed: the whole of it, or one platform's where others are not here.
    pub(super) async fn pushable(&self, image: &Image, platform: &str) -> Result<Part> {
        if platform.is_empty() && self.is_whole(&image.target).await? {
            return Ok(Part { target: image.target.clone(), note: None });
        }
        let local = self.open_image(image, platform).await?;
        let target = local.descriptor();
        let note = (platform.is_empty() && target.digest != image.target.digest).then(|| {
            format!(
                "Not all multiplatform-content is present and only the available single-platform image was pushed\n{} -> {}",
                image.target.digest, target.digest
            )
        });
        Ok(Part { target, note })
    }

    /// Whether all that is below the target is here.
    async fn is_whole(&self, target: &Descriptor) -> Result<bool> {
        graph::is_whole(&self.content, &self.namespace, target).await
    }

    /// The platforms of an index whose images are here; none for an image of one platform.
    pub(super) async fn platforms_here(&self, target: &Descriptor) -> Result<Vec<Platform>> {
        if Kind::of(&target.media_type) != Kind::Index {
            return Ok(Vec::new());
        }
        let mut here = Vec::new();
        for child in graph::read(&self.content, &self.namespace, target).await? {
            let Some(platform) = child.platform else { continue };
            if platform.os != "unknown"
                && !here.contains(&platform)
                && self.is_whole(&child.descriptor).await?
            {
                here.push(platform);
            }
        }
        Ok(here)
    }
}

/// Platforms as they were written.
pub(super) fn platforms(texts: &[String]) -> Result<Vec<Platform>> {
    /// Platforms of one request.
    const MAX: usize = 64;
    if texts.len() > MAX {
        let what = "platforms".to_owned();
        return Err(Error::ResourceExhausted { what, limit: "platforms of one request", max: MAX as u64 });
    }
    texts.iter().map(|text| Ok(text.parse()?)).collect()
}
