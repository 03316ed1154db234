//! The few requests of rtnetlink(7) that moving a network device takes, one at a time over a socket of their own.

use super::{SysResult, check};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Most bytes that the kernel puts in one message of a dump, and more than any answer here takes.
const ANSWER_MAX: usize = 64 << 10;
/// Most addresses of one device that are kept.
const ADDRESSES_MAX: usize = 4096;
/// The kernel answers at once; a socket on which nothing comes is not waited for.
const PATIENCE: libc::timeval = libc::timeval { tv_sec: 10, tv_usec: 0 };

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE_CREATE: u16 = 0x100 | 0x400;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
const LINK_BODY: usize = 16;
const ADDRESS_BODY: usize = 8;

/// A conversation with the kernel in one network namespace.
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

/// A device as the kernel has told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) is_up: bool,
}

/// An address of a device, as the kernel has told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    family: u8,
    prefix: u8,
    flags: u8,
    scope: u8,
    /// IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST and IFA_FLAGS with their values.
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Socket {
    /// In this thread's network namespace.
    pub(crate) fn open() -> SysResult<Socket> {
        // SAFETY: integer arguments only.
        let fd = check(unsafe {
            libc::syscall(
                libc::SYS_socket,
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                libc::NETLINK_ROUTE,
            )
        })?;
        // SAFETY: a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let patience = PATIENCE;
        // SAFETY: the option's value is a timeval of the size passed.
        check(unsafe {
            libc::syscall(
                libc::SYS_setsockopt,
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                &raw const patience,
                size_of::<libc::timeval>(),
            )
        })?;
        Ok(Socket { fd, sequence: 0 })
    }

    /// In another network namespace; this thread visits it for a moment.
    pub(crate) fn open_in(namespace: BorrowedFd<'_>) -> SysResult<Socket> {
        use rustix::fd::AsFd;
        let own =
            rustix::fs::open(c"/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        super::process::setns(namespace, libc::CLONE_NEWNET)?;
        let socket = Socket::open();
        super::process::setns(own.as_fd(), libc::CLONE_NEWNET)?;
        socket
    }

    /// The index of the device with this name.
    pub(crate) fn index_of(&mut self, name: &str) -> SysResult<u32> {
        self.link(name).map(|link| link.index)
    }

    /// The device with this name.
    pub(crate) fn link(&mut self, name: &str) -> SysResult<Link> {
        let mut body = vec![0; LINK_BODY];
        attribute(&mut body, libc::IFLA_IFNAME, &with_nul(name));
        let mut found = None;
        self.ask(libc::RTM_GETLINK, NLM_F_ACK, &body, |kind, body| {
            let word =
                |at: usize| body.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
            if let (libc::RTM_NEWLINK, Some(index), Some(flags)) = (kind, word(4), word(8)) {
                found = Some(Link { index, is_up: flags & libc::IFF_UP as u32 != 0 });
            }
        })?;
        found.ok_or(Errno::NODEV)
    }

    /// The permanent addresses of global scope of a device.
    pub(crate) fn addresses_of(&mut self, index: u32) -> SysResult<Vec<Address>> {
        let mut addresses = Vec::new();
        self.ask(libc::RTM_GETADDR, NLM_F_DUMP, &[0; ADDRESS_BODY], |kind, body| {
            let fits = addresses.len() < ADDRESSES_MAX && kind == libc::RTM_NEWADDR;
            addresses.extend(fits.then(|| Address::parse(body, index)).flatten());
        })?;
        Ok(addresses)
    }

    /// Moves a device to a network namespace and gives it a name there.
    pub(crate) fn move_device(&mut self, index: u32, namespace: BorrowedFd<'_>, name: &str) -> SysResult<()> {
        let mut body = link_body(index, 0, 0);
        attribute(&mut body, libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        attribute(&mut body, libc::IFLA_IFNAME, &with_nul(name));
        self.ask(libc::RTM_NEWLINK, NLM_F_ACK, &body, |_, _| {})
    }

    /// Gives a device an address.
    pub(crate) fn add_address(&mut self, index: u32, address: &Address) -> SysResult<()> {
        let mut body = vec![address.family, address.prefix, address.flags, address.scope];
        body.extend(index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            attribute(&mut body, *kind, value);
        }
        self.ask(libc::RTM_NEWADDR, NLM_F_ACK | NLM_F_REPLACE_CREATE, &body, |_, _| {})
    }

    /// Brings a device up.
    pub(crate) fn bring_up(&mut self, index: u32) -> SysResult<()> {
        let up = libc::IFF_UP as u32;
        self.ask(libc::RTM_NEWLINK, NLM_F_ACK, &link_body(index, up, up), |_, _| {})
    }

    /// Sends one request and hands every answer on, until the kernel says that it is done.
    fn ask(&mut self, kind: u16, flags: u16, body: &[u8], mut take: impl FnMut(u16, &[u8])) -> SysResult<()> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend((HEADER as u32 + body.len() as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(body);
        rustix::io::write(&self.fd, &message)?;
        let mut buffer = vec![0; ANSWER_MAX];
        loop {
            let length = rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut buffer))?;
            let mut rest = &buffer[..length];
            while let Some((kind, sequence, body, next)) = split(rest) {
                rest = next;
                if sequence != self.sequence {
                    continue;
                }
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = body
                            .get(..4)
                            .and_then(|b| b.try_into().ok())
                            .map_or(-libc::EIO, i32::from_ne_bytes);
                        return if code == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(-code)) };
                    }
                    kind => take(kind, body),
                }
            }
        }
    }
}

impl Address {
    /// From the body of a RTM_NEWADDR; `None` for other devices and for what does not travel.
    fn parse(body: &[u8], index: u32) -> Option<Address> {
        let fixed = body.get(..ADDRESS_BODY)?;
        let owner = u32::from_ne_bytes(fixed[4..8].try_into().ok()?);
        let mut address = Address {
            family: fixed[0],
            prefix: fixed[1],
            flags: fixed[2],
            scope: fixed[3],
            attributes: Vec::new(),
        };
        let mut all_flags = u32::from(address.flags);
        let mut rest = &body[ADDRESS_BODY..];
        while rest.len() >= 4 {
            let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
            let kind = u16::from_ne_bytes([rest[2], rest[3]]);
            let value = rest.get(4..length)?;
            if kind == libc::IFA_FLAGS {
                all_flags = u32::from_ne_bytes(value.try_into().ok()?);
            }
            if matches!(kind, libc::IFA_ADDRESS | libc::IFA_LOCAL | libc::IFA_BROADCAST | libc::IFA_FLAGS) {
                address.attributes.push((kind, value.to_vec()));
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        let permanent = all_flags & libc::IFA_F_PERMANENT != 0;
        let global = address.scope == libc::RT_SCOPE_UNIVERSE;
        (owner == index && permanent && global).then_some(address)
    }
}

fn link_body(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(change.to_ne_bytes());
    body
}

fn with_nul(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The next message of a buffer: type, sequence number, body, and what comes after it.
fn split(buffer: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let header = buffer.get(..HEADER)?;
    let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let sequence = u32::from_ne_bytes(header[8..12].try_into().ok()?);
    let body = buffer.get(HEADER..length)?;
    Some((kind, sequence, body, buffer.get(length.next_multiple_of(4)..).unwrap_or_default()))
}
