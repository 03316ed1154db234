//! Reading a container's log: the rotated files that the shim writes in the CRI text format, oldest first, from
//! the line that was asked for, and on as they grow. Reading never disturbs writing; memory is bounded by one block
//! and one record, however long the log.

mod cursor;
pub mod driver;
mod files;
mod follow;
mod reader;
mod record;

pub use cursor::Cursor;
pub use follow::Piece;
use follow::{Follow, stream};
use reader::Reader;
pub use record::Entry as Line;

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::Engine;
use super::conflict::Conflict;
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
    /// Go on behind this place; wins over `tail`.
    pub after: Option<Cursor>,
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
    ) -> Result<mpsc::Receiver<Result<Piece>>> {
        if !entry.read(|record| driver::is_readable(&record.config.log)) {
            return Err(Conflict::LogsNotReadable.into());
        }
        let follow = if follow {
            let entry = entry.clone();
            Follow::Until(Box::pin(async move { entry.until_stopped().await }))
        } else {
            Follow::No
        };
        Ok(stream(self.log_path(&entry.id), query, follow))
    }
}
