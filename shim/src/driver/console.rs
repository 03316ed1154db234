//! The socket on which another OCI runtime hands over a terminal.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::error::{Error, Result};

/// Its name in the bundle, which is the runtime's working directory: there no path is too long.
pub const NAME: &str = "pty.sock";

/// The runtime has sent it before it exits; so long is waited for what is on its way.
const PATIENCE: Duration = Duration::from_secs(5);

/// The listening socket; its file goes with it.
pub struct Console {
    path: PathBuf,
    listener: UnixListener,
}

impl Console {
    pub fn open(bundle: &Path) -> Result<Self> {
        use std::os::fd::AsRawFd;
        let failed = |source| Error::Io { doing: "listen for the terminal on", path: NAME.into(), source };
        let folder = crate::bundle::open(bundle)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(failed)?;
        Ok(Self { path: bundle.join(NAME), listener })
    }

    /// The terminal's master side.
    pub fn receive(self) -> Result<OwnedFd> {
        let failed =
            |source: io::Error| Error::System { doing: "receive the terminal from the OCI runtime", source };
        wait(&self.listener).map_err(failed)?;
        let (socket, _) = self.listener.accept().map_err(failed)?;
        wait(&socket).map_err(failed)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut text = [0u8; 4096];
        rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut text)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
        .map_err(|errno| failed(errno.into()))?;
        let found = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        found.ok_or_else(|| failed(io::Error::other("it sent no descriptor")))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn wait(fd: impl AsFd) -> io::Result<()> {
    let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}
