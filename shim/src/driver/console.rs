//! The socket on which another OCI runtime hands over a terminal.

use std::ffi::OsStr;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::order::Scratch;
use crate::error::{Error, Result};

/// The listening socket; its file goes with it.
pub struct Console {
    file: Scratch,
    listener: UnixListener,
}

impl Console {
    /// Listens at a path in the bundle.
    pub fn open(bundle: &Path, path: PathBuf) -> Result<Self> {
        use std::os::fd::AsRawFd;
        let failed = |source| Error::Io { doing: "listen for the terminal on", path: path.clone(), source };
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput).map_err(|kind| failed(kind.into()))?;
        let folder = crate::bundle::open(bundle)?;
        let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        let listener = UnixListener::bind(&short).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { file: Scratch::new(path), listener })
    }

    /// What the runtime is told: it works in the bundle, where no path is too long.
    pub fn name(&self) -> &OsStr {
        self.file.path().file_name().unwrap_or_default()
    }

    /// The terminal's master side. The runtime has sent it before it exited: nothing is waited for.
    pub fn receive(self) -> Result<OwnedFd> {
        let failed =
            |source: io::Error| Error::System { doing: "receive the terminal from the OCI runtime", source };
        let (socket, _) = self.listener.accept().map_err(failed)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut text = [0u8; 4096];
        rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut text)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        )
        .map_err(|errno| failed(errno.into()))?;
        let found = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        found.ok_or_else(|| failed(io::Error::other("it sent no descriptor")))
    }
}
