//! A folder's contents into another folder: owners, modes, times, attributes, links among them and holes included.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::thread;

use bytes::Bytes;
use rustix::fs::{self, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Owner, pack_contents, unpack};
use crate::diff::layer::{Holes, portable_xattrs};
use crate::error::{Error, Result};
use crate::images::unpack::Compression;
use crate::pipe::Reader;

/// Copies what is in `from` into `to`, and makes `to` look as `from` does. Blocks.
pub fn copy_contents(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let cancel = AtomicBool::new(false);
    let (sender, source) = Reader::new();
    let gone = || Error::Lost { what: "copying files" };
    let (packed, unpacked) = thread::scope(|scope| {
        let sink =
            Box::new(move |piece: Vec<u8>| sender.blocking_send(Ok(Bytes::from(piece))).map_err(|_| gone()));
        let packing = scope.spawn(|| pack_contents(from.as_fd(), Holes::LeftOut, sink, &cancel));
        let unpacked = unpack(source, to.as_fd(), Owner::Kept, Compression::Plain, &cancel);
        (packing.join().unwrap_or_else(|_| Err(gone())), unpacked)
    });
    match packed {
        // The other side says why.
        Err(Error::Lost { .. }) => unpacked?,
        packed => packed.and(unpacked)?,
    }
    look_alike(from, to).map_err(|errno| Error::io("copying the attributes of", "a folder", errno.into()))?;
    for (name, value) in portable_xattrs(from.as_fd(), b".", b"")? {
        match fs::fsetxattr(to, name.as_slice(), &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(Error::io("copying the attributes of", "a folder", errno.into())),
        }
    }
    Ok(())
}

fn look_alike(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let stat = fs::fstat(from)?;
    fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time =
        Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or_default() };
    fs::futimens(to, &Timestamps { last_access: time, last_modification: time })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    #[test]
    fn a_copy_is_as_its_original() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("d")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("d/f"), "text").unwrap();
        fs::hard_link(from.join("d/f"), from.join("also")).unwrap();
        fs::write(from.join(".wh.name"), "only a name").unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        let set = rustix::fs::setxattr(from.join("d/f"), "user.x", b"1", XattrFlags::empty());
        std::os::unix::fs::chown(from.join("d/f"), Some(7), Some(8)).unwrap();
        fs::set_permissions(from.join("d/f"), fs::Permissions::from_mode(0o4711)).unwrap();
        std::os::unix::fs::chown(&from, Some(9), Some(10)).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o1770)).unwrap();
        copy_contents(&open(&from), &open(&to)).unwrap();
        let meta = fs::metadata(to.join("d/f")).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777, meta.nlink()), (7, 8, 0o4711, 2));
        let top = fs::metadata(&to).unwrap();
        assert_eq!((top.uid(), top.gid(), top.mode() & 0o7777), (9, 10, 0o1770));
        assert_eq!(fs::read_link(to.join("link")).unwrap().to_str(), Some("/etc/passwd"));
        assert_eq!(fs::read_to_string(to.join(".wh.name")).unwrap(), "only a name");
        if set.is_ok() {
            let mut value = [0; 8];
            assert_eq!(rustix::fs::getxattr(to.join("d/f"), "user.x", &mut value[..]), Ok(1));
        }
    }
}
