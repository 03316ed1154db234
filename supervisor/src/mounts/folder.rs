//! The folder of all activations: one folder each, named by a number, and in it a place for each mount, numbered in the order in which they
//! were made.
//!
//! What always holds: mounts are taken down in reverse; a place is removed only when nothing is mounted there, and only if it is empty.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use super::loopback;
use crate::error::{Error, Result};

/// Mounts on top of each other at one place: more than any activation makes.
const MAX_STACKED: usize = 16;

pub struct Folder(PathBuf);

impl Folder {
    pub fn open(path: &Path) -> Result<Self> {
        crate::folders::private(path)?;
        Ok(Self(path.to_owned()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Numbers of the activations that have a folder.
    pub fn ids(&self) -> Result<Vec<u64>> {
        let at = |source| Error::io("listing", &self.0, source);
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(at)? {
            ids.extend(entry.map_err(at)?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        Ok(ids)
    }

    pub fn create(&self, id: u64) -> Result<()> {
        let path = self.0.join(id.to_string());
        fs::create_dir(&path).map_err(|source| Error::io("making", &path, source))
    }

    /// Where the mount of that number goes.
    pub fn place(&self, id: u64, index: usize) -> PathBuf {
        self.0.join(id.to_string()).join(format!("{index:03}"))
    }

    /// Makes a directory to mount on.
    pub fn make_place(&self, id: u64, index: usize) -> Result<PathBuf> {
        let path = self.place(id, index);
        fs::create_dir(&path).map_err(|source| Error::io("making", &path, source))?;
        Ok(path)
    }

    /// Notes a loop device that is to be kept.
    pub fn link(&self, id: u64, index: usize, device: &Path) -> Result<PathBuf> {
        let path = self.place(id, index);
        symlink(device, &path).map_err(|source| Error::io("making", &path, source))?;
        Ok(path)
    }

    /// Takes everything of an activation down. What is not there any more is fine. Goes on at errors and returns the first.
    pub fn take_down(&self, id: u64) -> Result<()> {
        let folder = self.0.join(id.to_string());
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(Error::io("listing", &folder, source)),
        };
        let mut places: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        places.sort();
        let outcome = places.iter().rev().map(|place| take_down(place)).fold(Ok(()), Result::and);
        outcome.and(remove(&folder, fs::remove_dir(&folder)))
    }
}

fn take_down(place: &Path) -> Result<()> {
    if let Ok(device) = fs::read_link(place) {
        loopback::release(&device)?;
        return remove(place, fs::remove_file(place));
    }
    for _ in 0..MAX_STACKED {
        match umount2(place, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there.
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => break,
            // Whoever uses it keeps it until then; nobody finds it any more.
            Err(nix::Error::EBUSY) => {
                umount2(place, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)
                    .map_err(|errno| Error::io("unmounting", place, errno.into()))?;
            }
            Err(errno) => return Err(Error::io("unmounting", place, errno.into())),
        }
    }
    remove(place, fs::remove_dir(place))
}

fn remove(path: &Path, outcome: io::Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.map_err(|source| Error::io("removing", path, source)),
    }
}
