//! Conversations with the kernel about links, addresses and routes (rtnetlink), one request after another. The kernel
//! answers while it takes the request, so nothing here waits; a bound on the wait guards against a kernel that does not.
//!
//! What always holds: a socket speaks of the network namespace that it was opened in, wherever its thread goes.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Longest answer of one read: the kernel splits longer ones.
const BUFFER: usize = 64 * 1024;

/// How long the kernel may take.
const PATIENCE_SECONDS: i64 = 10;

/// Most messages of one dump.
const MAX_DUMP: usize = 1 << 20;

/// A socket.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// In the namespace of the calling thread.
    pub fn open() -> io::Result<Netlink> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            Some(SockProtocol::NetlinkRoute),
        )?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
        Ok(Netlink { socket, sequence: 0, buffer: Vec::new() })
    }

    /// Does one thing.
    pub fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.ask_all(vec![(message, flags)])
    }

    /// Does several things in one call of the kernel. All are tried; the first error is returned.
    pub fn ask_all(&mut self, messages: Vec<(RouteNetlinkMessage, u16)>) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        let count = messages.len();
        let mut bytes = Vec::with_capacity(512);
        for (message, flags) in messages {
            self.put(&mut bytes, message, flags | NLM_F_ACK);
        }
        self.send(&bytes)?;
        let (mut answered, mut failed) = (0, None);
        while answered < count {
            self.read(|header, payload| {
                if header.sequence_number.wrapping_sub(first) as usize >= count {
                    return;
                }
                if let NetlinkPayload::Error(error) = payload {
                    answered += 1;
                    if let (Some(code), None) = (error.code, &failed) {
                        failed = Some(io::Error::from_raw_os_error(code.get().saturating_neg()));
                    }
                }
            })?;
        }
        failed.map_or(Ok(()), Err)
    }

    /// Everything of a kind.
    pub fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.collect(message, NLM_F_DUMP)
    }

    /// One answer.
    pub fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        Ok(self.collect(message, NLM_F_ACK)?.into_iter().next())
    }

    fn collect(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut bytes = Vec::with_capacity(128);
        self.put(&mut bytes, message, flags);
        let asked = self.sequence;
        self.send(&bytes)?;
        let (mut found, mut done, mut failed) = (Vec::new(), false, None);
        while !done {
            self.read(|header, payload| {
                if header.sequence_number != asked {
                    return;
                }
                match payload {
                    NetlinkPayload::InnerMessage(message) if found.len() < MAX_DUMP => found.push(message),
                    NetlinkPayload::Done(_) => done = true,
                    NetlinkPayload::Error(error) => {
                        done = true;
                        failed =
                            error.code.map(|code| io::Error::from_raw_os_error(code.get().saturating_neg()));
                    }
                    _ => {}
                }
            })?;
        }
        failed.map_or(Ok(found), Err)
    }

    fn put(&mut self, bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), bytes, MsgFlags::empty())?;
        Ok(())
    }

    /// One read; the messages in it go to `take`.
    fn read(
        &mut self,
        mut take: impl FnMut(&NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>),
    ) -> io::Result<()> {
        self.buffer.resize(BUFFER, 0);
        let read = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
        let mut rest = &self.buffer[..read];
        while rest.len() >= 16 {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let Some(one) = rest.get(..length).filter(|_| length >= 16) else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is cut"));
            };
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(one) {
                Ok(message) => {
                    let (header, payload) = message.into_parts();
                    take(&header, payload);
                }
                // Something newer than we are, in a dump.
                Err(error) => tracing::debug!("a message of the kernel's is not understood: {error}"),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }
}
