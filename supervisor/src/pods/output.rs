//! The folder of the host's that a pod's checkpoint is put into (checkpoint_pod.rs), which may be on a file system that does not answer.
//!
//! What always holds: it is nobody else's to write to, and is the one that was looked at, whatever its path leads to later; what is put
//! there is there as a whole and on the disk, or not at all.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

use super::joined::Wanted;
use super::saved::POD;
use crate::error::{Error, Result};

/// Bytes that are copied between two looks at whether anybody waits.
const PIECE: u64 = 4 << 20;

pub(super) struct Output {
    folder: OwnedFd,
    path: PathBuf,
}

impl Output {
    /// Opens the folder, which has to be empty and the daemon's own. Blocks.
    pub(super) fn open(path: &Path) -> Result<Output> {
        let refuse = |why: String| Err(Error::invalid(format!("output path {:?}", path.display()), why));
        let looking = |errno: Errno| Error::io("looking at", path, errno.into());
        let flags =
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let folder = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return refuse("there is no such folder".to_owned()),
            Err(Errno::NOTDIR | Errno::LOOP) => return refuse("it is no folder".to_owned()),
            Err(errno) => return Err(looking(errno)),
        };
        let found = rustix::fs::fstat(&folder).map_err(looking)?;
        let user = rustix::process::geteuid().as_raw();
        if found.st_uid != user {
            let why = format!("it is user {}'s: it has to be the daemon's (user {user})", found.st_uid);
            return refuse(why);
        }
        if found.st_mode & 0o022 != 0 {
            let mode = found.st_mode & 0o7777;
            return refuse(format!("others can write to it (its mode is {mode:o}): chmod go-w"));
        }
        for entry in Dir::read_from(&folder).map_err(looking)? {
            let entry = entry.map_err(looking)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return refuse("it is not empty: a checkpoint is written to an empty folder".to_owned());
            }
        }
        Ok(Output { folder, path: path.to_owned() })
    }

    /// Where something is made that is to be in it.
    pub(super) fn draft(&self) -> PathBuf {
        self.path.join(format!(".{POD}.{}", crate::hex::encode(&rand::random::<[u8; 4]>())))
    }

    /// Puts a copy of the folder `from`, which is the daemon's own, in its place. Blocks.
    pub(super) fn put(&self, from: &Path, draft: &Path, wanted: &Wanted) -> Result<()> {
        let name = draft.file_name().map(Path::new).unwrap_or(draft);
        let work = || {
            copy_folder(from, self.folder.as_fd(), name, draft, wanted)?;
            wanted.check("a checkpoint")?;
            rustix::fs::renameat(&self.folder, name, &self.folder, POD)
                .map_err(|errno| Error::io("putting in place", self.path.join(POD), errno.into()))
        };
        if let Err(error) = work() {
            // By the descriptor: the path may lead elsewhere by now.
            let left = PathBuf::from(format!("/proc/self/fd/{}", self.folder.as_raw_fd())).join(name);
            match fs::remove_dir_all(left) {
                Err(left) if left.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(draft = %draft.display(), error = %left, "half a checkpoint is left");
                }
                _ => {}
            }
            return Err(error);
        }
        sync(self.folder.as_fd(), &self.path)
    }
}

/// Makes the folder `name` in `into`, as `from` is. `shown` is said in errors.
fn copy_folder(from: &Path, into: BorrowedFd<'_>, name: &Path, shown: &Path, wanted: &Wanted) -> Result<()> {
    let making = |errno: Errno| Error::io("making the folder", shown, errno.into());
    rustix::fs::mkdirat(into, name, Mode::RWXU).map_err(making)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(into, name, flags, Mode::empty()).map_err(making)?;
    for entry in fs::read_dir(from).map_err(|error| Error::io("listing", from, error))? {
        let entry = entry.map_err(|error| Error::io("listing", from, error))?;
        let (name, path) = (entry.file_name(), entry.path());
        let (name, shown) = (Path::new(&name), shown.join(&name));
        match entry.file_type().map_err(|error| Error::io("looking at", &path, error))? {
            kind if kind.is_dir() => copy_folder(&path, folder.as_fd(), name, &shown, wanted)?,
            kind if kind.is_file() => copy_file(&path, folder.as_fd(), name, &shown, wanted)?,
            _ => {
                let what = format!("checkpoint {}", path.display());
                return Err(Error::Damaged { what, why: "it is neither a file nor a folder".to_owned() });
            }
        }
    }
    sync(folder.as_fd(), shown)
}

fn copy_file(from: &Path, into: BorrowedFd<'_>, name: &Path, shown: &Path, wanted: &Wanted) -> Result<()> {
    let source = File::open(from).map_err(|error| Error::io("opening", from, error))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(into, name, flags, Mode::RUSR | Mode::WUSR);
    let mut made = made.map(File::from).map_err(|errno| Error::io("making", shown, errno.into()))?;
    copy_wanted(source, &mut made, wanted, "a checkpoint")?
        .map_err(|error| Error::io("copying to", shown, error))?;
    made.sync_all().map_err(|error| Error::io("syncing", shown, error))
}

/// Copies to the end as long as somebody waits for `what`; how much that was.
pub(super) fn copy_wanted(
    mut from: impl Read,
    into: &mut impl Write,
    wanted: &Wanted,
    what: &str,
) -> Result<std::io::Result<u64>> {
    let mut total = 0;
    loop {
        wanted.check(what)?;
        match std::io::copy(&mut from.by_ref().take(PIECE), into) {
            Ok(0) => return Ok(Ok(total)),
            Ok(copied) => total += copied,
            Err(error) => return Ok(Err(error)),
        }
    }
}

fn sync(folder: BorrowedFd<'_>, shown: &Path) -> Result<()> {
    // What was opened to be listed can be synced, too.
    rustix::fs::fsync(folder).map_err(|errno| Error::io("syncing", shown, errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::Arc;

    fn why(path: &Path) -> String {
        Output::open(path).err().expect("it is refused").to_string()
    }

    #[test]
    fn a_checkpoint_is_put_into_an_empty_folder_of_the_daemons_only() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
        Output::open(folder.path()).unwrap();
        assert!(why(&folder.path().join("none")).contains("no such folder"));
        mode(0o770);
        assert!(why(folder.path()).contains("others can write to it (its mode is 770)"));
        mode(0o1777);
        assert!(why(folder.path()).contains("others can write"));
        mode(0o755);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(folder.path(), Some(1), None).unwrap();
            assert!(why(folder.path()).contains("user 1's"));
            std::os::unix::fs::chown(folder.path(), Some(0), None).unwrap();
        }
        symlink(folder.path(), folder.path().join("link")).unwrap();
        assert!(why(&folder.path().join("link")).contains("no folder"));
        assert!(why(folder.path()).contains("not empty"));
    }

    #[test]
    fn it_is_there_whole_or_not_at_all_and_in_the_folder_that_was_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("containers/0")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("manifest.json"), "{}").unwrap();
        fs::write(from.join("containers/0/pages-1.img"), vec![7; (PIECE + 1) as usize]).unwrap();
        let (waits, output) = (Arc::new(()), Output::open(&to).unwrap());
        let wanted = Wanted::by(&waits);
        symlink("x", from.join("link")).unwrap();
        assert!(output.put(&from, &output.draft(), &wanted).is_err());
        fs::remove_file(from.join("link")).unwrap();
        // Whoever can change what is above it does not lead the copy elsewhere.
        let (moved, other) = (folder.path().join("moved"), folder.path().join("other"));
        fs::rename(&to, &moved).unwrap();
        fs::create_dir(&other).unwrap();
        symlink(&other, &to).unwrap();
        assert_eq!(fs::read_dir(&moved).unwrap().count(), 0, "half of it is left");
        output.put(&from, &output.draft(), &wanted).unwrap();
        assert_eq!(fs::read_dir(&moved).unwrap().count(), 1);
        let copied = fs::metadata(moved.join("pod/containers/0/pages-1.img")).unwrap();
        assert_eq!((copied.len(), copied.permissions().mode() & 0o777), (PIECE + 1, 0o600));
        assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
        fs::remove_dir_all(moved.join("pod")).unwrap();
        drop(waits);
        assert!(matches!(output.put(&from, &output.draft(), &wanted), Err(Error::Canceled { .. })));
        assert_eq!(fs::read_dir(&moved).unwrap().count(), 0, "nobody waits for it");
    }
}
