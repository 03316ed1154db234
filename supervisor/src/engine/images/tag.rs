//! One more name for an image.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::images::reference::Reference;

impl Engine {
    /// Names the image `source` also `target`; a name that was another image's changes hands.
    pub async fn tag(&self, source: &str, target: &str) -> Result<()> {
        let (image, _) = self.find_image(source).await?;
        let target = Reference::parse(target)?;
        if target.digest().is_some() {
            return Err(Error::invalid(
                "refusing to create a tag with a digest reference",
                target.familiar(),
            ));
        }
        if matches!(target.familiar_name().as_str(), "sha256" | "sha512") {
            return Err(Error::invalid(
                "refusing to create an ambiguous tag using digest algorithm as name",
                target.familiar(),
            ));
        }
        self.name_image(Some(&target), image.target.clone(), image.labels.clone()).await?;
        let id = self.open_image(&image, "").await.map(|local| local.id.as_str().to_owned());
        self.image_happened(&id.unwrap_or_default(), "tag", &target.familiar());
        Ok(())
    }
}
