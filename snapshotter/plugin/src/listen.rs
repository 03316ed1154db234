//! The plugin's socket.
//!
//! What always holds: it appears under its name with mode 0600; a name that a living process listens on is never taken; it is removed
//! at the end if it is still this process's.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokio_stream::wrappers::UnixListenerStream;

/// A bound socket.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

/// Binds under a temporary name, sets the mode, then renames it into place.
pub fn bind(path: &Path) -> Result<Socket> {
    let what = || format!("binding the socket {}", path.display());
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(what)?;
    refuse_living(path)?;
    let temporary = parent.join(format!(".snapshotter-{}.sock", std::process::id()));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(what),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary).with_context(what)?;
    let place = || {
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
        let inode = fs::symlink_metadata(&temporary)?.ino();
        fs::rename(&temporary, path)?;
        listener.set_nonblocking(true)?;
        Ok(inode)
    };
    match place() {
        Ok(inode) => Ok(Socket { listener, path: path.to_owned(), inode }),
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            Err::<Socket, io::Error>(error).with_context(what)
        }
    }
}

/// A socket that answers belongs to a living process; what is no socket is not ours to replace.
fn refuse_living(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("looking at {}", path.display())),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            bail!("{} is no socket: remove it, or give another --address", path.display())
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            bail!("another process listens on {}: stop it, or give another --address", path.display())
        }
        Ok(_) => Ok(()),
    }
}

impl Socket {
    /// Its connections, for the server.
    pub fn incoming(&self) -> Result<UnixListenerStream> {
        let listener = self.listener.try_clone().context("sharing the socket")?;
        let listener = tokio::net::UnixListener::from_std(listener).context("listening")?;
        Ok(UnixListenerStream::new(listener))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("the socket {} could not be removed: {error}", self.path.display());
        }
    }
}
