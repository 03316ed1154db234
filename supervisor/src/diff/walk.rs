//! The difference of two trees, found by walking through both.
//!
//! What always holds: directories are walked in the order of their names, with no link followed, and with at most two descriptors a level.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::layer::{Layer, Place, is_directory, join, portable_xattrs, reading};
use crate::error::{Error, Result};
use crate::images::unpack::Limits;

/// Entries of one directory; a layer may not have more either.
const MAX_NAMES: usize = 4_000_000;
const READ: usize = 64 * 1024;
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory under way.
struct Level {
    path: Vec<u8>,
    /// `None`: nothing is below, so all is new.
    lower: Option<OwnedFd>,
    upper: OwnedFd,
    names: std::vec::IntoIter<(Vec<u8>, Side)>,
}

#[derive(Clone, Copy)]
struct Side {
    lower: bool,
    upper: bool,
}

impl Level {
    fn open(path: Vec<u8>, lower: Option<OwnedFd>, upper: OwnedFd) -> Result<Self> {
        let mut all: BTreeMap<Vec<u8>, Side> = BTreeMap::new();
        if let Some(lower) = &lower {
            for name in names(lower, &path)? {
                all.insert(name, Side { lower: true, upper: false });
            }
        }
        for name in names(&upper, &path)? {
            all.entry(name).or_insert(Side { lower: false, upper: true }).upper = true;
        }
        let names: Vec<_> = all.into_iter().collect();
        Ok(Self { path, lower, upper, names: names.into_iter() })
    }
}

/// Adds to `layer` what makes `upper` of `lower`.
pub fn run(layer: &mut Layer<'_, '_>, lower: Option<&OwnedFd>, upper: &OwnedFd) -> Result<()> {
    let depth = Limits::default().depth;
    let lower = lower.map(|lower| open(lower, b".", b"")).transpose()?;
    let mut levels = vec![Level::open(Vec::new(), lower, open(upper, b".", b"")?)?];
    while let Some(level) = levels.last_mut() {
        let Some((name, side)) = level.names.next() else {
            levels.pop();
            continue;
        };
        let Some(inner) = visit(layer, level, &name, side)? else { continue };
        check_depth(levels.len(), depth, &inner.path)?;
        levels.push(inner);
    }
    Ok(())
}

/// Handles one name; the result is the directory to be entered next.
fn visit(layer: &mut Layer<'_, '_>, level: &Level, name: &[u8], side: Side) -> Result<Option<Level>> {
    let path = join(&level.path, name);
    let upper = if side.upper { stat(&level.upper, name, &path)? } else { None };
    let Some(upper) = upper else {
        if side.lower {
            layer.whiteout(&path)?;
        }
        return Ok(None);
    };
    let lower = match &level.lower {
        Some(lower) if side.lower => stat(lower, name, &path)?.map(|stat| (lower, stat)),
        _ => None,
    };
    let place = Place { parent: level.upper.as_fd(), leaf: name, path: &path, stat: upper };
    match &lower {
        Some((lower, stat)) if same(&place, lower.as_fd(), stat)? => layer.keep(&place)?,
        _ => layer.add(&place)?,
    }
    if !is_directory(&upper) {
        return Ok(None);
    }
    let below = match lower {
        Some((lower, stat)) if is_directory(&stat) => Some(open(lower, name, &path)?),
        _ => None,
    };
    let above = open(&level.upper, name, &path)?;
    Level::open(path, below, above).map(Some)
}

/// Whether a file is as it was below. Of a directory only the attributes count.
pub fn same(place: &Place<'_>, lower: BorrowedFd<'_>, below: &Stat) -> Result<bool> {
    let above = &place.stat;
    if above.st_mode != below.st_mode
        || (above.st_uid, above.st_gid) != (below.st_uid, below.st_gid)
        || above.st_rdev != below.st_rdev
    {
        return Ok(false);
    }
    let attributes = |parent| portable_xattrs(parent, place.leaf, place.path);
    if attributes(place.parent)? != attributes(lower)? {
        return Ok(false);
    }
    match FileType::from_raw_mode(above.st_mode) {
        FileType::RegularFile => same_file(place, lower, below),
        FileType::Symlink => {
            let target = |parent| fs::readlinkat(parent, place.leaf, Vec::new()).map_err(reading(place.path));
            Ok(target(place.parent)? == target(lower)?)
        }
        _ => Ok(true),
    }
}

/// By size and time; files of layers have whole seconds, which say little, so that those are compared.
fn same_file(place: &Place<'_>, lower: BorrowedFd<'_>, below: &Stat) -> Result<bool> {
    let above = &place.stat;
    if above.st_size != below.st_size
        || (above.st_mtime, above.st_mtime_nsec) != (below.st_mtime, below.st_mtime_nsec)
    {
        return Ok(false);
    }
    // The change time cannot be set: it is one inode, seen through two mounts.
    let inode = (above.st_ino, above.st_ctime, above.st_ctime_nsec);
    if above.st_mtime_nsec != 0 || inode == (below.st_ino, below.st_ctime, below.st_ctime_nsec) {
        return Ok(true);
    }
    let open = |parent| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        fs::openat(parent, place.leaf, flags, Mode::empty()).map_err(reading(place.path))
    };
    let (one, other) = (open(place.parent)?, open(lower)?);
    let (mut left, mut right) = (vec![0; READ], vec![0; READ]);
    let mut at = 0;
    loop {
        let count = read(&one, &mut left, at, place.path)?;
        if read(&other, &mut right, at, place.path)? != count || left[..count] != right[..count] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
        at += count as u64;
    }
}

fn read(fd: &OwnedFd, buffer: &mut [u8], at: u64, path: &[u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(fd, &mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(reading(path)(errno)),
        }
    }
    Ok(filled)
}

pub fn check_depth(depth: usize, limit: usize, path: &[u8]) -> Result<()> {
    if depth < limit {
        return Ok(());
    }
    let what = format!("/{}", String::from_utf8_lossy(&path[..path.len().min(200)]));
    Err(Error::ResourceExhausted { what, limit: "nested directories of a layer", max: limit as u64 })
}

/// Nothing is there: it was removed since the directory was listed.
pub fn stat(parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<Option<Stat>> {
    match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(reading(path)(errno)),
    }
}

pub fn open(parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<OwnedFd> {
    fs::openat(parent, name, DIRECTORY, Mode::empty()).map_err(reading(path))
}

/// The names in a directory, in no order.
pub fn names(directory: &OwnedFd, path: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(reading(path))? {
        let entry = entry.map_err(reading(path))?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if names.len() == MAX_NAMES {
            let what = format!("/{}", String::from_utf8_lossy(path));
            let limit = "entries of a directory in a layer";
            return Err(Error::ResourceExhausted { what, limit, max: MAX_NAMES as u64 });
        }
        names.push(name.to_vec());
    }
    Ok(names)
}
