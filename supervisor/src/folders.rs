//! The daemon's folders: made private, and locked so that no two daemons share them.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::Path;

use crate::error::{Error, Result};

/// Holds a folder for this daemon until it is dropped or the process ends.
pub struct Lock {
    _file: File,
}

/// Makes `folder` with mode 0700, or takes group and others off an existing one, and locks it.
pub fn claim(folder: &Path, flag: &str) -> Result<Lock> {
    private(folder)?;
    let path = folder.join("longshored.lock");
    let at = |source| Error::io("locking", &path, source);
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(at)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            return Err(Error::precondition(
                format!("{flag} {}", folder.display()),
                format!("another longshored (pid {}) uses it", holder.trim()),
            ));
        }
        Err(TryLockError::Error(source)) => return Err(at(source)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(at)?;
    Ok(Lock { _file: file })
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
