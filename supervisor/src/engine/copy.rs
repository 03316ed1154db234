//! `cp`: a container's files out as a tar stream, and a tar stream into one of its folders.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::Engine;
use super::conflict::Conflict;
use super::root::Root;
use super::spec::user;
use crate::diff::stream::Sink;
use crate::error::{Error, Result};
use crate::images::unpack::Compression;
use crate::pipe::Reader;
use crate::trees::{self, Found, Last, Owner, look_up};

/// A client that neither reads nor sends for so long is given up.
const STALLED: Duration = Duration::from_secs(300);

/// What is at a path of a container.
#[derive(Clone, Debug)]
pub struct PathStat {
    pub name: String,
    pub size: u64,
    /// With the type's bits, as stat(2) has it.
    pub mode: u32,
    pub modified: Timestamp,
    /// Where a link leads, as a path of the container.
    pub target: String,
}

/// Whose the copied files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// As the archive says.
    Kept,
    /// The user's that the container runs as.
    OfTheContainer,
}

impl Engine {
    /// Looks at a path; a link at its end is not followed.
    pub async fn stat_path(self: &Arc<Self>, text: &str, path: &str) -> Result<PathStat> {
        let entry = self.find(text)?;
        let (path, container) = (checked(path)?, text.to_owned());
        self.in_root(&entry, move |root| {
            let found = find(&root, &path, &container, Last::Itself)?;
            Ok(stat(&found, &path))
        })
        .await
    }

    /// What is at a path, with all below it, in pieces of a tar stream. What it is, is told first.
    pub async fn copy_from(
        self: &Arc<Self>,
        text: &str,
        path: &str,
        told: oneshot::Sender<PathStat>,
        pieces: mpsc::Sender<Bytes>,
    ) -> Result<()> {
        let entry = self.find(text)?;
        let (path, container) = (checked(path)?, text.to_owned());
        let runtime = Handle::current();
        self.in_root(&entry, move |root| {
            let found = find(&root, &path, &container, Last::Itself)?;
            if told.send(stat(&found, &path)).is_err() {
                return Ok(());
            }
            let base = base_name(&path);
            trees::pack(&found.parent, &found.leaf, &base, sink(runtime, pieces), root.given_up())
        })
        .await
    }

    /// Makes the files of an archive in a folder of the container.
    pub async fn copy_to(
        self: &Arc<Self>,
        text: &str,
        path: &str,
        ownership: Ownership,
        pieces: mpsc::Receiver<io::Result<Bytes>>,
    ) -> Result<()> {
        let entry = self.find(text)?;
        let (path, container) = (checked(path)?, text.to_owned());
        let (source, user) = (source(pieces), entry.read(|record| record.user.clone()));
        self.in_root(&entry, move |root| {
            let found = find(&root, &path, &container, Last::Followed)?;
            if !found.is_folder() {
                return Err(Conflict::NoFolder.into());
            }
            let folder = found.open()?;
            root.check_writable(&folder)?;
            let owner = match ownership {
                Ownership::OfTheContainer if !user.is_empty() => owner(&root, &user)?,
                _ => Owner::Kept,
            };
            trees::unpack(source, folder.as_fd(), owner, Compression::Plain, root.given_up())
        })
        .await
    }
}

/// What takes the pieces of a stream to a client.
pub(super) fn sink(runtime: Handle, pieces: mpsc::Sender<Bytes>) -> Box<Sink<'static>> {
    Box::new(move |piece| {
        runtime.block_on(pieces.send_timeout(piece.into(), STALLED)).map_err(|error| match error {
            mpsc::error::SendTimeoutError::Closed(_) => {
                Error::Canceled { what: "a transfer of files".to_owned() }
            }
            mpsc::error::SendTimeoutError::Timeout(_) => stalled(),
        })
    })
}

fn stalled() -> Error {
    Error::Timeout { what: "the client of a transfer of files".to_owned(), seconds: STALLED.as_secs() }
}

/// The pieces that a client sends, as a stream for a thread that may block. Called within the runtime.
pub(super) fn source(pieces: mpsc::Receiver<io::Result<Bytes>>) -> Reader {
    Reader::patient(pieces, STALLED, || io::Error::new(io::ErrorKind::TimedOut, stalled().to_string()))
}

fn checked(path: &str) -> Result<PathBuf> {
    match path {
        "" => Err(Error::invalid("bad parameter", "path cannot be empty")),
        path if path.contains('\0') => Err(Error::invalid("bad parameter", "path contains NUL")),
        path => Ok(PathBuf::from(path)),
    }
}

fn find(root: &Root, path: &Path, container: &str, last: Last) -> Result<Found> {
    use std::os::unix::ffi::OsStrExt;
    let absent = || {
        Error::Conflict(Conflict::NoSuchPath {
            path: Path::new("/").join(path).display().to_string(),
            container: container.to_owned(),
        })
    };
    // A slash or `/.` at the end asks for a folder: a link there is followed.
    let text = path.as_os_str().as_bytes();
    let folder = text.ends_with(b"/") || text.ends_with(b"/.");
    let last = if folder { Last::Followed } else { last };
    let found = look_up(&root.fd, path, last)?.ok_or_else(absent)?;
    if folder && !found.is_folder() {
        let errno = io::Error::from(rustix::io::Errno::NOTDIR);
        return Err(Error::io("lstat", Path::new("/").join(path), errno));
    }
    Ok(found)
}

fn stat(found: &Found, path: &Path) -> PathStat {
    let target = match &found.target {
        None => String::new(),
        Some(target) => {
            let parent = found.path.parent().unwrap_or(Path::new("/"));
            super::volumes::clean(&parent.join(target).display().to_string())
        }
    };
    PathStat {
        name: String::from_utf8_lossy(&base_name(path)).into_owned(),
        size: u64::try_from(found.stat.st_size).unwrap_or(0),
        mode: found.stat.st_mode,
        modified: Timestamp::new(found.stat.st_mtime, 0).unwrap_or_default(),
        target,
    }
}

/// The name that a path's last component gives an archive: `.` for the root and where the contents are meant.
fn base_name(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    let text = path.as_os_str().as_bytes();
    match path.file_name() {
        Some(name) if !text.ends_with(b"/.") => name.as_bytes().to_vec(),
        _ => b".".to_vec(),
    }
}

/// User and group that a container's user stands for, by its own files.
fn owner(root: &Root, user: &str) -> Result<Owner> {
    let file = |path: &str| -> Result<Option<std::fs::File>> {
        let Some(found) = look_up(&root.fd, Path::new(path), Last::Followed)? else { return Ok(None) };
        let opened = trees::open_regular(&found.parent, &found.leaf)
            .map_err(|errno| Error::io("opening the container's", path, errno.into()))?;
        let irregular = || Error::invalid(format!("{path} of the container"), "is not a regular file");
        Ok(Some(opened.ok_or_else(irregular)?.into()))
    };
    let identity = user::resolve(user, file("/etc/passwd")?, file("/etc/group")?)?;
    Ok(Owner::All(identity.uid, identity.gid))
}
