//! A rootfs mounted on the host, at `<bundle>/rootfs`: for another OCI runtime, which finds it there, and for hooks that
//! run on the host and may look there. Our own runtime otherwise mounts in the container's mount namespace.
//!
//! What always holds: what is mounted here is unmounted when the container is deleted, or by the shim's `delete`.

use std::path::{Path, PathBuf};

use longshore_runtime::RootfsMount;
use oci_spec::runtime::Spec;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::error::{Error, Result};

/// How many mounts on top of each other are taken away.
const LAYERS: usize = 64;

/// The folder's name in the bundle.
pub const FOLDER: &str = "rootfs";

/// A mounted rootfs.
#[derive(Debug)]
pub struct HostRootfs {
    at: PathBuf,
}

impl HostRootfs {
    /// Mounts; `None` if there is nothing to mount.
    pub fn mount(bundle: &Path, mounts: &[RootfsMount]) -> Result<Option<Self>> {
        if mounts.is_empty() {
            return Ok(None);
        }
        let at = bundle.join(FOLDER);
        match rustix::fs::mkdir(&at, Mode::from_raw_mode(0o711)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::file("make folder", &at)(errno)),
        }
        longshore_runtime::mount_on_host(mounts, &at)?;
        Ok(Some(Self { at }))
    }

    pub fn unmount(&self) -> Result<()> {
        unmount(&self.at)
    }
}

/// Takes away everything that is mounted at a folder; nothing there is fine.
pub fn unmount(at: &Path) -> Result<()> {
    for _ in 0..LAYERS {
        match rustix::mount::unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(Error::file("unmount", at)(errno)),
        }
    }
    Ok(())
}

/// Whether the configuration has hooks that run on the host, where they may look into the rootfs.
pub fn is_looked_at(spec: &Spec) -> bool {
    let Some(hooks) = spec.hooks() else { return false };
    #[allow(deprecated)]
    let prestart = hooks.prestart();
    [prestart, hooks.create_runtime(), hooks.poststart(), hooks.poststop()]
        .into_iter()
        .flatten()
        .any(|hooks| !hooks.is_empty())
}
