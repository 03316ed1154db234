//! Removing names of images, and with the last one the image. A running container's image stays; its blobs and layers
//! are the collector's to remove.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::history::chain_ids;
use super::list::Group;
use super::lookup::Named;
use super::naming::is_nameless;
use super::parts::platforms;
use crate::engine::Engine;
use crate::engine::config::Record;
use crate::engine::conflict::Conflict;
use crate::engine::registry::Entry;
use crate::error::{Error, Result};
use crate::images::reference::Reference;
use crate::images::store::Image;

/// The labels by which a document keeps what it names.
const GC_REF: &str = "containerd.io/gc.ref.content";

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

/// What is to be removed.
#[derive(Clone, Debug)]
pub struct Removal {
    pub image: String,
    pub force: Force,
    /// Only these of an image for several; empty: all of it.
    pub platforms: Vec<String>,
}

impl Engine {
    pub async fn remove_image(self: &Arc<Self>, removal: &Removal) -> Result<Removed> {
        let (image, named) = self.find_image(&removal.image).await?;
        if !removal.platforms.is_empty() {
            return self.remove_platforms(&image, &removal.platforms, removal.force).await;
        }
        let force = removal.force;
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
                let names = with_digests(&group.names, &image, reference);
                let last = group.names.len() == names.len();
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
                names
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
    pub async fn remove_names(&self, group: &Group, names: Vec<Image>) -> Result<Removed> {
        let mut removed = Removed::default();
        let last = names.len() == group.names.len();
        let id = group.local.id.as_str();
        let gone: BTreeSet<String> = names.iter().map(|image| image.name.clone()).collect();
        let (mut tags, mut digests) = (Vec::new(), Vec::new());
        for image in names {
            self.delete_name(&image).await?;
            if is_nameless(&image.name) {
                continue;
            }
            let familiar = familiar(&image);
            self.image_happened(id, "untag", &familiar);
            let Ok(reference) = Reference::parse(&image.name) else { continue };
            if reference.digest().is_some() {
                digests.push(familiar);
                continue;
            }
            tags.push(familiar);
            let remains = |other: &Image| {
                !gone.contains(&other.name)
                    && Reference::parse(&other.name).is_ok_and(|other| other.name() == reference.name())
            };
            if self.is_known_by_digest(&image, &reference) && !group.names.iter().any(remains) {
                digests.push(format!("{}@{}", reference.familiar_name(), image.target.digest));
            }
        }
        digests.sort();
        digests.dedup();
        removed.untagged = tags;
        removed.untagged.extend(digests);
        if last && self.users_of(id).is_empty() {
            self.image_happened(id, "delete", id);
            removed.deleted.push(id.to_owned());
            removed.deleted.extend(self.layers_of_nobody_else(group).await?);
        }
        self.gc.trigger();
        Ok(removed)
    }

    // The layers that go with an image, the uppermost first.
    async fn layers_of_nobody_else(&self, group: &Group) -> Result<Vec<String>> {
        let mut others = BTreeSet::new();
        for other in self.image_groups().await?.iter().filter(|other| other.local.id != group.local.id) {
            others.extend(chain_ids(&other.local.diff_ids)?);
        }
        let mut own = chain_ids(&group.local.diff_ids)?;
        own.retain(|chain| !others.contains(chain));
        own.reverse();
        Ok(own)
    }

    /// Lets go of what an index names for some platforms; the collector removes it.
    async fn remove_platforms(&self, image: &Image, texts: &[String], force: Force) -> Result<Removed> {
        let mut removed = Removed::default();
        for platform in platforms(texts)? {
            let local = self.open_image(image, &platform.to_string()).await?;
            if local.manifest == image.target.digest {
                return Err(Error::invalid(
                    format!("image {}", familiar(image)),
                    "it is for one platform only: remove it without --platform",
                ));
            }
            if let Some(user) = self.users_of(local.id.as_str()).first()
                && (force == Force::No || user.status().is_live())
            {
                let (image, container) = (short(local.id.digits()), short(&user.id));
                return Err(match user.status().is_live() {
                    true => Conflict::ImageOfRunning { image, container },
                    false => Conflict::ImageOfStopped { image, container },
                }
                .into());
            }
            let info = self.content.info(&self.namespace, &image.target.digest)?;
            let mut labels = info.labels;
            labels.retain(|key, value| !(key.starts_with(GC_REF) && *value == local.manifest.as_str()));
            self.content.update(&self.namespace, &image.target.digest, labels, None).await?;
            self.image_cache.forget(&image.target.digest);
            removed.deleted.push(local.manifest.to_string());
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
        match self.images.delete(&self.namespace, &image.name, Some(&image.target), None).await {
            // Someone else was faster, or has given the name to another image.
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    fn users_of(&self, image_id: &str) -> Vec<Arc<Entry>> {
        let mut users = self.registry.all();
        users.retain(|entry| entry.read(|record| has(record, image_id)));
        users
    }

    /// Whether a container of the engine was made from this image, or has it mounted.
    pub(super) fn is_used(&self, image_id: &str) -> bool {
        self.registry.all().iter().any(|entry| entry.read(|record| has(record, image_id)))
    }
}

// A name goes, and when no other tag of its repository is left, the digests there go with it.
fn with_digests(all: &[Image], image: &Image, reference: &Reference) -> Vec<Image> {
    let mut names = vec![image.clone()];
    if reference.digest().is_some() {
        return names;
    }
    let others: Vec<(Reference, &Image)> = all
        .iter()
        .filter(|other| other.name != image.name)
        .filter_map(|other| Some((Reference::parse(&other.name).ok()?, other)))
        .filter(|(other, _)| other.name() == reference.name())
        .collect();
    if others.iter().all(|(other, _)| other.digest().is_some()) {
        names.extend(others.into_iter().map(|(_, other)| other.clone()));
    }
    names
}

/// How docker abbreviates ids.
fn short(id: &str) -> String {
    id.get(..12).unwrap_or(id).to_owned()
}

/// Whether the container was made from this image, or has it mounted.
fn has(record: &Record, image_id: &str) -> bool {
    record.image_id == image_id || record.mounted_images.iter().any(|id| id == image_id)
}

fn familiar(image: &Image) -> String {
    Reference::parse(&image.name)
        .map_or_else(|_: crate::images::reference::ReferenceError| image.name.clone(), |r| r.familiar())
}
