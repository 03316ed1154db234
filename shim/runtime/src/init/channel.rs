//! The wire between the parent and the child that is being set up: fixed-size messages over a seqpacket socket pair,
//! both ends close-on-exec, so that end-of-file after the gate means that the program runs.

use crate::sys::SysResult;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::mem::MaybeUninit;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the child says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// Asks to be moved to the container's cgroups.
    JoinCgroup,
    /// Asks for id maps.
    MapIds,
    /// Asks for the clock offsets.
    SetClocks,
    /// Asks for the hooks of the host's side.
    RunHooks,
    /// Hands over the seccomp listener: the number that it has in the child.
    Listener(i32),
    /// Introduces the process that goes on in this one's place, and waits for an answer (its pidfd comes with the message).
    Born,
    /// Waits at the gate.
    Ready,
    /// Hands over the terminal's master side (the descriptor comes with the message).
    Terminal,
    /// A step failed; it is the last message.
    Failed(Failure),
}

/// Which step failed, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) step: u32,
    pub(crate) errno: i32,
    /// Depends on the step: index of a hook, …
    pub(crate) detail: u32,
    pub(crate) how: How,
}

/// What kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum How {
    /// The kernel said `errno`.
    Errno = 0,
    /// A hook ended with exit code `errno`.
    HookExit = 1,
    /// A hook was ended by signal `errno`.
    HookSignal = 2,
    /// A hook ran too long.
    HookTimeout = 3,
    /// Something that must be real is not: a device that is none, a masked path over a link, …
    Suspicious = 4,
    /// A hook still ran long after its container had ended.
    HookOutlived = 5,
}

impl How {
    fn from_wire(value: u32) -> How {
        match value {
            1 => How::HookExit,
            2 => How::HookSignal,
            3 => How::HookTimeout,
            4 => How::Suspicious,
            5 => How::HookOutlived,
            _ => How::Errno,
        }
    }
}

/// Makes two ends, and a child that has the second one, which is closed here then; answers the first one.
///
/// One thread at a time: a child that another one makes in between would hold the second end open, and its closing would not be
/// seen for as long as that child takes.
pub(crate) fn with_child<E, Ours, Theirs, Child>(
    ends: impl FnOnce() -> Result<(Ours, Theirs), E>,
    spawn: impl FnOnce(&Ours, &Theirs) -> Result<Child, E>,
) -> Result<(Ours, Child), E> {
    let _turn = turn();
    alone_with_child(ends, spawn)
}

/// The same where no other thread is. A child that was made by [`with_child`] has a copy of a lock that nobody opens.
pub(crate) fn alone_with_child<E, Ours, Theirs, Child>(
    ends: impl FnOnce() -> Result<(Ours, Theirs), E>,
    spawn: impl FnOnce(&Ours, &Theirs) -> Result<Child, E>,
) -> Result<(Ours, Child), E> {
    let (ours, theirs) = ends()?;
    let child = spawn(&ours, &theirs)?;
    Ok((ours, child))
}

/// Held while there are ends that a child should not have that is made for something else.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

const WORDS: usize = 5;
const SIZE: usize = WORDS * 4;

impl Report {
    /// An empty message, to be read into.
    pub(crate) const NO_WIRE: [u8; SIZE] = [0; SIZE];

    pub(crate) fn to_wire(self) -> [u8; SIZE] {
        let words: [u32; WORDS] = match self {
            Report::MapIds => [1, 0, 0, 0, 0],
            Report::JoinCgroup => [8, 0, 0, 0, 0],
            Report::RunHooks => [2, 0, 0, 0, 0],
            Report::Ready => [3, 0, 0, 0, 0],
            Report::Terminal => [4, 0, 0, 0, 0],
            Report::SetClocks => [6, 0, 0, 0, 0],
            Report::Listener(fd) => [7, fd as u32, 0, 0, 0],
            Report::Born => [9, 0, 0, 0, 0],
            Report::Failed(f) => [5, f.step, f.errno as u32, f.detail, f.how as u32],
        };
        let mut bytes = [0; SIZE];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    pub(crate) fn from_wire(bytes: &[u8; SIZE]) -> Option<Report> {
        let word = |i: usize| {
            u32::from_ne_bytes([bytes[i * 4], bytes[i * 4 + 1], bytes[i * 4 + 2], bytes[i * 4 + 3]])
        };
        Some(match word(0) {
            1 => Report::MapIds,
            8 => Report::JoinCgroup,
            2 => Report::RunHooks,
            3 => Report::Ready,
            4 => Report::Terminal,
            5 => Report::Failed(Failure {
                step: word(1),
                errno: word(2) as i32,
                detail: word(3),
                how: How::from_wire(word(4)),
            }),
            6 => Report::SetClocks,
            7 => Report::Listener(word(1) as i32),
            9 => Report::Born,
            _ => return None,
        })
    }
}

/// One end of the wire.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// Makes both ends, neither of them among the descriptors of stdio.
pub(crate) fn pair() -> SysResult<(Channel, Channel)> {
    let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((Channel(above_stdio(a)?), Channel(above_stdio(b)?)))
}

/// Moves a descriptor out of the range of stdio, so that setting up stdio cannot overwrite it.
pub(crate) fn above_stdio(fd: OwnedFd) -> SysResult<OwnedFd> {
    use rustix::fd::AsRawFd;
    if fd.as_raw_fd() > 2 { Ok(fd) } else { rustix::io::fcntl_dupfd_cloexec(&fd, 3) }
}

impl Channel {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Child: says something. The parent being gone is an error (`EPIPE`), never a signal.
    pub(crate) fn send(&self, report: Report) -> SysResult<()> {
        rustix::net::send(&self.0, &report.to_wire(), SendFlags::NOSIGNAL).map(drop)
    }

    /// Child: says something that a descriptor belongs to.
    pub(crate) fn send_with(&self, report: Report, fd: BorrowedFd<'_>) -> SysResult<()> {
        let bytes = report.to_wire();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [fd];
        if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Errno::NOBUFS);
        }
        sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
    }

    /// Child: says something by `write`, the one system call that profiles with a supervisor may not hand to it.
    pub(crate) fn write(&self, report: Report) -> SysResult<()> {
        rustix::io::write(&self.0, &report.to_wire()).map(drop)
    }

    /// Child: waits for the parent's answer. End of file means that the parent has given up or died: `EPIPE`.
    pub(crate) fn await_answer(&self) -> SysResult<()> {
        let mut byte = [0u8; 1];
        loop {
            match rustix::io::read(&self.0, &mut byte) {
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
                Ok(0) => return Err(Errno::PIPE),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Parent: lets the child go on.
    pub(crate) fn answer(&self) -> SysResult<()> {
        rustix::net::send(&self.0, &[1u8], SendFlags::NOSIGNAL).map(drop)
    }

    /// Parent: the child's next message with a descriptor that may come along; `None` at end of file.
    pub(crate) fn receive(&self) -> SysResult<Option<(Report, Option<OwnedFd>)>> {
        let mut bytes = [0u8; SIZE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let length = loop {
            match recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
                Ok(message) => break message.bytes,
            }
        };
        let mut fd = None;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                fd = fds.last().or(fd);
            }
        }
        match length {
            0 => Ok(None),
            SIZE => Report::from_wire(&bytes).map(|report| Some((report, fd))).ok_or(Errno::BADMSG),
            _ => Err(Errno::BADMSG),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_the_wire() {
        let failure = Failure { step: 7, errno: -3, detail: 9, how: How::HookTimeout };
        for report in [
            Report::MapIds,
            Report::SetClocks,
            Report::RunHooks,
            Report::Listener(9),
            Report::Born,
            Report::Ready,
            Report::Terminal,
            Report::Failed(failure),
        ] {
            let (parent, child) = pair().unwrap();
            child.send(report).unwrap();
            assert_eq!(parent.receive().unwrap().unwrap().0, report);
            drop(child);
            assert!(parent.receive().unwrap().is_none());
        }
    }
}
