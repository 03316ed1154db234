//! Joining the streams of a container, running or about to run. Any number of clients may.

use std::sync::Arc;

use super::Engine;
use super::conflict::Conflict;
use super::registry::Entry;
use super::start::{Join, Joined, Size, StartFailure, Starter};
use super::state::Status;
use crate::error::{Error, Result};
use crate::tasks::ProcessId;

/// A client's part in a container.
pub struct Attached {
    pub entry: Arc<Entry>,
    pub tty: bool,
    pub stream: Result<Joined, StartFailure>,
}

/// Whether attaching starts the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    Running,
    Start,
}

impl Engine {
    /// A client gave the container's terminal a size.
    pub fn resized(&self, entry: &Entry, size: Size) {
        let more = [("height", size.rows.to_string()), ("width", size.columns.to_string())];
        self.happened(entry, "resize", &more);
    }

    pub async fn attach(self: &Arc<Self>, text: &str, join: Join, begin: Begin) -> Result<Attached> {
        let entry = self.find(text)?;
        let tty = entry.read(|record| record.config.tty);
        if begin == Begin::Start {
            match self.start_entry(&entry, Some(join), Starter::User).await {
                Ok(Some(stream)) => return Ok(Attached { entry, tty, stream: Ok(stream) }),
                // It runs already.
                Ok(None) => {}
                Err(error @ (Error::Conflict(_) | Error::NotFound { .. })) => return Err(error),
                Err(error) => return Ok(Attached { stream: Err(StartFailure::from(&error)), entry, tty }),
            }
        }
        let state = entry.state();
        match state.status {
            Status::Running => {}
            Status::Paused => return Err(Conflict::AttachPaused.into()),
            Status::Restarting => return Err(Conflict::AttachRestarting.into()),
            _ => return Err(Conflict::AttachStopped.into()),
        }
        let stream = self.tasks.attach(&self.namespace, &entry.id, ProcessId::Init, join.streams).await?;
        self.happened(&entry, "attach", &[]);
        Ok(Attached { entry, tty, stream: Ok(Joined { stream, run: state.run }) })
    }
}
