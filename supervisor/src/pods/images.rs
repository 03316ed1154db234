//! Images as pods know them: by id, tag or digest, and all names of one together.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::Pods;
use super::record::State;
use crate::engine::images::{Group, LocalImage};
use crate::error::{Error, Result};
use crate::images::auth::Credentials;
use crate::images::platform::Platform;
use crate::images::pull::{PullRequest, UnderWay};
use crate::images::reference::Reference;
use crate::snapshots::Kind;

/// Marks an image that is not to be collected.
const PINNED: &str = "io.cri-containerd.pinned";

/// Events of a pull that wait to be dropped.
const WAITING: usize = 16;

/// An image, under all of its names.
#[derive(Clone, Debug)]
pub struct ImageInfo {
    /// Digest of its config.
    pub id: String,
    pub tags: Vec<String>,
    pub digests: Vec<String>,
    /// Bytes of its layers.
    pub size: u64,
    /// As whom it runs: a number, or a name.
    pub user: String,
    pub pinned: bool,
    pub local: Arc<LocalImage>,
}

/// How much of a disk is used for images or containers.
#[derive(Clone, Debug)]
pub struct DiskUse {
    pub mount_point: String,
    pub bytes: u64,
    pub inodes: u64,
}

impl Pods {
    /// Every image, by its id.
    pub async fn images(&self) -> Result<Vec<ImageInfo>> {
        let mut all = Vec::new();
        for group in self.engine.image_groups().await? {
            all.push(self.info(&group).await);
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    /// The image that an id, tag or digest names.
    pub async fn image(&self, name: &str) -> Result<ImageInfo> {
        let group = self.image_group(name).await?;
        Ok(self.info(&group).await)
    }

    /// A tag of the image with this id.
    pub async fn tag_of(&self, id: &str) -> Option<String> {
        let group = self.image_group(id).await.ok()?;
        self.names_of(&group).0.into_iter().next()
    }

    async fn image_group(&self, name: &str) -> Result<Group> {
        if name.is_empty() {
            return Err(Error::invalid("image", "it has no name"));
        }
        let reference = Reference::parse(name).ok();
        let canonical = reference.as_ref().map(Reference::canonical);
        let digits = name.strip_prefix("sha256:").unwrap_or(name);
        let is_id = digits.len() >= 6 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut by_id = None;
        for group in self.engine.image_groups().await? {
            let named = group.names.iter().any(|image| Some(&image.name) == canonical.as_ref());
            let by_digest = reference.as_ref().is_some_and(|reference| self.has_digest(&group, reference));
            if named || by_digest {
                return Ok(group);
            }
            if is_id && group.local.id.digits().starts_with(digits) {
                if by_id.is_some() {
                    let why = "several images have ids that begin so: give more digits";
                    return Err(Error::invalid(format!("image {name}"), why));
                }
                by_id = Some(group);
            }
        }
        by_id.ok_or_else(|| Error::not_found("image", name))
    }

    /// Whether a reference by digest is one of the image, whatever tag it came by.
    fn has_digest(&self, group: &Group, reference: &Reference) -> bool {
        let Some(digest) = reference.digest() else { return false };
        group.names.iter().any(|image| {
            let same = image.target.digest.as_str() == digest || group.local.manifest.as_str() == digest;
            same && Reference::parse(&image.name).is_ok_and(|name| name.name() == reference.name())
        })
    }

    /// Its tags, and its digests by repository.
    fn names_of(&self, group: &Group) -> (Vec<String>, Vec<String>) {
        let (mut tags, mut digests) = (Vec::new(), Vec::new());
        for image in &group.names {
            let Ok(reference) = Reference::parse(&image.name) else { continue };
            if reference.digest().is_none() {
                tags.push(reference.canonical());
            }
            if self.engine.is_known_by_digest(image, &reference) {
                digests.push(format!("{}@{}", reference.name(), image.target.digest));
            }
        }
        tags.sort();
        digests.sort();
        digests.dedup();
        (tags, digests)
    }

    async fn info(&self, group: &Group) -> ImageInfo {
        let (tags, digests) = self.names_of(group);
        let user = group.local.config.user.split(':').next().unwrap_or_default().to_owned();
        let pinned = |image: &crate::images::store::Image| {
            image.labels.get(PINNED).is_some_and(|value| value == "pinned")
        };
        ImageInfo {
            id: group.local.id.as_str().to_owned(),
            tags,
            digests,
            size: self.engine.image_size(&group.local).await,
            user,
            pinned: group.names.iter().any(pinned),
            local: group.local.clone(),
        }
    }

    /// The image of a container to be made, and what its record says of it.
    pub(super) async fn image_of(&self, name: &str) -> Result<(Arc<LocalImage>, String)> {
        let group = self.image_group(name).await?;
        let (_, digests) = self.names_of(&group);
        let reference = digests.into_iter().next().unwrap_or_else(|| group.local.id.as_str().to_owned());
        Ok((group.local, reference))
    }

    /// Unpacks an image that is here but was not, as one that containerd's clients imported.
    pub(super) async fn unpack_image(&self, image: &LocalImage) -> Result<()> {
        let group = self.image_group(image.id.as_str()).await?;
        let lost = || Error::not_found("image", image.id.as_str());
        let name = group.names.first().ok_or_else(lost)?;
        self.engine.unpack(&name.name, "").await
    }

    /// Fetches an image and returns its id.
    pub async fn pull_image(self: &Arc<Self>, name: &str, auth: Option<Credentials>) -> Result<String> {
        let wanted = PullRequest { reference: Reference::parse(name)?, platform: Platform::host(), auth };
        let (events, mut told) = mpsc::channel(WAITING);
        let drop_events = async { while told.recv().await.is_some() {} };
        let (pulled, ()) = tokio::join!(self.engine.pull_as(wanted, events), drop_events);
        let local = self.engine.open_image(&pulled?, "").await?;
        Ok(local.id.as_str().to_owned())
    }

    /// Pulls of pods' images that are under way.
    pub fn pulls(&self) -> Vec<UnderWay> {
        self.engine.pulls()
    }

    /// Removes an image with all of its names. One that is not there is removed; one that a container uses stays.
    pub async fn remove_image(self: &Arc<Self>, name: &str) -> Result<()> {
        let group = match self.image_group(name).await {
            Ok(group) => group,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        let id = group.local.id.as_str();
        let used = |state| matches!(state, State::Created | State::Running | State::Unknown);
        let mut containers = self.all_containers().into_iter();
        if let Some(user) = containers.find(|one| one.read(|r| r.image_id == id && used(r.state))) {
            return Err(Error::precondition(
                format!("image {name}"),
                format!("container {} uses it: remove the container first", user.id),
            ));
        }
        let names = group.names.clone();
        self.engine.remove_names(&group, names).await.map(drop)
    }

    /// What images take of the disk.
    pub async fn image_disk(&self) -> Result<DiskUse> {
        let snapshotter = self.engine.snapshotter()?;
        let infos = snapshotter.list(&self.namespace, &crate::filters::Filter::default()).await?;
        let (mut bytes, mut inodes) = (0, 0);
        let committed: HashSet<String> =
            infos.into_iter().filter(|info| info.kind == Kind::Committed).map(|info| info.name).collect();
        for name in committed {
            // It may be gone by now.
            if let Ok(usage) = snapshotter.usage(&self.namespace, &name).await {
                bytes += usage.size;
                inodes += usage.inodes;
            }
        }
        Ok(DiskUse { mount_point: self.snapshots_folder(), bytes, inodes })
    }

    /// Where layers and writable layers are.
    pub fn snapshots_folder(&self) -> String {
        self.config.root.join("snapshotter").display().to_string()
    }
}
