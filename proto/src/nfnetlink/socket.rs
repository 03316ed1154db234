//! Conversations over a `NETLINK_NETFILTER` socket, in the network namespace of the calling thread. The kernel answers while it
//! takes the request; a bound on the wait guards against one that does not.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::{ANSWER, Verdict, answers_to, verdict};

/// How long the kernel may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A socket with room for its answers.
pub struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Socket {
    /// In the namespace of the calling thread, of which it speaks from then on.
    pub fn open() -> io::Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::NETFILTER),
        )?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { fd, buffer: vec![0; ANSWER] })
    }

    /// Has a finished batch, or one message that is to be acknowledged, done.
    pub fn commit(&mut self, batch: &[u8]) -> io::Result<()> {
        self.send(batch)?;
        let mut missing = answers_to(batch);
        while missing > 0 {
            match verdict(self.receive()?) {
                Verdict::Refused(errno) => return Err(io::Error::from_raw_os_error(errno)),
                Verdict::Done(count) => missing = missing.saturating_sub(count.max(1)),
            }
        }
        Ok(())
    }

    /// Asks for a list and hands on its datagrams until `take` says that one was the last.
    pub fn list(&mut self, request: &[u8], mut take: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
        self.send(request)?;
        while !take(self.receive()?) {}
        Ok(())
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        rustix::net::sendto(&self.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    fn receive(&mut self) -> io::Result<&[u8]> {
        let (length, _) = rustix::net::recv(&self.fd, &mut self.buffer[..], RecvFlags::empty())?;
        Ok(self.buffer.get(..length).unwrap_or_default())
    }
}

/// Has a finished batch done.
pub fn commit(batch: &[u8]) -> io::Result<()> {
    Socket::open()?.commit(batch)
}
