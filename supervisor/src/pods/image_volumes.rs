//! Images as volumes of containers: a read-only view of an image's layers, mounted in the pod's folder for as long as the container is
//! there.
//!
//! What always holds: nobody writes to a view; a path within an image leads nowhere but within.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::Pods;
use super::config::{ContainerConfig, Mount, UserMaps, Writing};
use super::create::LABEL;
use crate::content::store::blocking;
use crate::error::{Error, Result};
use crate::labels::Labels;

/// Keeps a view from the collector: it goes with its container.
const ROOT: (&str, &str) = ("containerd.io/gc.root", "longshore");

impl Pods {
    /// Mounts the images that a container is to have as volumes: where each is found, by the number of its mount.
    pub(super) async fn mount_images(
        &self,
        id: &str,
        pod: &str,
        config: &ContainerConfig,
        users: Option<&UserMaps>,
    ) -> Result<HashMap<usize, String>> {
        let mut found = HashMap::new();
        for (number, mount) in config.mounts.iter().enumerate() {
            let Some(image) = &mount.image else { continue };
            if mount.writing == Writing::Allowed {
                let why = "an image is mounted read-only: set readonly";
                return Err(Error::invalid(format!("mount {:?}", mount.container_path), why));
            }
            let info = self.image(&image.image).await?;
            let snapshotter = self.engine.snapshotter()?;
            let key = key(id, number);
            // The folder is there before the view: it tells that there may be one.
            let point = self.images_folder(pod).join(&key);
            let folder = point.clone();
            blocking(move || {
                std::fs::create_dir_all(&folder).map_err(|e| Error::io("making the folder", &folder, e))
            })
            .await?;
            let parent = info.local.chain_id.clone().unwrap_or_default();
            let labels = [(LABEL, id), ROOT].map(|(key, value)| (key.to_owned(), value.to_owned()));
            let mut labels = Labels::from(labels);
            let owners = mount.owners.as_ref().or(users);
            labels.extend(owners.into_iter().flat_map(UserMaps::labels));
            let shifted = owners.is_some();
            let view = || snapshotter.view(&self.namespace, &key, &parent, labels.clone(), None);
            let mounts = match view().await {
                Err(error) if error.is_not_found() => {
                    self.unpack_image(&info.local).await?;
                    view().await?
                }
                made => made?,
            };
            let wanted = mount.clone();
            let source = blocking(move || {
                match shifted {
                    true => mount_shifted(mounts, &point)?,
                    false => mounts.iter().try_for_each(|mount| crate::mounts::mount_at(mount, &point))?,
                }
                within(&point, &wanted)
            });
            found.insert(number, source.await?.display().to_string());
        }
        Ok(found)
    }

    fn images_folder(&self, pod: &str) -> PathBuf {
        self.folder(pod).join("images")
    }

    /// Unmounts and removes the views of a container. Those that are not there are gone already.
    pub(super) async fn leave_images(&self, id: &str, pod: &str) -> Result<()> {
        let (folder, prefix) = (self.images_folder(pod), prefix(id));
        let looked_at = folder.clone();
        let mut keys = blocking(move || unmount_in(&looked_at, |name| name.starts_with(&prefix))).await?;
        // The folders are gone with the host's last run, the snapshots are not.
        let recorded =
            self.container(id).map(|container| container.read(|record| keys_of(id, &record.config)));
        keys.extend(
            recorded.unwrap_or_default().into_iter().filter(|key| !keys.contains(key)).collect::<Vec<_>>(),
        );
        let snapshotter = self.engine.snapshotter()?;
        for key in &keys {
            match snapshotter.remove(&self.namespace, key).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        // Only now: what is left of a failure is tried again.
        blocking(move || keys.iter().try_for_each(|key| remove(&folder.join(key)))).await
    }
}

/// Unmounts what is left in a pod's folder of views, whose snapshots are nobody's. Blocks.
pub(super) fn release(folder: &Path) -> Result<()> {
    let names = unmount_in(folder, |_| true)?;
    names.iter().try_for_each(|name| remove(&folder.join(name)))
}

fn remove(point: &Path) -> Result<()> {
    match std::fs::remove_dir(point) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("unmounting the image at", point, error))
        }
        _ => Ok(()),
    }
}

/// Mounts a view whose owners are shifted, which is the runtime's to do.
fn mount_shifted(mounts: Vec<crate::snapshots::Mount>, point: &Path) -> Result<()> {
    let mounts: Vec<_> = mounts
        .into_iter()
        .map(|mount| longshore_runtime::RootfsMount {
            kind: mount.kind,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        })
        .collect();
    longshore_runtime::mount_on_host(&mounts, point).map_err(|error| {
        Error::io("mounting, with owners as its pod has them, at", point, std::io::Error::other(error))
    })
}

/// Unmounts views below a pod's folder of them, and says which they were. Blocks.
fn unmount_in(folder: &Path, which: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| Error::io("listing", folder, error))?,
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let names: Vec<String> = names.filter(|name| which(name)).collect();
    for name in &names {
        let point = folder.join(name);
        // Not mounted is as good.
        let _ = unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    }
    Ok(names)
}

/// The path within an image that is wanted. Nobody changes the view meanwhile.
fn within(point: &Path, mount: &Mount) -> Result<PathBuf> {
    if mount.image_sub_path.is_empty() {
        return Ok(point.to_owned());
    }
    let refuse = |errno: Errno| {
        Error::invalid(
            format!("image_sub_path {:?} of mount {:?}", mount.image_sub_path, mount.container_path),
            std::io::Error::from(errno).to_string(),
        )
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(point, flags | OFlags::DIRECTORY, Mode::empty()).map_err(refuse)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let found = rustix::fs::openat2(&root, mount.image_sub_path.as_str(), flags, Mode::empty(), resolve)
        .map_err(refuse)?;
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    std::fs::read_link(&link).map_err(|error| Error::io("looking at", link, error))
}

fn prefix(id: &str) -> String {
    format!("{}-", id.get(..32).unwrap_or(id))
}

/// Those of a container's mounts.
fn keys_of(id: &str, config: &ContainerConfig) -> Vec<String> {
    let numbered = config.mounts.iter().enumerate();
    numbered.filter(|(_, mount)| mount.image.is_some()).map(|(number, _)| key(id, number)).collect()
}

/// Of a view's snapshot, and of the folder where it is mounted.
fn key(id: &str, number: usize) -> String {
    format!("{}image-{number}", prefix(id))
}
