//! The shared memory that a container shows to others (`--ipc shareable`): a file system in memory, mounted in the
//! daemon's state folder while the container lives. What a crash leaves mounted is taken away at the next start.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::Engine;
use super::spec::mounts::SHM_SIZE;
use crate::error::{Error, Result};

impl Engine {
    fn shm_folders(&self) -> PathBuf {
        self.config.state.join("shm").join(self.namespace.as_str())
    }

    /// Where the shared memory of a container is, if it is shareable and lives.
    pub fn shm_folder(&self, id: &str) -> PathBuf {
        self.shm_folders().join(id)
    }

    /// Mounts it, unless it is.
    pub fn make_shm(&self, id: &str, size: i64) -> Result<PathBuf> {
        let folder = self.shm_folder(id);
        std::fs::create_dir_all(&folder).map_err(|source| Error::io("making the folder", &folder, source))?;
        if !is_mounted(&folder)? {
            let size = if size > 0 { size.unsigned_abs() } else { SHM_SIZE };
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            let data = std::ffi::CString::new(format!("mode=1777,size={size}")).unwrap_or_default();
            mount("shm", &folder, "tmpfs", flags, data.as_c_str())
                .map_err(|source| Error::io("mounting shared memory at", &folder, source.into()))?;
        }
        Ok(folder)
    }

    /// Takes it away; those who have joined keep what they have mounted.
    pub fn drop_shm(&self, id: &str) {
        drop_at(&self.shm_folder(id));
    }

    /// Takes away what belongs to no container of `live`.
    pub(super) fn drop_old_shm(&self, live: impl Fn(&str) -> bool) {
        let folders = std::fs::read_dir(self.shm_folders()).into_iter().flatten().flatten();
        for entry in folders {
            if !entry.file_name().to_str().is_some_and(&live) {
                drop_at(&entry.path());
            }
        }
    }
}

fn drop_at(folder: &Path) {
    if !folder.exists() {
        return;
    }
    // Not mounted is as good.
    let _ = unmount(folder, UnmountFlags::DETACH);
    if let Err(error) = std::fs::remove_dir(folder) {
        tracing::warn!(folder = %folder.display(), %error, "shared memory of a container that ended is left");
    }
}

fn is_mounted(folder: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| {
        std::fs::metadata(path).map(|meta| meta.dev()).map_err(|source| Error::io("looking at", path, source))
    };
    let above = folder.parent().unwrap_or(folder);
    Ok(device(folder)? != device(above)?)
}
