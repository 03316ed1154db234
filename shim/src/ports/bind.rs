//! Binding a port of the host.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::{Key, Protocol};
use crate::error::{Error, Result};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// A bound socket.
pub enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
    /// `None`: the host's kernel has no SCTP sockets, so nobody else can take the port either.
    Sctp(Option<OwnedFd>),
}

impl Socket {
    pub fn bind(key: Key) -> Result<Socket> {
        let Key { protocol, host } = key;
        let socket = match bind(protocol, host) {
            Err(Errno::PROTONOSUPPORT) if protocol == Protocol::Sctp => return Ok(Socket::Sctp(None)),
            result => {
                result.map_err(|errno| Error::Port { name: name(protocol), host, source: errno.into() })?
            }
        };
        Ok(match protocol {
            Protocol::Tcp => Socket::Tcp(socket.into()),
            Protocol::Udp => Socket::Udp(socket.into()),
            Protocol::Sctp => Socket::Sctp(Some(socket)),
        })
    }

    /// What epoll may watch.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Socket::Tcp(listener) => Some(listener.as_fd()),
            Socket::Udp(socket) => Some(socket.as_fd()),
            Socket::Sctp(socket) => socket.as_ref().map(OwnedFd::as_fd),
        }
    }
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

fn bind(protocol: Protocol, host: SocketAddr) -> std::result::Result<OwnedFd, Errno> {
    let family = if host.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, None),
        Protocol::Udp => (SocketType::DGRAM, None),
        Protocol::Sctp => (SocketType::STREAM, Some(ipproto::SCTP)),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, number)?;
    if host.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol == Protocol::Tcp {
        // What is left of connections that have ended keeps nobody from the port.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &host)?;
    if protocol != Protocol::Udp {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}
