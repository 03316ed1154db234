//! A tree as a tar stream.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;

use crate::diff::layer::{Holes, Layer, Place, is_directory, join};
use crate::diff::stream::{self, Sink};
use crate::diff::walk::{check_depth, names, open, stat};
use crate::error::{Error, Result};
use crate::images::unpack::Limits;

/// A folder under way.
struct Level {
    path: Vec<u8>,
    folder: OwnedFd,
    names: std::vec::IntoIter<Vec<u8>>,
}

impl Level {
    fn open(path: Vec<u8>, folder: OwnedFd) -> Result<Level> {
        let mut names = names(&folder, &path)?;
        names.sort_unstable();
        Ok(Level { path, folder, names: names.into_iter() })
    }
}

/// Packs what is at `leaf` in `parent`, with all below it, under the name `base`. Blocks.
pub fn pack(
    parent: &OwnedFd,
    leaf: &[u8],
    base: &[u8],
    sink: Box<Sink<'_>>,
    cancel: &AtomicBool,
) -> Result<()> {
    let path = if leaf == b"." { &[][..] } else { leaf };
    stream::pour(sink, cancel, |out| {
        let Some(stat) = stat(parent, leaf, path)? else {
            return Err(Error::not_found("file", String::from_utf8_lossy(leaf)));
        };
        let mut layer = Layer::plain(out, parent.as_fd(), Holes::WrittenOut).renaming(path, base);
        layer.add(&Place { parent: parent.as_fd(), leaf, path, stat })?;
        if is_directory(&stat) { walk(&mut layer, path.to_vec(), open(parent, leaf, path)?) } else { Ok(()) }
    })
}

/// Packs what is in a folder, without an entry for the folder itself. Blocks.
pub fn pack_contents(
    folder: BorrowedFd<'_>,
    holes: Holes,
    sink: Box<Sink<'_>>,
    cancel: &AtomicBool,
) -> Result<()> {
    stream::pour(sink, cancel, |out| {
        let own = folder.try_clone_to_owned().map_err(|source| Error::io("opening", "a folder", source))?;
        let top = open(&own, b".", b"")?;
        walk(&mut Layer::plain(out, folder, holes), Vec::new(), top)
    })
}

fn walk(layer: &mut Layer<'_, '_>, path: Vec<u8>, top: OwnedFd) -> Result<()> {
    let depth = Limits::default().depth;
    let mut levels = vec![Level::open(path, top)?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.next() else {
            levels.pop();
            continue;
        };
        let path = join(&level.path, &name);
        // Gone since the folder was listed.
        let Some(stat) = stat(&level.folder, &name, &path)? else { continue };
        layer.add(&Place { parent: level.folder.as_fd(), leaf: &name, path: &path, stat })?;
        if is_directory(&stat) {
            let inner = open(&level.folder, &name, &path)?;
            check_depth(levels.len(), depth, &path)?;
            levels.push(Level::open(path, inner)?);
        }
    }
    Ok(())
}
