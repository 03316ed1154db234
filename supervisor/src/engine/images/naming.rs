//! Names of images: given, taken over from another image, and the record of an image that has none.
//!
//! What always holds: an image that loses its last name to another one is kept, without a name, until it is removed or pruned; an image
//! with a name has no record as one without.

use crate::content::{Descriptor, Digest};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::images::held::Held;
use crate::images::reference::Reference;
use crate::images::store::Image;
use crate::labels::Labels;
use crate::leases::Resource;

/// Begins the name of a record of an image without a name; the target's digest follows. No reference begins so.
const NAMELESS: &str = "<none>@";

/// Whether this is the record of an image without a name.
pub fn is_nameless(name: &str) -> bool {
    name.starts_with(NAMELESS)
}

/// What becomes of an image whose tag goes to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Displaced {
    /// It was made or brought here: it has no name then.
    Nameless,
    /// It is its registry's: its digest in the repository stays its name.
    ByDigest,
}

/// An image that has a name, kept from the collector until this is dropped.
pub(super) struct Holder {
    pub image: Image,
    held: Option<Held>,
}

impl Drop for Holder {
    fn drop(&mut self) {
        if let (Some(held), Ok(runtime)) = (self.held.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(held.end());
        }
    }
}

impl Engine {
    /// Gives an image a name, or a record without one. Whoever had the name before is returned if it was another image.
    pub async fn name_image(
        &self,
        name: Option<&Reference>,
        target: Descriptor,
        labels: Labels,
    ) -> Result<Option<Image>> {
        let Some(name) = name else {
            if !self.has_name(&target.digest, "")? {
                let nameless = format!("{NAMELESS}{}", target.digest);
                self.images.put(&self.namespace, &nameless, target, labels).await?;
            }
            return Ok(None);
        };
        let name = name.canonical();
        let before = self.holder_of(&name)?.filter(|image| image.target.digest != target.digest);
        if let Some(before) = &before {
            self.keep_displaced(before, Displaced::Nameless).await?;
        }
        let digest = target.digest.clone();
        self.images.put(&self.namespace, &name, target, labels).await?;
        self.forget_nameless(&digest).await?;
        Ok(before)
    }

    /// Keeps the image that has this name while another may get it.
    pub(super) async fn hold_named(&self, name: &Reference) -> Result<Option<Holder>> {
        let Some(image) = self.holder_of(&name.canonical())? else { return Ok(None) };
        let held = Held::begin(&self.leases, &self.gc, &self.namespace).await?;
        let resource = Resource::Content(image.target.digest.clone());
        let holder = Holder { image, held: Some(held) };
        if let Some(held) = &holder.held {
            held.hold(&resource).await?;
        }
        Ok(Some(holder))
    }

    /// Records an image whose name goes to another one, unless it has further names.
    pub(super) async fn keep_displaced(&self, image: &Image, how: Displaced) -> Result<()> {
        let digest = &image.target.digest;
        if self.has_name(digest, &image.name)? {
            return Ok(());
        }
        let name = match (how, Reference::parse(&image.name)) {
            (Displaced::ByDigest, Ok(reference)) => format!("{}@{digest}", reference.name()),
            _ => format!("{NAMELESS}{digest}"),
        };
        self.images.put(&self.namespace, &name, image.target.clone(), image.labels.clone()).await.map(drop)
    }

    /// An image that has a name again needs no record without one.
    pub(super) async fn forget_nameless(&self, digest: &Digest) -> Result<()> {
        let nameless = format!("{NAMELESS}{digest}");
        match self.images.delete(&self.namespace, &nameless, None, None).await {
            Err(Error::NotFound { .. }) => Ok(()),
            other => other,
        }
    }

    fn holder_of(&self, name: &str) -> Result<Option<Image>> {
        match self.images.get(&self.namespace, name) {
            Ok(image) => Ok(Some(image)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    // Whether a record other than `except` names the same image.
    fn has_name(&self, digest: &Digest, except: &str) -> Result<bool> {
        let named = |image: &Image| {
            image.target.digest == *digest && image.name != except && !is_nameless(&image.name)
        };
        Ok(self.all_images()?.iter().any(named))
    }
}
