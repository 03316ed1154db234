//! The daemon's folders: made private, and locked so that no two daemons share them; files that are replaced as a whole.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How long a lock is waited for whose holder was killed: a program that it was just starting has the lock until it runs.
const LINGER: Duration = Duration::from_secs(2);

/// Holds a folder for this daemon until it is dropped or the process ends.
pub struct Lock {
    _file: File,
}

/// Writes a file for nobody but root, which is whole and on disk when this returns; until then there is what was there before. `draft` is
/// a name in the same folder, where whatever a killed daemon has left is removed first; nothing is there any more when this fails.
pub fn replace(path: &Path, draft: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Never one that somebody else has made or has open.
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(draft)?;
    let written = write(&mut file).and_then(|()| file.sync_all()).and_then(|()| fs::rename(draft, path));
    if written.is_err() {
        let _ = fs::remove_file(draft);
        return written;
    }
    File::open(folder)?.sync_all()
}

/// Makes `folder` with mode 0700, or takes group and others off an existing one, and locks it.
pub fn claim(folder: &Path, flag: &str) -> Result<Lock> {
    private(folder)?;
    let path = folder.join("longshored.lock");
    let at = |source| Error::io("locking", &path, source);
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(at)?;
    if !lock(&file, &path).map_err(at)? {
        return Err(Error::precondition(
            format!("{flag} {}", folder.display()),
            format!("another longshored (pid {}) uses it", holder(&path)),
        ));
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(at)?;
    Ok(Lock { _file: file })
}

/// Locks the file at `path`, unless somebody else has it who is still there.
fn lock(file: &File, path: &Path) -> io::Result<bool> {
    let until = Instant::now() + LINGER;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if Instant::now() < until && has_ended(&holder(path)) => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(source)) => return Err(source),
        }
    }
}

/// The number of the process that has locked the file, as it says.
fn holder(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn has_ended(pid: &str) -> bool {
    pid.parse::<u32>().is_ok_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// Makes `folder` with mode 0700, or takes group and others off an existing one.
pub fn private(folder: &Path) -> Result<()> {
    let at = |source| Error::io("making the folder", folder, source);
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at)?;
    let mode = fs::metadata(folder).map_err(at)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(folder, fs::Permissions::from_mode(mode & 0o700)).map_err(at)?;
    }
    Ok(())
}

/// Lets a group through `folder`, to a socket in it, without letting it read the folder.
pub fn let_through(folder: &Path, group: u32) -> Result<()> {
    let at = |source| Error::io("letting the socket's group into", folder, source);
    chown(folder, None, Some(group)).map_err(at)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o710)).map_err(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_that_is_there_already_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let (path, draft, other) =
            (folder.path().join("file"), folder.path().join("draft"), folder.path().join("other"));
        fs::write(&other, "of somebody else").unwrap();
        fs::hard_link(&other, &draft).unwrap();
        replace(&path, &draft, |file| file.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read(&other).unwrap(), b"of somebody else");
        fs::set_permissions(&other, fs::Permissions::from_mode(0o666)).unwrap();
        std::os::unix::fs::symlink(&other, &draft).unwrap();
        replace(&path, &draft, |file| file.write_all(b"newer")).unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"of somebody else");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(replace(&path, &draft, |_| Err(io::ErrorKind::Other.into())).is_err());
        assert_eq!((fs::read(&path).unwrap(), draft.exists()), (b"newer".to_vec(), false));
    }

    #[test]
    fn a_lock_that_a_killed_daemon_left_to_its_child_for_a_moment_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("longshored.lock");
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        fs::write(&path, ended.id().to_string()).unwrap();
        let held = File::open(&path).unwrap();
        held.lock().unwrap();
        let child = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(held);
        });
        let lock = claim(folder.path(), "--state").unwrap();
        child.join().unwrap();
        // Its number is noted now, and it lives.
        let begun = Instant::now();
        assert!(claim(folder.path(), "--state").is_err());
        assert!(begun.elapsed() < LINGER);
        drop(lock);
    }
}
