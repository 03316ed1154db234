//! The folder of a driver: `journal`, `lock`, and one directory per snapshot at `s/<number in base 36>`, short, so that the mount options
//! of 500 layers still fit a page.
//!
//! A snapshot's directory holds `fs`, its files, and for overlay `work`. What always holds: only root of the owner's user gets in (0700), and a
//! second process cannot open the folder.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rustix::fs::{
    AtFlags, CWD, Dir, FlockOperation, Gid, Mode, OFlags, Uid, chmodat, chownat, flock, mkdirat, openat,
    renameat, statat,
};
use rustix::io::Errno;

use crate::{Error, Result, tree};

const SNAPSHOTS: &str = "s";
/// Where directories are put aside that a damaged journal may have owned.
const ASIDE: &str = "unowned";

pub struct Directories {
    pub(crate) root: Arc<OwnedFd>,
    snapshots: OwnedFd,
    /// As an absolute, printable path.
    path: String,
    _lock: OwnedFd,
}

impl Directories {
    /// Opens or creates the folder, and locks it against other processes.
    pub fn open(root: &Path) -> Result<Self> {
        let unusable = |why| Error::UnusableRoot { path: root.to_owned(), why };
        std::fs::create_dir_all(root).map_err(Error::io("create", root))?;
        let absolute = root.canonicalize().map_err(Error::io("resolve", root))?;
        let path = absolute.to_str().ok_or_else(|| unusable("its path is not UTF-8"))?.to_owned();
        if path.contains([',', ':', '\\', '"']) {
            return Err(unusable("its path holds one of , : \\ \", which mount options cannot express"));
        }
        let root = Arc::new(open_dir(CWD, &path, &absolute)?);
        chmodat(&*root, ".", Mode::RWXU, AtFlags::empty())
            .map_err(Error::io("set the mode of", &absolute))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = openat(&*root, "lock", flags, Mode::from_raw_mode(0o600))
            .map_err(Error::io("open the lock in", &absolute))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(Error::Locked { path: absolute }),
            Err(e) => return Err(Error::io("lock", &absolute)(e)),
        }
        make(&root, SNAPSHOTS, Mode::RWXU)
            .or_else(exists_already)
            .map_err(Error::io("create s in", &absolute))?;
        let snapshots = open_dir(&*root, SNAPSHOTS, &absolute)?;
        Ok(Self { root, snapshots, path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        Path::new(&self.path)
    }

    /// `<root>/s/<id>/<name>`.
    pub fn path_in(&self, id: u64, name: &str) -> String {
        format!("{}/{SNAPSHOTS}/{}/{name}", self.path, base36(id))
    }

    /// Makes the directory of a snapshot with an empty `fs` in it.
    pub fn create(&self, id: u64) -> Result<()> {
        let name = base36(id);
        let doing = "create the snapshot directory";
        mkdirat(&self.snapshots, &*name, Mode::RWXU).map_err(Error::io(doing, self.path_in(id, "")))?;
        self.create_in(id, "fs", Mode::from_raw_mode(0o755))
    }

    /// Makes the directory `name` in that of a snapshot, with this mode whatever the umask.
    pub fn create_in(&self, id: u64, name: &str, mode: Mode) -> Result<()> {
        let relative = format!("{}/{name}", base36(id));
        make(&self.snapshots, &relative, mode).map_err(Error::io("create", self.path_in(id, name)))
    }

    /// Gives the `fs` of `id` the owner and the mode of the `fs` of `parent`: they are what the root of the mount shows.
    pub fn adopt_root(&self, id: u64, parent: u64) -> Result<()> {
        let from = format!("{}/fs", base36(parent));
        let stat = statat(&self.snapshots, &*from, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Error::io("stat the parent", self.path_in(parent, "fs")))?;
        let to = format!("{}/fs", base36(id));
        let failed = || self.path_in(id, "fs");
        if (stat.st_uid, stat.st_gid) != (0, 0) {
            let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            chownat(&self.snapshots, &*to, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(Error::io("set the owner of", failed()))?;
        }
        if stat.st_mode & 0o7777 != 0o755 {
            chmodat(&self.snapshots, &*to, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())
                .map_err(Error::io("set the mode of", failed()))?;
        }
        Ok(())
    }

    /// Gives the `fs` of `id` this owner.
    pub fn own_root(&self, id: u64, (uid, gid): (u32, u32)) -> Result<()> {
        let to = format!("{}/fs", base36(id));
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        chownat(&self.snapshots, &*to, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Error::io("set the owner of", self.path_in(id, "fs")))
    }

    /// The opened `fs` of a snapshot.
    pub fn open_fs(&self, id: u64) -> Result<OwnedFd> {
        let name = format!("{}/fs", base36(id));
        open_dir(&self.snapshots, &name, Path::new(&self.path_in(id, "fs")))
    }

    pub fn remove(&self, id: u64) -> Result<()> {
        let path = self.path_in(id, "");
        let name = CString::new(base36(id)).map_err(Error::io("remove", &path))?;
        tree::remove(&self.snapshots, &name).map_err(Error::io("remove", path))
    }

    /// Moves a directory that nobody seems to own to where no snapshot finds it.
    pub fn put_aside(&self, id: u64) -> Result<()> {
        let failed = || self.path_in(id, "");
        make(&self.root, ASIDE, Mode::RWXU)
            .or_else(exists_already)
            .map_err(Error::io("put aside", failed()))?;
        let name = base36(id);
        let age = UNIX_EPOCH.elapsed().unwrap_or_default();
        let to = format!("{ASIDE}/{name}.{}", age.as_nanos());
        renameat(&self.snapshots, &*name, &*self.root, &*to).map_err(Error::io("put aside", failed()))
    }

    /// Numbers of the directories that are there.
    pub fn list(&self) -> Result<BTreeSet<u64>> {
        let failed = || PathBuf::from(format!("{}/{SNAPSHOTS}", self.path));
        let mut found = BTreeSet::new();
        for entry in Dir::read_from(&self.snapshots).map_err(Error::io("list", failed()))? {
            let entry = entry.map_err(Error::io("list", failed()))?;
            let name = entry.file_name().to_str().unwrap_or_default();
            if let Ok(id) = u64::from_str_radix(name, 36)
                && base36(id) == name
            {
                found.insert(id);
            }
        }
        Ok(found)
    }

    /// Brings all data below the folder to the disk.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.snapshots).map_err(Error::io("sync the file system of", self.path()))
    }
}

fn open_dir(at: impl std::os::fd::AsFd, name: &str, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty()).map_err(Error::io("open", path))
}

fn make(at: &OwnedFd, name: &str, mode: Mode) -> rustix::io::Result<()> {
    mkdirat(at, name, mode)?;
    chmodat(at, name, mode, AtFlags::empty())
}

fn exists_already(errno: Errno) -> rustix::io::Result<()> {
    if errno == Errno::EXIST { Ok(()) } else { Err(errno) }
}

/// A number in as few characters as file names of every file system allow.
fn base36(mut number: u64) -> String {
    let mut digits = Vec::with_capacity(13);
    loop {
        digits.push(char::from_digit((number % 36) as u32, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::base36;

    #[test]
    fn base36_reads_back() {
        for number in [0, 1, 35, 36, 46_655, u64::MAX] {
            assert_eq!(u64::from_str_radix(&base36(number), 36).unwrap(), number);
        }
    }
}
