//! One output stream: where it is read from, where it goes first, and what that has not taken yet.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Where output goes besides the attached clients.
pub enum Sink {
    /// Nowhere: clients attach.
    Discard,
    /// A file: writing never waits, but a full disk can refuse.
    File(File),
    /// A FIFO, or the pipe of a logging program, whose reader may be slow.
    /// `is_unread`: nobody read from it when it was opened, and a reader that comes later must still find what was written.
    Fifo { fd: OwnedFd, is_watched: bool, is_unread: bool },
    /// The log, which the process's two streams share.
    Log,
}

/// What became of an attempt to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    All,
    /// The rest is kept until the FIFO has room.
    WaitsForRoom,
    /// The rest is kept until the disk has room.
    WaitsForDisk,
}

/// One output stream of a process.
pub struct Output {
    source: Option<OwnedFd>,
    /// Whether the loop watches the source.
    pub is_watched: bool,
    pub sink: Sink,
    pending: Vec<u8>,
    written: usize,
}

impl Output {
    /// A stream whose source comes later.
    pub fn new(sink: Sink) -> Self {
        Self { source: None, is_watched: false, sink, pending: Vec::new(), written: 0 }
    }

    pub fn with_source(sink: Sink, source: OwnedFd) -> Self {
        Self { source: Some(source), ..Self::new(sink) }
    }

    pub fn set_source(&mut self, source: OwnedFd) {
        self.source = Some(source);
    }

    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        self.source.as_ref().map(AsFd::as_fd)
    }

    /// After the end of the source; what is pending still goes out.
    pub fn take_source(&mut self) -> Option<OwnedFd> {
        self.is_watched = false;
        self.source.take()
    }

    /// Whether the sink has taken everything.
    pub fn is_clear(&self) -> bool {
        self.pending.is_empty()
    }

    /// Writes to the sink, after what it has not taken yet. Not for [`Sink::Log`].
    pub fn write(&mut self, bytes: &[u8]) -> Written {
        if self.pending.is_empty() {
            let (taken, outcome) = write_some(&mut self.sink, bytes);
            self.pending.extend_from_slice(bytes.get(taken..).unwrap_or_default());
            return outcome;
        }
        self.pending.extend_from_slice(bytes);
        self.flush()
    }

    /// Tries again to write what the sink has not taken yet.
    pub fn flush(&mut self) -> Written {
        let rest = self.pending.get(self.written..).unwrap_or_default();
        let (taken, outcome) = write_some(&mut self.sink, rest);
        self.written += taken;
        if outcome == Written::All {
            self.pending.clear();
            self.written = 0;
        }
        outcome
    }

    /// Whether a FIFO that nobody had opened holds output: it is lost when the last one who has it open closes it.
    pub fn awaits_reader(&self) -> bool {
        match &self.sink {
            Sink::Fifo { fd, is_unread: true, .. } => {
                rustix::io::ioctl_fionread(fd).is_ok_and(|count| count > 0)
            }
            _ => false,
        }
    }

    /// Forgets what the sink has not taken, and what nobody has read: nobody will.
    pub fn give_up(&mut self) {
        self.pending.clear();
        self.written = 0;
        if let Sink::Fifo { is_unread, .. } = &mut self.sink {
            *is_unread = false;
        }
    }

    /// Gives memory back.
    pub fn shrink(&mut self) {
        self.pending.shrink_to_fit();
    }
}

fn write_some(sink: &mut Sink, bytes: &[u8]) -> (usize, Written) {
    let mut taken = 0;
    while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
        let result = match sink {
            Sink::Discard | Sink::Log => return (bytes.len(), Written::All),
            Sink::File(file) => file.write(rest),
            Sink::Fifo { fd, .. } => rustix::io::write(&*fd, rest).map_err(io::Error::from),
        };
        match result {
            Ok(count) => taken += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (taken, Written::WaitsForRoom),
            // A logging program that is gone. (Of a FIFO we hold the reader, too.)
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return (bytes.len(), Written::All),
            Err(_) => return (taken, Written::WaitsForDisk),
        }
    }
    (taken, Written::All)
}
