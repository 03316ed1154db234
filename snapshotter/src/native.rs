//! Snapshots as plain directories: an active snapshot starts as a full copy of its parent (a clone where the file system can).
//!
//! Slow and large, but it needs nothing of the kernel; for file systems that overlay refuses, and to check the suite against.

use std::path::Path;

use crate::directories::Directories;
use crate::local::{Driver, Local};
use crate::overlayfs::bind;
use crate::{Kind, Labels, Mount, Result, UpperDir, tree};

/// Parents are recorded but never stacked, so this only bounds the chains that others may have to walk.
const MAX_LAYERS: usize = 500;

/// Snapshotter on plain directories.
pub type Native = Local<Plain>;

impl Local<Plain> {
    /// Opens or creates the folder `root`, which nobody else may have open. Removes what an earlier process left unfinished.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_with(root, Plain)
    }
}

/// The layout of plain directories.
pub struct Plain;

impl Driver for Plain {
    const MAX_LAYERS: usize = MAX_LAYERS;
    const CAN_REBASE: bool = false;

    fn create(&self, directories: &Directories, id: u64, kind: Kind, parents: &[u64]) -> Result<()> {
        directories.create(id)?;
        match (kind, parents.first()) {
            (Kind::Active, Some(parent)) => {
                let path = directories.path_in(id, "fs");
                tree::copy(directories.open_fs(*parent)?, directories.open_fs(id)?, Path::new(&path))
            }
            _ => Ok(()),
        }
    }

    fn mounts(
        &self,
        directories: &Directories,
        id: u64,
        kind: Kind,
        parents: &[u64],
        _labels: &Labels,
    ) -> Vec<Mount> {
        let (shown, access) = match (kind, parents.first()) {
            (Kind::Active, _) => (id, "rw"),
            (Kind::View | Kind::Committed, parent) => (*parent.unwrap_or(&id), "ro"),
        };
        vec![bind(directories.path_in(shown, "fs"), access)]
    }

    fn can_remap(&self) -> bool {
        false
    }

    fn upper_dir(&self, fs: String) -> UpperDir {
        UpperDir::Whole { path: fs.into() }
    }
}
