//! criu's service protocol (`criu swrk`): one request over a socket, notifications while it works, one answer. Beyond what the command
//! line can, it leaves the master side of the container's terminal out of an image, and hands over the one of a restored container.
//!
//! What always holds: criu is waited for no longer than it is given; what it says is looked at within bounds, and a message
//! that makes no sense is an error. Field numbers are those of criu's `images/rpc.proto`.

use crate::Error;
use crate::patience::{ends_within, poll_for};
use crate::sys::SysResult;
use crate::sys::cstrings::CStrings;
use crate::sys::process::{self as sys, Child, Exit, Reap};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest message of criu.
const MESSAGE: usize = 64 << 10;
/// How long criu may take to leave after its answer.
const END: Duration = Duration::from_secs(10);
/// `criu_req_type`.
const NOTIFY: u64 = 6;
/// The notification that brings the terminal.
const TERMINAL: &[u8] = b"orphan-pts-master";

/// What criu is asked for: numbers of `criu_req_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
}

/// Fields of `criu_opts`.
pub(crate) mod field {
    pub(crate) const IMAGES: u32 = 1;
    pub(crate) const PID: u32 = 2;
    pub(crate) const LEAVE_RUNNING: u32 = 3;
    pub(crate) const PAGE_SERVER: u32 = 11;
    pub(crate) const PARENT: u32 = 14;
    pub(crate) const TRACK_MEMORY: u32 = 15;
    pub(crate) const LINK_REMAP: u32 = 18;
    pub(crate) const TCP_SKIP_IN_FLIGHT: u32 = 46;
    pub(crate) const STATUS_FD: u32 = 49;
    pub(crate) const UNIX_SOCKETS: u32 = 4;
    pub(crate) const TCP: u32 = 5;
    pub(crate) const SHELL_JOB: u32 = 7;
    pub(crate) const FILE_LOCKS: u32 = 8;
    pub(crate) const LOG_LEVEL: u32 = 9;
    pub(crate) const LOG_FILE: u32 = 10;
    pub(crate) const NOTIFICATIONS: u32 = 12;
    pub(crate) const ROOT: u32 = 13;
    pub(crate) const AUTO_DEDUP: u32 = 16;
    pub(crate) const WORK: u32 = 17;
    pub(crate) const SIBLING: u32 = 26;
    pub(crate) const INHERIT: u32 = 27;
    pub(crate) const CGROUPS_MODE: u32 = 34;
    pub(crate) const EXTERNAL: u32 = 37;
    pub(crate) const EMPTY_NAMESPACES: u32 = 38;
    pub(crate) const JOIN_NAMESPACE: u32 = 39;
    pub(crate) const FREEZER: u32 = 44;
    pub(crate) const LAZY_PAGES: u32 = 48;
    pub(crate) const TERMINAL: u32 = 50;
    pub(crate) const CONFIG: u32 = 51;
    pub(crate) const LSM_PROFILE: u32 = 53;
    pub(crate) const LSM_MOUNTS: u32 = 63;
}

/// Descriptors that criu inherits, by the numbers that they have here. None of them is among those of stdio.
#[derive(Default)]
pub(crate) struct Passed(Vec<OwnedFd>);

impl Passed {
    pub(crate) fn keep(&mut self, fd: impl AsFd) -> SysResult<u32> {
        let fd = rustix::io::fcntl_dupfd_cloexec(fd, 10)?;
        let number = u32::try_from(fd.as_raw_fd()).map_err(|_| Errno::BADF)?;
        self.0.push(fd);
        Ok(number)
    }

    /// criu opens such a folder anew as a descriptor of this process.
    pub(crate) fn keep_folder(&mut self, folder: &Path) -> Result<u32, Error> {
        let failed = |errno: Errno| Error::Io { doing: "open", path: folder.into(), source: errno.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(folder, flags, Mode::empty()).map_err(failed)?;
        self.keep(fd).map_err(failed)
    }
}

/// A criu that waits for its one request.
pub(crate) struct Criu {
    service: Service,
    child: Child,
}

impl Criu {
    /// Starts it; `prepare` is run in its process before it, and must not allocate.
    pub(crate) fn start(
        criu: &Path,
        passed: &mut Passed,
        group: Option<BorrowedFd<'_>>,
        prepare: impl FnOnce() -> SysResult<()>,
    ) -> Result<Criu, Error> {
        let system = |doing| move |errno: Errno| Error::System { doing, source: errno.into() };
        let nul = |_| Error::InvalidSpec { field: "criu".into(), why: "contains a NUL byte".into() };
        let path = CString::new(criu.as_os_str().as_bytes()).map_err(nul)?;
        let (service, theirs) = Service::pair().map_err(system("make a socket for criu"))?;
        let number = passed.keep(theirs).map_err(system("duplicate criu's socket"))?;
        let argv = CStrings::new(["criu", "swrk", &number.to_string()], 0).map_err(nul)?;
        let search = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".into());
        let envp = CStrings::new([format!("PATH={search}")], 0).map_err(nul)?;
        let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(system("open /dev/null"))?;
        let become_criu = || -> SysResult<()> {
            sys::reset_signals()?;
            rustix::process::setsid()?;
            prepare()?;
            rustix::stdio::dup2_stdin(&null)?;
            rustix::stdio::dup2_stdout(&null)?;
            rustix::stdio::dup2_stderr(&null)?;
            for fd in &passed.0 {
                rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
            }
            Err(sys::execve(&path, &argv, &envp))
        };
        let child = sys::spawn(0, group, || become_criu().map_or_else(|errno| errno.raw_os_error(), |()| 0))
            .map_err(system("clone a process for criu"))?;
        // That end of the socket is criu's alone, so that its end is heard.
        passed.0.pop();
        Ok(Criu { service, child })
    }

    /// Has it do its work, and waits for its end. The error is criu's answer, or how it ended; its log says more.
    pub(crate) fn ask(self, kind: Kind, options: Message, patience: Duration) -> Result<Done, String> {
        let Criu { service, child } = self;
        let done = service.ask(kind, options, Instant::now() + patience);
        // After a pre-dump it would wait for more.
        drop(service);
        if done.is_err() || !ends_within(child.pidfd.as_fd(), END) {
            let _ = sys::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL);
        }
        let exit = sys::wait(child.pidfd.as_fd(), Reap::Take);
        done.map_err(|failure| match (failure, exit) {
            (Failure::Late, _) => format!("took longer than {} s and was killed", patience.as_secs()),
            (Failure::Refused(why), _) if !why.is_empty() => why,
            (_, Ok(Exit::Code(code))) => format!("ended with {code}"),
            (Failure::System(errno), _) => {
                format!("could not be talked to: {}", crate::error::errno_text(errno.raw_os_error()))
            }
            (_, Ok(Exit::Signal(signal))) => format!("was killed by signal {signal}"),
            (Failure::Refused(_), Err(_)) => "ended".into(),
        })
    }
}

/// A message in protobuf's encoding.
#[derive(Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn number(&mut self, field: u32, value: u64) {
        self.varint(u64::from(field) << 3);
        self.varint(value);
    }

    pub(crate) fn flag(&mut self, field: u32, is_set: bool) {
        if is_set {
            self.number(field, 1);
        }
    }

    pub(crate) fn text(&mut self, field: u32, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// Where pages are sent to, or asked for.
    pub(crate) fn page_server(&mut self, address: &str, port: u16) {
        let mut entry = Message::default();
        entry.text(1, address);
        entry.number(2, port.into());
        self.text(field::PAGE_SERVER, entry.0);
    }

    /// A descriptor that criu finds under a key.
    pub(crate) fn inherit(&mut self, key: &str, fd: u32) {
        let mut entry = Message::default();
        entry.text(1, key);
        entry.number(2, fd.into());
        self.text(field::INHERIT, entry.0);
    }

    /// A namespace that is there, instead of a new one.
    pub(crate) fn join_namespace(&mut self, kind: &str, path: &Path) {
        let mut entry = Message::default();
        entry.text(1, kind);
        entry.text(2, path.as_os_str().as_bytes());
        self.text(field::JOIN_NAMESPACE, entry.0);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// What is in a field.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of an encoded message, up to the first that makes no sense.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            // criu sends no others.
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

/// `criu_resp`, as far as it is looked at.
#[derive(Debug, Default, PartialEq, Eq)]
struct Response {
    kind: u64,
    success: bool,
    pid: i32,
    script: Vec<u8>,
    errno: u64,
    said: String,
}

impl Response {
    fn read(bytes: &[u8]) -> Response {
        let mut response = Response::default();
        for (field, value) in Fields(bytes) {
            match (field, value) {
                (1, Value::Number(kind)) => response.kind = kind,
                (2, Value::Number(success)) => response.success = success != 0,
                (4, Value::Bytes(restored)) => {
                    for (field, value) in Fields(restored) {
                        if let (1, Value::Number(pid)) = (field, value) {
                            response.pid = i32::try_from(pid).unwrap_or(0);
                        }
                    }
                }
                (5, Value::Bytes(notified)) => {
                    for (field, value) in Fields(notified) {
                        if let (1, Value::Bytes(script)) = (field, value) {
                            response.script = script.to_vec();
                        }
                    }
                }
                (7, Value::Number(errno)) => response.errno = errno,
                (9, Value::Bytes(text)) => response.said = String::from_utf8_lossy(text).trim().to_owned(),
                _ => {}
            }
        }
        response
    }
}

/// How a conversation ended without what it was for.
#[derive(Debug)]
enum Failure {
    System(Errno),
    /// It took too long.
    Late,
    /// criu's own words, perhaps none.
    Refused(String),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Failure::System(errno)
    }
}

/// What was done.
#[derive(Debug)]
pub(crate) struct Done {
    /// The first process that was restored.
    pub(crate) pid: i32,
    /// Master side of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
}

/// Our end of the socket.
struct Service(OwnedFd);

impl Service {
    /// Both ends; the other one is criu's.
    fn pair() -> SysResult<(Service, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Service(ours), theirs))
    }

    fn ask(&self, kind: Kind, options: Message, deadline: Instant) -> Result<Done, Failure> {
        let mut request = Message::default();
        request.number(1, kind as u64);
        request.text(2, options.0);
        self.send(&request)?;
        let mut terminal = None;
        loop {
            let (response, fd) = self.receive(deadline)?;
            if response.kind == NOTIFY {
                if response.script == TERMINAL && terminal.is_none() {
                    terminal = fd;
                }
                let mut heard = Message::default();
                heard.number(1, NOTIFY);
                heard.flag(3, true);
                self.send(&heard)?;
                continue;
            }
            let is_there = kind != Kind::Restore || response.pid > 0;
            if response.kind == kind as u64 && response.success && is_there {
                return Ok(Done { pid: response.pid, terminal });
            }
            let why = match (response.said.as_str(), i32::try_from(response.errno)) {
                ("", Ok(errno @ 1..)) => crate::error::errno_text(errno),
                (said, _) => said.to_owned(),
            };
            return Err(Failure::Refused(why));
        }
    }

    fn send(&self, message: &Message) -> SysResult<()> {
        rustix::net::send(&self.0, &message.0, SendFlags::NOSIGNAL).map(drop)
    }

    fn receive(&self, deadline: Instant) -> Result<(Response, Option<OwnedFd>), Failure> {
        let mut bytes = vec![0u8; MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let left = deadline.saturating_duration_since(Instant::now());
        if poll_for(&mut [PollFd::from_borrowed_fd(self.fd(), PollFlags::IN)], left)? == 0 {
            return Err(Failure::Late);
        }
        let length = loop {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.0, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                other => break other?.bytes,
            }
        };
        let mut fd = None;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                fd = fds.last().or(fd);
            }
        }
        match length {
            // It ended without an answer: its log says why.
            0 => Err(Failure::Refused(String::new())),
            length => Ok((Response::read(&bytes[..length]), fd)),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As criu would answer.
    fn response(kind: u64, part: Option<(u32, Message)>) -> Vec<u8> {
        let mut message = Message::default();
        message.number(1, kind);
        message.number(2, 1);
        if let Some((field, part)) = part {
            message.text(field, part.0);
        }
        message.0
    }

    #[test]
    fn a_conversation_has_notifications_and_an_end() {
        let (ours, theirs) = Service::pair().unwrap();
        let criu = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            let length = rustix::io::read(&theirs, &mut buffer).unwrap();
            let fields: Vec<u64> = Fields(&buffer[..length]).map(|(field, _)| field).collect();
            let mut script = Message::default();
            script.text(1, "post-restore");
            rustix::io::write(&theirs, &response(NOTIFY, Some((5, script)))).unwrap();
            let length = rustix::io::read(&theirs, &mut buffer).unwrap();
            let mut pid = Message::default();
            pid.number(1, 70_000);
            rustix::io::write(&theirs, &response(Kind::Restore as u64, Some((4, pid)))).unwrap();
            (fields, buffer[..length].to_vec())
        });
        let mut options = Message::default();
        options.number(field::IMAGES, 300);
        options.text(field::ROOT, "/x".repeat(200));
        options.inherit("pipe:[1]", 10);
        let restored = ours.ask(Kind::Restore, options, Instant::now() + Duration::from_secs(10)).unwrap();
        assert_eq!((restored.pid, restored.terminal.is_none()), (70_000, true));
        let (fields, heard) = criu.join().unwrap();
        assert_eq!((fields, heard), (vec![1, 2], vec![0x08, 6, 0x18, 1]));
    }

    #[test]
    fn nonsense_lateness_and_silence_are_errors() {
        let soon = || Instant::now() + Duration::from_millis(50);
        let (ours, theirs) = Service::pair().unwrap();
        assert!(matches!(ours.ask(Kind::Restore, Message::default(), soon()), Err(Failure::Late)));
        for bytes in [&[0xff; 20][..], &[0x08, 2, 0x10, 1], &[0x22, 0xff, 0xff, 0xff], &[0x08, 2, 0x38, 2]] {
            rustix::io::write(&theirs, bytes).unwrap();
            assert!(matches!(ours.ask(Kind::Restore, Message::default(), soon()), Err(Failure::Refused(_))));
        }
        drop(theirs);
        assert!(ours.ask(Kind::Restore, Message::default(), soon()).is_err());
    }
}
