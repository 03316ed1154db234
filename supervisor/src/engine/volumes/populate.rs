//! Copy-up: an empty volume gets what the image has where it is mounted, the first time a container is made with it.
//!
//! What always holds: the image is untrusted, a link in it leads nowhere but within; a volume that nobody has mounted is filled whole
//! or not at all, also where the client, the daemon or the host goes away in between; one that is a file system of its own is filled in
//! place.

use std::os::fd::OwnedFd;
use std::path::Path;
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
    /// Whether there is something to be filled.
    pub(in crate::engine) fn wants_copy_up(mounts: &[Mount]) -> bool {
        mounts.iter().any(is_filled)
    }

    /// Fills the empty ones of a container's volumes. `rootfs` are the mounts of its snapshot, which must stay until this is done: the
    /// caller sees to it that it is not given up half-way.
    pub(in crate::engine) async fn populate_volumes(
        self: &Arc<Self>,
        id: &str,
        mounts: &[Mount],
        rootfs: &[snapshots::Mount],
    ) -> Result<()> {
        for mount in mounts.iter().filter(|mount| is_filled(mount)) {
            let (engine, name, target) = (self.clone(), mount.source.clone(), mount.target.clone());
            let rootfs = rootfs.to_vec();
            let filling = async move { engine.populate(&name, target, rootfs).await };
            if self.volumes.has_options(&mount.source) {
                let user = format!("copy-up of {id}");
                self.with_volumes(vec![mount.source.clone()], user, filling).await?;
            } else {
                filling.await?;
            }
        }
        Ok(())
    }

    async fn populate(&self, name: &str, target: String, rootfs: Vec<snapshots::Mount>) -> Result<()> {
        let Some(kept) = self.volumes.get(name) else { return Ok(()) };
        // Until it is filled nobody mounts it: who has it mounted now is all that counts.
        let users = kept.mounted.lock_owned().await;
        let own = !kept.record.options.is_empty();
        let way = if users.is_empty() && !own { Way::Aside } else { Way::InPlace };
        let folder = self.volumes.folder.join(name);
        let synced = !kept.record.anonymous;
        blocking(move || {
            let _users = users;
            fill(&folder, &target, &rootfs, way, synced)
        })
        .await
    }
}

fn is_filled(mount: &Mount) -> bool {
    mount.kind == MountKind::Volume && !mount.volume.no_copy
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
            let aside = folder.join(FILLING);
            remove(&aside).map_err(failed)?;
            let filled = fill_aside(&from, &aside, &data, synced);
            if filled.is_err()
                && let Err(error) = remove(&aside)
            {
                tracing::warn!(folder = %aside.display(), %error, "what was copied for a volume is left; the next start removes it");
            }
            filled?;
        }
    }
    if synced {
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    } else {
        Ok(())
    }
}

fn fill_aside(from: &OwnedFd, aside: &Path, data: &Path, synced: bool) -> Result<()> {
    let failed = |source| Error::io("filling the volume", data, source);
    std::fs::create_dir(aside).map_err(failed)?;
    let into = open(aside)?;
    copy_contents(from, &into)?;
    if synced {
        fs::syncfs(&into).map_err(|errno| failed(errno.into()))?;
    }
    // Takes the place of the empty folder in one step.
    std::fs::rename(aside, data).map_err(failed)
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
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
