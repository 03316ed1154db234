//! Handing a descriptor to the owner of a socket: the terminal's master side by `--console-socket`, a pidfd by
//! `--pidfd-socket`.

use super::error::{Error, Result};
use super::limits;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::IoSlice;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, sendmsg, socket_with,
};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::path::Path;

/// A connection to such a socket.
pub struct Receiver(OwnedFd);

/// Connects; the path may be longer than a socket's address can be.
pub fn connect_to(path: &Path) -> Result<Receiver> {
    let failed =
        |errno: rustix::io::Errno| Error::Io { doing: "connect to", path: path.into(), source: errno.into() };
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(failed)?;
    set_socket_timeout(&socket, Timeout::Send, Some(limits::SOCKET)).map_err(failed)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(failed)?;
    connect(&socket, &address).map_err(failed)?;
    Ok(Receiver(socket))
}

impl Receiver {
    /// Sends a descriptor with a few words about it, as receivers want at least a byte.
    pub fn send(&self, about: &str, fd: BorrowedFd<'_>) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [fd.as_fd()];
        if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Error::system("send a descriptor")(rustix::io::Errno::NOBUFS));
        }
        sendmsg(&self.0, &[IoSlice::new(about.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)
            .map(drop)
            .map_err(Error::system("send a descriptor"))
    }
}
