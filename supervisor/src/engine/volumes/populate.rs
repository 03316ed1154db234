//! Copy-up: an empty volume gets what the image has where it is mounted, the first time a container is made with it.
//!
//! What always holds: the image is untrusted, a link in it leads nowhere but within; a volume that nobody has mounted is filled whole
//! or not at all, also where the daemon or the host dies in between.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{DATA, FILLING};
use crate::content::store::blocking;
use crate::diff::read_only;
use crate::engine::Engine;
use crate::engine::config::{Mount, MountKind};
use crate::error::{Error, Result};
use crate::images::detached;
use crate::snapshots;
use crate::trees::copy_contents;

/// How the files get into the volume.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Beside it, and then all at once: nobody has it mounted.
    Aside,
    InPlace,
}

impl Engine {
    /// Fills the empty ones of a new container's volumes. `rootfs` are the mounts of its snapshot.
    pub(in crate::engine) async fn populate_volumes(
        self: &Arc<Self>,
        id: &str,
        mounts: &[Mount],
        rootfs: &[snapshots::Mount],
    ) -> Result<()> {
        for mount in mounts.iter().filter(|mount| mount.kind == MountKind::Volume && !mount.volume.no_copy) {
            let user = format!("copy-up of {id}");
            self.mount_volume(&mount.source, &user).await?;
            let filled = self.populate(mount, rootfs).await;
            self.unmount_volume(&mount.source, &user).await?;
            filled?;
        }
        Ok(())
    }

    async fn populate(&self, mount: &Mount, rootfs: &[snapshots::Mount]) -> Result<()> {
        let Some(kept) = self.volumes.get(&mount.source) else { return Ok(()) };
        // Two containers that are made at one time fill it once.
        let _turn = if kept.record.options.is_empty() { Some(kept.mounted.lock().await) } else { None };
        let alone = kept.users.len() <= 1 && !self.volumes.has_options(&mount.source);
        let way = if alone { Way::Aside } else { Way::InPlace };
        let folder = self.volumes.folder.join(&mount.source);
        let (target, rootfs) = (mount.target.clone(), rootfs.to_vec());
        let synced = !kept.record.anonymous;
        blocking(move || fill(&folder, &target, &rootfs, way, synced)).await
    }
}

fn fill(folder: &Path, target: &str, rootfs: &[snapshots::Mount], way: Way, synced: bool) -> Result<()> {
    let data = folder.join(DATA);
    let failed = |source| Error::io("filling the volume", folder, source);
    if std::fs::read_dir(&data).map_err(failed)?.next().is_some() {
        return Ok(());
    }
    let root = detached::open(&read_only(rootfs))?;
    let Some(from) = open_target(&root, target)? else { return Ok(()) };
    match way {
        Way::InPlace => copy_contents(&from, &open(&data)?)?,
        Way::Aside => {
            let aside: PathBuf = folder.join(FILLING);
            match std::fs::remove_dir_all(&aside) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
            std::fs::create_dir(&aside).map_err(failed)?;
            let into = open(&aside)?;
            copy_contents(&from, &into)?;
            if synced {
                fs::syncfs(&into).map_err(|errno| failed(errno.into()))?;
            }
            // Takes the place of the empty folder in one step.
            std::fs::rename(&aside, &data).map_err(failed)?;
        }
    }
    if synced {
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    } else {
        Ok(())
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::open(path, flags, Mode::empty()).map_err(|errno| Error::io("opening the volume", path, errno.into()))
}

/// The folder of the image at `target`; links are resolved within the image.
fn open_target(root: &OwnedFd, target: &str) -> Result<Option<OwnedFd>> {
    let relative = target.trim_start_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match fs::openat2(root, relative, flags, Mode::empty(), resolve) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::NOTDIR) => {
            Err(Error::invalid("cannot mount volume over existing file, file exists", target.to_owned()))
        }
        Err(errno) => Err(Error::io("looking into the image for", target, errno.into())),
    }
}
