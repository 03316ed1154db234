//! The difference as overlayfs keeps it: the upper directory of a mount is walked, and nothing below it but what it hides.
//!
//! What always holds: what overlayfs only refers to (a directory that was renamed, a file whose data stayed below) is recognized, and
//! the caller walks through both trees instead.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Stat};

use super::layer::{Layer, Place, is_directory, join, read_xattrs};
use super::walk::{check_depth, names, open, stat};
use crate::error::Result;
use crate::images::unpack::Limits;

/// Whether the upper directory could be read as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    Complete,
    /// It refers to what is below; what was added to the layer so far is of no use.
    NeedsWalk,
}

/// A directory under way.
struct Level {
    path: Vec<u8>,
    /// What the directory covers; `None`: nothing, or all of it is hidden.
    below: Option<OwnedFd>,
    upper: OwnedFd,
    names: std::vec::IntoIter<Vec<u8>>,
}

impl Level {
    fn open(path: Vec<u8>, below: Option<OwnedFd>, upper: OwnedFd) -> Result<Self> {
        let mut names = names(&upper, &path)?;
        names.sort_unstable();
        Ok(Self { path, below, upper, names: names.into_iter() })
    }
}

enum Visited {
    File,
    Directory(Level),
    NeedsWalk,
}

/// Adds to `layer` what the overlay directory `upper` changes of `below`.
pub fn run(layer: &mut Layer<'_, '_>, below: Option<&OwnedFd>, upper: &OwnedFd) -> Result<Fit> {
    let depth = Limits::default().depth;
    let below = below.map(|below| open(below, b".", b"")).transpose()?;
    let mut levels = vec![Level::open(Vec::new(), below, open(upper, b".", b"")?)?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.next() else {
            levels.pop();
            continue;
        };
        match visit(layer, level, &name)? {
            Visited::File => {}
            Visited::Directory(inner) => {
                check_depth(levels.len(), depth, &inner.path)?;
                levels.push(inner);
            }
            Visited::NeedsWalk => return Ok(Fit::NeedsWalk),
        }
    }
    Ok(Fit::Complete)
}

fn visit(layer: &mut Layer<'_, '_>, level: &Level, name: &[u8]) -> Result<Visited> {
    let path = join(&level.path, name);
    let Some(above) = stat(&level.upper, name, &path)? else { return Ok(Visited::File) };
    let below = match &level.below {
        Some(below) => stat(below, name, &path)?.map(|stat| (below, stat)),
        None => None,
    };
    if is_whiteout(&above) {
        if below.is_some() {
            layer.whiteout(&path)?;
        }
        return Ok(Visited::File);
    }
    let place = Place { parent: level.upper.as_fd(), leaf: name, path: &path, stat: above };
    let opaque = match marks(&place)? {
        Marks::None => false,
        Marks::Opaque => true,
        Marks::Reference => return Ok(Visited::NeedsWalk),
    };
    layer.add(&place)?;
    if !is_directory(&above) {
        return Ok(Visited::File);
    }
    let below = match below {
        Some((below, stat)) if is_directory(&stat) => {
            if opaque {
                layer.opaque(&path)?;
                None
            } else {
                Some(open(below, name, &path)?)
            }
        }
        _ => None,
    };
    let upper = open(&level.upper, name, &path)?;
    Level::open(path, below, upper).map(Visited::Directory)
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// What overlayfs has noted at a file.
enum Marks {
    None,
    Opaque,
    /// To something below.
    Reference,
}

fn marks(place: &Place<'_>) -> Result<Marks> {
    let own = |name: &[u8]| own(name).is_some();
    let mut marks = Marks::None;
    for (name, value) in read_xattrs(place.parent, place.leaf, place.path, own)? {
        match name.rsplit(|byte| *byte == b'.').next().unwrap_or_default() {
            b"opaque" if value == b"y" => marks = Marks::Opaque,
            // `opaque` = x says that whiteouts within are noted by an attribute.
            b"opaque" | b"redirect" | b"metacopy" | b"whiteout" => return Ok(Marks::Reference),
            _ => {}
        }
    }
    Ok(marks)
}

/// What follows the prefix of overlayfs's own attributes.
fn own(name: &[u8]) -> Option<&[u8]> {
    name.strip_prefix(b"trusted.overlay.").or_else(|| name.strip_prefix(b"user.overlay."))
}
