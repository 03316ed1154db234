//! The folders in which mounts may be prepared. Nothing outside is made, whatever links there are.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

use crate::error::{Error, Result};

pub struct Roots(Vec<(PathBuf, OwnedFd)>);

/// Where something is to be made: the open parent, and the name in it.
pub struct Place {
    pub parent: OwnedFd,
    pub leaf: String,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Roots {
    pub fn open<'a>(folders: impl IntoIterator<Item = &'a Path>) -> Result<Self> {
        let open = |folder: &Path| {
            let fd = open(folder, DIRECTORY, Mode::empty())
                .map_err(|errno| Error::io("opening", folder, errno.into()))?;
            Ok((folder.to_owned(), fd))
        };
        folders.into_iter().map(open).collect::<Result<_>>().map(Self)
    }

    /// The place of `path`, which is below one of the folders.
    pub fn place(&self, path: &str, what: &'static str) -> Result<Place> {
        let inner = self.0.iter().find_map(|(root, fd)| Some((fd, Path::new(path).strip_prefix(root).ok()?)));
        let Some((root, inner)) = inner else {
            let shown = format!("{what} of {path:?}, outside of the daemon's own folders");
            return Err(Error::Unimplemented { what: shown });
        };
        let leaf = inner.file_name().and_then(|leaf| leaf.to_str()).filter(|leaf| !leaf.is_empty());
        let leaf = leaf.ok_or_else(|| Error::invalid(format!("{what} of {path:?}"), "names no file"))?;
        let parent = inner.parent().filter(|parent| !parent.as_os_str().is_empty());
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let parent = openat2(root, parent.unwrap_or(Path::new(".")), DIRECTORY, Mode::empty(), resolve)
            .map_err(|errno| Error::io("opening the folder of", path, errno.into()))?;
        Ok(Place { parent, leaf: leaf.to_owned() })
    }
}
