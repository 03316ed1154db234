//! Reading a container's log: the rotated files that the shim writes in the CRI text format, oldest first, from
//! the line that was asked for, and on as they grow. Reading never disturbs writing; memory is bounded by one block
//! and one record, however long the log.

mod files;
mod follow;
mod reader;
mod record;

use follow::{Follow, stream};
use reader::Reader;
pub use record::Entry as Line;

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::Engine;
use super::registry::Entry;
use crate::error::Result;

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

impl Engine {
    /// The lines of a container's log; with `follow` on until the run that is under way is over.
    pub fn logs(
        &self,
        entry: &Arc<Entry>,
        query: Query,
        follow: bool,
    ) -> mpsc::Receiver<Result<Vec<record::Entry>>> {
        let follow = if follow {
            let entry = entry.clone();
            Follow::Until(Box::pin(async move { entry.until_stopped().await }))
        } else {
            Follow::No
        };
        stream(self.log_path(&entry.id), query, follow)
    }
}
