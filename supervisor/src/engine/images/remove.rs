//! Removing names of images, and with the last one the image. A running container's image stays; its blobs and layers
//! are the collector's to remove.

use std::sync::Arc;

use super::list::Group;
use super::lookup::Named;
use crate::engine::Engine;
use crate::engine::conflict::Conflict;
use crate::engine::registry::Entry;
use crate::error::Result;
use crate::images::reference::Reference;
use crate::images::store::Image;

/// What was removed.
#[derive(Clone, Debug, Default)]
pub struct Removed {
    /// Familiar names.
    pub untagged: Vec<String>,
    /// Ids of images and of layers that went with them.
    pub deleted: Vec<String>,
}

/// Whether what stands in the way may be overruled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    No,
    Yes,
}

impl Engine {
    pub async fn remove_image(self: &Arc<Self>, text: &str, force: Force) -> Result<Removed> {
        let (image, named) = self.find_image(text).await?;
        // A name of something that cannot be read here can still be taken away.
        let Ok(local) = self.open_image(&image, "").await else {
            return self.remove_unreadable(&image).await;
        };
        let mut names = Vec::new();
        for other in self.all_images()? {
            if self.open_image(&other, "").await.is_ok_and(|opened| opened.id == local.id) {
                names.push(other);
            }
        }
        let group = Group { local, names };
        let users = self.users_of(group.local.id.as_str());
        let removed = match &named {
            Named::Reference(reference) => {
                let last = group.names.len() == 1;
                if last
                    && force == Force::Yes
                    && let Some(user) = users.iter().find(|entry| entry.status().is_live())
                {
                    let image = short(group.local.id.digits());
                    return Err(Conflict::ImageOfRunning { image, container: short(&user.id) }.into());
                }
                if last
                    && force == Force::No
                    && let Some(user) = users.first()
                {
                    return Err(Conflict::ReferenceInUse {
                        reference: reference.familiar(),
                        container: short(&user.id),
                        image: short(group.local.id.digits()),
                    }
                    .into());
                }
                vec![image]
            }
            Named::Id => {
                self.check_removal_by_id(&group, &users, force)?;
                group.names.clone()
            }
        };
        self.remove_names(&group, removed).await
    }

    fn check_removal_by_id(&self, group: &Group, users: &[Arc<Entry>], force: Force) -> Result<()> {
        let image = short(group.local.id.digits());
        if let Some(user) = users.iter().find(|entry| entry.status().is_live()) {
            return Err(Conflict::ImageOfRunning { image, container: short(&user.id) }.into());
        }
        if force == Force::Yes {
            return Ok(());
        }
        let mut repositories: Vec<String> = group
            .names
            .iter()
            .filter_map(|name| Reference::parse(&name.name).ok())
            .map(|r| r.name())
            .collect();
        repositories.sort();
        repositories.dedup();
        if repositories.len() > 1 {
            return Err(Conflict::ManyReferences { image }.into());
        }
        match users.first() {
            Some(user) => Err(Conflict::ImageOfStopped { image, container: short(&user.id) }.into()),
            None => Ok(()),
        }
    }

    /// Removes some names of an image. The image counts as deleted when none is left and no container uses it.
    pub(super) async fn remove_names(&self, group: &Group, names: Vec<Image>) -> Result<Removed> {
        let mut removed = Removed::default();
        let last = names.len() == group.names.len();
        let id = group.local.id.as_str();
        for image in names {
            self.delete_name(&image).await?;
            let familiar = familiar(&image);
            self.image_happened(id, "untag", &familiar);
            removed.untagged.push(familiar);
            if last
                && let Ok(reference) = Reference::parse(&image.name)
                && reference.digest().is_none()
            {
                removed.untagged.push(format!("{}@{}", reference.familiar_name(), image.target.digest));
            }
        }
        if last && self.users_of(id).is_empty() {
            self.image_happened(id, "delete", id);
            removed.deleted.push(id.to_owned());
            removed.deleted.extend(group.local.layers.iter().rev().map(|layer| layer.digest.clone()));
        }
        self.gc.trigger();
        Ok(removed)
    }

    async fn remove_unreadable(&self, image: &Image) -> Result<Removed> {
        self.delete_name(image).await?;
        self.gc.trigger();
        Ok(Removed { untagged: vec![familiar(image)], deleted: Vec::new() })
    }

    async fn delete_name(&self, image: &Image) -> Result<()> {
        match self.images.delete(&self.namespace, &image.name, None, None).await {
            // Someone else was faster.
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    fn users_of(&self, image_id: &str) -> Vec<Arc<Entry>> {
        let mut users = self.registry.all();
        users.retain(|entry| entry.read(|record| record.image_id == image_id));
        users
    }

    /// Whether a container of the engine was made from this image.
    pub(super) fn is_used(&self, image_id: &str) -> bool {
        self.registry.all().iter().any(|entry| entry.read(|record| record.image_id == image_id))
    }
}

/// How docker abbreviates ids.
fn short(id: &str) -> String {
    id.get(..12).unwrap_or(id).to_owned()
}

fn familiar(image: &Image) -> String {
    Reference::parse(&image.name)
        .map_or_else(|_: crate::images::reference::ReferenceError| image.name.clone(), |r| r.familiar())
}
