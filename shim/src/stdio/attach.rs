//! A client that takes part in a process's stdio.

use longshore_proto::longshore::shim::v1::AttachStart;

use crate::poll::Stream;

/// One attached client.
#[derive(Clone, Debug)]
pub struct Attachment {
    pub connection: u32,
    pub stream: u32,
    pub stdin: bool,
    stdout: bool,
    stderr: bool,
    /// Bytes of output that may still be sent before the client says that it took some. `None`: no such window.
    credit: Option<u64>,
}

impl Attachment {
    pub fn new(connection: u32, stream: u32, start: &AttachStart) -> Self {
        let credit = (start.window > 0).then(|| u64::from(start.window));
        let AttachStart { stdin, stdout, stderr, .. } = *start;
        Self { connection, stream, stdin, stdout, stderr, credit }
    }

    pub fn wants(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }

    /// How many bytes may be sent now.
    pub fn room(&self) -> usize {
        self.credit.map_or(usize::MAX, |credit| usize::try_from(credit).unwrap_or(usize::MAX))
    }

    pub fn sent(&mut self, count: usize) {
        self.credit = self.credit.map(|credit| credit.saturating_sub(count as u64));
    }

    pub fn consumed(&mut self, count: u64) {
        self.credit = self.credit.map(|credit| credit.saturating_add(count));
    }
}
