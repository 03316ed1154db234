//! Reading a container's log: the rotated files that the shim writes in the CRI text format, oldest first, from
//! the line that was asked for, and on as they grow. Reading never disturbs writing; memory is bounded by one block
//! and one record, however long the log.

mod files;
mod follow;
mod reader;
mod record;

pub use follow::{Follow, stream};
pub use reader::{Batch, Reader};
pub use record::Entry;

use jiff::Timestamp;

/// Which lines are wanted.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Lines from the end; `None`: all.
    pub tail: Option<u64>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub streams: Streams,
}

/// Which of the two output streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streams {
    #[default]
    Both,
    Stdout,
    Stderr,
}

impl Streams {
    fn has(self, stderr: bool) -> bool {
        match self {
            Streams::Both => true,
            Streams::Stdout => !stderr,
            Streams::Stderr => stderr,
        }
    }
}
