//! Images as folders of containers (`--mount type=image`). What is mounted is a view of the image's layers, which is made with the
//! container and removed with it: it stays as it is, whatever becomes of the image's names.
//!
//! What always holds: nobody writes to it; a path within an image leads nowhere but within; a view is mounted on the host only while
//! its container is started or its files are looked at; what a crash leaves, the next use of it or the next start of the daemon removes.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Engine;
use super::config::{Mount, MountKind, Record};
use super::volumes::release;
use crate::content::store::blocking;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::snapshots;

/// Below a container's folder: a folder for each view, where it is mounted.
const FOLDER: &str = "images";

/// What a container's snapshots are known by.
pub const OWNER: &str = "longshore.io/container";

/// Keeps a view from the collector: it goes with its container.
const ROOT: (&str, &str) = ("containerd.io/gc.root", "longshore");

/// Views that are mounted on the host, until this is dropped.
#[derive(Debug, Default)]
pub struct Mounted(Vec<PathBuf>);

impl Drop for Mounted {
    fn drop(&mut self) {
        for point in &self.0 {
            if let Err(error) = release(point) {
                tracing::warn!(folder = %point.display(), %error, "a view of an image stays mounted until it is used again");
            }
        }
    }
}

impl Engine {
    /// Ids of the images that a container is to have mounted.
    pub(super) async fn mounted_images(&self, mounts: &[Mount]) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for mount in images(mounts) {
            let (image, _) = self.find_image(&mount.source).await?;
            ids.push(self.open_image(&image, "").await?.id.as_str().to_owned());
        }
        Ok(ids)
    }

    /// Where a view of an image is mounted when it is needed.
    pub(super) fn image_point(&self, id: &str, mount: &Mount) -> PathBuf {
        self.folder(id).join(FOLDER).join(name(mount))
    }

    /// Makes the views that a container lacks, and says what is to be mounted where.
    pub(super) async fn views(
        &self,
        id: &str,
        record: &Record,
    ) -> Result<Vec<(PathBuf, Vec<snapshots::Mount>)>> {
        let mut views = Vec::new();
        for mount in images(record.mounts()) {
            let snapshotter = self.snapshotter_of(record)?;
            let made = match snapshotter.mounts(&self.namespace, &key(id, &name(mount))).await {
                Err(error) if error.is_not_found() => self.make_view(id, record, mount).await?,
                found => found?,
            };
            views.push((self.image_point(id, mount), made));
        }
        Ok(views)
    }

    async fn make_view(&self, id: &str, record: &Record, mount: &Mount) -> Result<Vec<snapshots::Mount>> {
        let (image, _) = self.find_image(&mount.source).await?;
        let local = self.open_image(&image, "").await?;
        let snapshotter = self.snapshotter_of(record)?;
        let (key, parent) = (key(id, &name(mount)), local.chain_id.clone().unwrap_or_default());
        let labels = Labels::from([(OWNER, id), ROOT].map(|(key, value)| (key.to_owned(), value.to_owned())));
        let point = self.image_point(id, mount);
        // The folder tells of the view when the container is removed.
        blocking(move || make_folder(&point)).await?;
        let view = || snapshotter.view(&self.namespace, &key, &parent, labels.clone(), None);
        match view().await {
            Err(error) if error.is_not_found() => {
                self.unpack(&image.name, "").await?;
                view().await
            }
            made => made,
        }
    }

    /// Mounts the views of a container on the host. Nobody else does that for this container meanwhile.
    pub(super) async fn mount_images(&self, id: &str, record: &Record) -> Result<Mounted> {
        let views = self.views(id, record).await?;
        if views.is_empty() {
            return Ok(Mounted::default());
        }
        // Given up, it is unmounted as soon as it is mounted.
        blocking(move || {
            let mut mounted = Mounted::default();
            for (point, mounts) in views {
                make_folder(&point)?;
                release(&point)?;
                mounted.0.push(point.clone());
                mounts.iter().try_for_each(|mount| crate::mounts::mount_at(mount, &point))?;
            }
            Ok(mounted)
        })
        .await
    }

    /// Removes views of a container that is gone, by their names.
    pub(super) async fn remove_views(&self, id: &str, names: &[String]) -> Result<()> {
        for name in names {
            self.remove_snapshot(&key(id, name)).await?;
        }
        Ok(())
    }
}

/// The names of the views that a container's folder tells of; none of them is mounted when this returns. Blocks.
pub fn leave(folder: &Path) -> Result<Vec<String>> {
    let views = folder.join(FOLDER);
    let failed = |source| Error::io("listing", &views, source);
    let entries = match std::fs::read_dir(&views) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        release(&entry.path())?;
        names.extend(entry.file_name().to_str().map(str::to_owned));
    }
    Ok(names)
}

fn make_folder(point: &Path) -> Result<()> {
    std::fs::create_dir_all(point).map_err(|source| Error::io("making the folder", point, source))
}

fn images(mounts: &[Mount]) -> impl Iterator<Item = &Mount> {
    mounts.iter().filter(|mount| mount.kind == MountKind::Image)
}

/// Of a view, the same as long as the same is mounted at the same place.
fn name(mount: &Mount) -> String {
    let digest =
        Sha256::new().chain_update(&mount.target).chain_update([0]).chain_update(&mount.source).finalize();
    crate::hex::encode(&digest[..6])
}

/// Of a view's snapshot.
fn key(id: &str, name: &str) -> String {
    format!("{id}-image-{name}")
}
