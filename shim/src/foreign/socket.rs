//! Where a shim listens for a foreign daemon: in its bundle, or in a folder for sockets where the bundle's path is too
//! long for the kernel.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::bundle;
use crate::error::{Error, Result};

/// The longest path of a Unix socket, without its NUL.
const LONGEST: usize = 107;

/// Where sockets are whose bundle's path is too long, if the daemon does not say.
const FOLDER: &str = "/run/longshore/s";

const SCHEME: &str = "unix://";

/// What came of the attempt to listen.
pub enum Socket {
    New {
        listener: UnixListener,
        path: PathBuf,
    },
    /// A shim of this container lives and listens already.
    Taken {
        path: PathBuf,
    },
}

/// Listens where the shim of this container is to be found.
pub fn listen(bundle: &Path, folder: &str, daemon: &str, namespace: &str, id: &str) -> Result<Socket> {
    let path = place(bundle, folder, &[daemon, namespace, id])?;
    let failed = |source| Error::Io { doing: "listen on", path: path.clone(), source };
    let listener = match UnixListener::bind(&path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(&path).is_ok() {
                return Ok(Socket::Taken { path });
            }
            // Left by a shim that was killed.
            std::fs::remove_file(&path).map_err(failed)?;
            UnixListener::bind(&path)
        }
        other => other,
    };
    let listener = listener.map_err(failed)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(Socket::New { listener, path })
}

/// The address as a daemon understands it.
pub fn address(path: &Path) -> String {
    format!("{SCHEME}{}", path.display())
}

/// The path in an address.
pub fn path(address: &str) -> Option<PathBuf> {
    let path = Path::new(address.trim().strip_prefix(SCHEME)?);
    path.is_absolute().then(|| path.to_owned())
}

fn place(bundle: &Path, folder: &str, names: &[&str]) -> Result<PathBuf> {
    let inside = bundle.join(bundle::SOCKET);
    if folder.is_empty() && inside.as_os_str().len() <= LONGEST {
        return Ok(inside);
    }
    let folder = Path::new(if folder.is_empty() { FOLDER } else { folder });
    let failed = |source| Error::Io { doing: "make the folder for sockets", path: folder.into(), source };
    DirBuilder::new().recursive(true).mode(0o711).create(folder).map_err(failed)?;
    Ok(folder.join(format!("{:032x}", digest(names))))
}

/// FNV-1a: a short name that is the same for the same container; it protects nothing.
fn digest(names: &[&str]) -> u128 {
    const START: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let bytes = names.iter().flat_map(|name| name.bytes().chain([0]));
    bytes.fold(START, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_bundle_has_its_socket_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("d".repeat(120));
        let sockets = dir.path().join("s").display().to_string();
        let place = |id| place(&long, &sockets, &["d", "n", id]).unwrap();
        assert_eq!(place("a"), place("a"));
        assert_ne!(place("a"), place("b"));
        assert!(place("a").starts_with(&sockets));
        assert_eq!(path(&address(&place("a"))).unwrap(), place("a"));
    }

    #[test]
    fn a_socket_that_is_left_over_is_replaced_and_a_live_one_found() {
        let dir = tempfile::tempdir().unwrap();
        let listen = || listen(dir.path(), "", "d", "n", "x").unwrap();
        let Socket::New { listener, path } = listen() else { panic!("taken") };
        assert!(matches!(listen(), Socket::Taken { path: p } if p == path));
        drop(listener);
        assert!(matches!(listen(), Socket::New { .. }));
    }
}
