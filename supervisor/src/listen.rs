//! The Unix socket: bound atomically, accepted with the peer's credentials.
//!
//! What always holds: the socket appears under its name with its final mode and owner; a name that a living daemon
//! listens on is never taken; a peer that may not speak gets no further than here.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_stream::Stream;

mod authority;

pub use authority::Authority;

use crate::error::{Error, Result};

/// Until a connection is tried again that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Who may use the socket besides root and the daemon's own user.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub own_uid: u32,
    pub group: Option<u32>,
    /// Set: nobody but the daemon's own user, in this group.
    own_gid: Option<u32>,
}

impl Access {
    /// From the configured group's name or number.
    pub fn new(group: Option<&str>) -> Result<Self> {
        let own_uid = nix::unistd::geteuid().as_raw();
        let Some(group) = group else { return Ok(Self { own_uid, group: None, own_gid: None }) };
        if let Ok(gid) = group.parse() {
            return Ok(Self { own_uid, group: Some(gid), own_gid: None });
        }
        let found = nix::unistd::Group::from_name(group)
            .map_err(|error| Error::io("looking up the group", group, error.into()))?
            .ok_or_else(|| {
                Error::precondition(format!("grpc.group = {group:?}"), "there is no such group")
            })?;
        Ok(Self { own_uid, group: Some(found.gid.as_raw()), own_gid: None })
    }

    /// For processes that the daemon started: its own user in its own group, and nobody else.
    pub fn own() -> Self {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        Self { own_uid: uid, group: None, own_gid: Some(gid) }
    }

    /// Why a peer may not speak; `None` if it may.
    fn refusal(&self, uid: u32, gid: u32, pid: i32) -> Option<String> {
        if let Some(own_gid) = self.own_gid {
            let own = uid == self.own_uid && gid == own_gid;
            return (!own).then(|| format!("uid {uid} and gid {gid} are not the daemon's"));
        }
        if uid == 0 || uid == self.own_uid {
            return None;
        }
        match self.group {
            Some(group) if gid == group || has_group(pid, group) => None,
            Some(group) => Some(format!("uid {uid} is neither root nor a member of group {group}")),
            None => Some(format!("uid {uid} is not root, and no group is configured (grpc.group)")),
        }
    }
}

/// Supplementary groups of the peer. The socket's mode has already kept others out: this is a second look.
fn has_group(pid: i32, group: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_whitespace().any(|gid| gid.parse() == Ok(group))
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub uid: u32,
    /// 0: not known.
    pub pid: i32,
}

/// The bound socket; its name is removed when it is dropped, if it is still this socket's.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    access: Access,
    refusals: Refusals,
    places: Arc<Semaphore>,
    max_connections: usize,
    /// What `max_connections` is called.
    bound: &'static str,
    /// The process had no file left for a connection: until then no other is accepted.
    pause: Option<Pin<Box<Sleep>>>,
}

/// Refused connections are told of one by one, but at most so often: a stranger may not fill the log.
#[derive(Default)]
struct Refusals {
    last: Option<Instant>,
    untold: u64,
}

impl Refusals {
    const PAUSE: Duration = Duration::from_secs(1);

    fn tell(&mut self, uid: u32, gid: u32, pid: i32, why: &str) {
        if self.last.is_some_and(|last| last.elapsed() < Self::PAUSE) {
            self.untold += 1;
            return;
        }
        tracing::warn!(uid, gid, pid, untold = self.untold, "refused a connection: {why}");
        *self = Self { last: Some(Instant::now()), untold: 0 };
    }
}

impl Socket {
    /// Binds under a temporary name, sets mode and owner, then renames it into place.
    pub fn bind(path: &Path, access: Access) -> Result<Self> {
        let at = |source| Error::io("binding the socket", path, source);
        let parent = path.parent().ok_or_else(|| at(io::ErrorKind::InvalidInput.into()))?;
        if !parent.exists() {
            fs::create_dir_all(parent).map_err(at)?;
        }
        refuse_living(path)?;
        let temporary = parent.join(format!(".longshore-{}.sock", std::process::id()));
        remove_file(&temporary).map_err(at)?;
        let listener = UnixListener::bind(&temporary).map_err(|source| too_long(&temporary, source))?;
        let placed = (|| {
            let mode = if access.group.is_some() { 0o660 } else { 0o600 };
            if access.group.is_some() {
                chown(&temporary, None, access.group)?;
            }
            fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))?;
            let inode = fs::symlink_metadata(&temporary)?.ino();
            fs::rename(&temporary, path)?;
            Ok(inode)
        })();
        match placed {
            Ok(inode) => {
                let socket = Self {
                    listener,
                    path: path.to_owned(),
                    inode,
                    access,
                    refusals: Refusals::default(),
                    places: Arc::new(Semaphore::new(0)),
                    max_connections: 0,
                    bound: "half of the files that may be open",
                    pause: None,
                };
                Ok(socket.at_most(usize::MAX, "half of the files that may be open"))
            }
            Err(source) => {
                let _ = fs::remove_file(&temporary);
                Err(at(source))
            }
        }
    }

    /// Hangs up on those who come when so many connections are open. At most half of the files that this process may
    /// open, so that there are some left to work with. `bound` is what that number is called.
    pub fn at_most(mut self, connections: usize, bound: &'static str) -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let files = files.map_or(usize::MAX, |files| usize::try_from(files / 2).unwrap_or(usize::MAX));
        self.max_connections = connections.min(files).min(Semaphore::MAX_PERMITS);
        self.bound = bound;
        self.places = Arc::new(Semaphore::new(self.max_connections));
        self
    }

    /// The connection, or nothing: a peer without rights is hung up on before it has said a word.
    fn accepted(&mut self, stream: UnixStream) -> io::Result<Option<Connection>> {
        let credentials = stream.peer_cred()?;
        let (uid, gid, pid) = (credentials.uid(), credentials.gid(), credentials.pid().unwrap_or(0));
        if let Some(why) = self.access.refusal(uid, gid, pid) {
            self.refusals.tell(uid, gid, pid, &why);
            return Ok(None);
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let why = format!("{} are open ({})", self.max_connections, self.bound);
            self.refusals.tell(uid, gid, pid, &why);
            return Ok(None);
        };
        let authority = Authority::default();
        Ok(Some(Connection { stream, peer: Peer { uid, pid }, authority, _place: place }))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), "the socket could not be removed: {error}");
        }
    }
}

impl Stream for Socket {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            let stream = match ready!(self.listener.poll_accept(context)) {
                Ok((stream, _)) => stream,
                // No file or memory is left for it. The peer waits; to try again at once would only burn the CPU.
                Err(error) => {
                    tracing::warn!("no connection can be accepted, trying again soon: {error}");
                    self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                    continue;
                }
            };
            // A peer that is gone already is no reason to end.
            match self.accepted(stream) {
                Ok(Some(connection)) => return Poll::Ready(Some(Ok(connection))),
                Ok(None) => {}
                Err(error) => tracing::debug!("a connection was lost while it was accepted: {error}"),
            }
        }
    }
}

/// Something is there: a socket that answers belongs to a living daemon; what is no socket is not ours to replace.
fn refuse_living(path: &Path) -> Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let what = || format!("socket {}", path.display());
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::io("looking at the socket", path, source)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(Error::precondition(what(), "something that is no socket is in its place"))
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => {
                Err(Error::precondition(what(), "another daemon listens on it: stop it, or give --address"))
            }
            Err(_) => Ok(()),
        },
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn too_long(path: &Path, source: io::Error) -> Error {
    if source.kind() == io::ErrorKind::InvalidInput {
        let why = "the path is too long for a Unix socket (107 bytes): give a shorter --address";
        return Error::invalid(format!("socket {}", path.display()), why);
    }
    Error::io("binding the socket", path, source)
}

/// An accepted connection.
pub struct Connection {
    stream: UnixStream,
    peer: Peer,
    authority: Authority,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    pub fn peer(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if outcome.is_ready() {
            self.authority.scrub(&mut buffer.filled_mut()[before..]);
        }
        outcome
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
