//! A container's files out of a tar stream into a local folder.
//!
//! What always holds: the stream is a stranger's. Nothing outside of the folder is opened, made or removed, whatever links it makes or
//! finds; the files are the user's that runs the command.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use crate::failure::{Failure, errno_text};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Components of one name.
const MAX_DEPTH: usize = 4096;

/// Unpacks into `folder`; the first component of every name becomes `rename`, if there is one.
pub fn unpack(source: impl Read, folder: &Path, rename: Option<&str>) -> Result<(), Failure> {
    let root = fs::open(folder, FOLDER, Mode::empty())
        .map_err(|errno| Failure::message(format!("open {}: {}", folder.display(), text(errno))))?;
    let mut unpacker = Unpacker { root, rename, times: BTreeMap::new() };
    let mut archive = Archive::new(source);
    for entry in archive.entries().map_err(stream)? {
        unpacker.entry(entry.map_err(stream)?)?;
    }
    unpacker.finish();
    Ok(())
}

struct Unpacker<'a> {
    root: OwnedFd,
    rename: Option<&'a str>,
    /// Of folders, set last.
    times: BTreeMap<PathBuf, i64>,
}

impl Unpacker<'_> {
    fn entry(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), Failure> {
        let given = entry.path().map_err(stream)?.into_owned();
        let name = self.name(&given)?;
        let header = entry.header();
        let (kind, mode) = (header.entry_type(), header.mode().map_err(stream)? & 0o7777);
        let time = i64::try_from(header.mtime().map_err(stream)?).unwrap_or(0);
        let failed = |errno: Errno| Failure::message(format!("{}: {}", given.display(), text(errno)));
        let Some(leaf) = name.file_name().map(|leaf| leaf.as_bytes().to_vec()) else {
            // The folder itself, which is there.
            return Ok(());
        };
        let parent = self.parent(&name).map_err(failed)?;
        if kind.is_dir() {
            make_folder(&parent, &leaf, mode).map_err(|errno| self.in_the_way(errno, &name))?;
            self.times.insert(name, time);
            return Ok(());
        }
        clear(&parent, &leaf).map_err(|errno| self.in_the_way(errno, &name))?;
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file =
                    fs::openat(&parent, leaf.as_slice(), flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
                let mut file = std::fs::File::from(file);
                io::copy(&mut entry, &mut file).and_then(|_| file.flush()).map_err(stream)?;
                fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(failed)?;
                fs::futimens(&file, &times(time)).map_err(failed)
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                fs::symlinkat(&*target, &parent, leaf.as_slice()).map_err(failed)?;
                touch(&parent, &leaf, time).map_err(failed)
            }
            EntryType::Link => {
                let target = entry.link_name().map_err(stream)?.unwrap_or_default().into_owned();
                let target = self.name(&target)?;
                let from = self.parent(&target).map_err(failed)?;
                let from_leaf = target.file_name().unwrap_or_default();
                let empty = AtFlags::empty();
                fs::linkat(&from, from_leaf.as_bytes(), &parent, leaf.as_slice(), empty).map_err(failed)
            }
            EntryType::Fifo | EntryType::Char | EntryType::Block => {
                let header = entry.header();
                let numbers = (header.device_major().ok().flatten(), header.device_minor().ok().flatten());
                let device = fs::makedev(numbers.0.unwrap_or(0), numbers.1.unwrap_or(0));
                let kind = match kind {
                    EntryType::Fifo => FileType::Fifo,
                    EntryType::Char => FileType::CharacterDevice,
                    _ => FileType::BlockDevice,
                };
                fs::mknodat(&parent, leaf.as_slice(), kind, Mode::from_raw_mode(mode), device)
                    .map_err(failed)?;
                touch(&parent, &leaf, time).map_err(failed)
            }
            other => {
                Err(Failure::message(format!("unhandled tar header type {}", char::from(other.as_byte()))))
            }
        }
    }

    /// An entry's name, from the folder.
    fn name(&self, given: &Path) -> Result<PathBuf, Failure> {
        let mut name = PathBuf::new();
        let mut parts = given.components().filter(|part| !matches!(part, Component::RootDir));
        if let Some(rename) = self.rename {
            parts.next();
            name.push(rename);
        }
        for (depth, part) in parts.enumerate() {
            match part {
                Component::Normal(part) if depth < MAX_DEPTH => name.push(part),
                Component::CurDir => {}
                _ => {
                    return Err(Failure::message(format!(
                        "{:?} is outside of {:?}",
                        given, "the destination"
                    )));
                }
            }
        }
        Ok(name)
    }

    /// The folder that a name is in; what is missing of it is made.
    fn parent(&self, name: &Path) -> Result<OwnedFd, Errno> {
        let parent = name.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let open = |path: &Path| {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            fs::openat2(&self.root, path, FOLDER, Mode::empty(), resolve)
        };
        match open(parent) {
            Err(Errno::NOENT) => {}
            opened => return opened,
        }
        let mut at = PathBuf::new();
        for part in parent.components() {
            let above = open(if at.as_os_str().is_empty() { Path::new(".") } else { &at })?;
            at.push(part);
            match fs::mkdirat(&above, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        open(parent)
    }

    fn in_the_way(&self, errno: Errno, name: &Path) -> Failure {
        match errno {
            Errno::NOTDIR => {
                Failure::message(format!("cannot overwrite non-directory {name:?} with directory"))
            }
            Errno::ISDIR => {
                Failure::message(format!("cannot overwrite directory {name:?} with non-directory"))
            }
            errno => Failure::message(format!("{}: {}", name.display(), text(errno))),
        }
    }

    /// Folders get their times when nothing changes in them any more; one that is gone has none.
    fn finish(&self) {
        for (name, time) in self.times.iter().rev() {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            if let Ok(folder) = fs::openat2(&self.root, name, FOLDER, Mode::empty(), resolve) {
                // A time that cannot be set is no reason to call the copy failed.
                let _ = fs::futimens(&folder, &times(*time));
            }
        }
    }
}

fn make_folder(parent: &OwnedFd, leaf: &[u8], mode: u32) -> Result<(), Errno> {
    match fs::mkdirat(parent, leaf, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let folder = match fs::openat(parent, leaf, FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
        Err(Errno::LOOP) => return Err(Errno::NOTDIR),
        opened => opened?,
    };
    fs::fchmod(folder.as_fd(), Mode::from_raw_mode(mode))
}

/// Removes what is no folder.
fn clear(parent: &OwnedFd, leaf: &[u8]) -> Result<(), Errno> {
    match fs::unlinkat(parent, leaf, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::PERM) => Err(Errno::ISDIR),
        Err(errno) => Err(errno),
    }
}

fn touch(parent: &OwnedFd, leaf: &[u8], time: i64) -> Result<(), Errno> {
    fs::utimensat(parent, leaf, &times(time), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(seconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

fn text(errno: Errno) -> String {
    errno_text(&errno.into())
}

/// The stream ended, or is damaged. Why the daemon ended it, it says itself.
fn stream(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Silent { code: 1 },
        _ => Failure::message(errno_text(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tar::{Builder, Header};

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(size);
        header.set_mtime(1);
        header
    }

    #[test]
    fn cve_2018_15664_a_link_does_not_lead_out() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("in"), folder.path().join("out"));
        for path in [&inside, &outside] {
            std::fs::create_dir(path).unwrap();
        }
        let mut tar = Builder::new(Vec::new());
        tar.append_link(&mut header(EntryType::Symlink, 0), "a/evil", &outside).unwrap();
        tar.append_data(&mut header(EntryType::Regular, 1), "a/evil/x", &b"x"[..]).unwrap();
        let bytes = tar.into_inner().unwrap();
        assert!(unpack(&bytes[..], &inside, None).is_err());
        assert!(std::fs::read_dir(&outside).unwrap().next().is_none());
    }

    #[test]
    fn names_change_and_kinds_do_not_replace_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let mut tar = Builder::new(Vec::new());
        tar.append_data(&mut header(EntryType::Regular, 1), "old", &b"x"[..]).unwrap();
        let bytes = tar.into_inner().unwrap();
        unpack(&bytes[..], folder.path(), Some("new")).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("new")).unwrap(), "x");
        std::fs::create_dir(folder.path().join("old")).unwrap();
        let refused = unpack(&bytes[..], folder.path(), None).unwrap_err().to_string();
        assert!(refused.contains("cannot overwrite directory"), "{refused}");
    }
}
