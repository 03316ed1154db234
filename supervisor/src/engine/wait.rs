//! Waiting for a container's end.

use std::sync::Arc;

use jiff::Timestamp;

use super::Engine;
use super::registry::Entry;
use super::state::Exit;
use crate::error::Result;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// No process runs.
    Stopped,
    /// The container is gone.
    Removed,
}

impl Engine {
    pub async fn wait(self: &Arc<Self>, text: &str, until: Until) -> Result<Exit> {
        let entry = self.find(text)?;
        Ok(self.wait_entry(&entry, until).await)
    }

    /// The exit of the current run, or of the last one if none is under way.
    pub async fn wait_entry(&self, entry: &Arc<Entry>, until: Until) -> Exit {
        match until {
            Until::Stopped => entry.until_stopped().await,
            Until::Removed => {
                let mut phase = entry.watch();
                // An error means that the container is gone.
                let _ = phase.wait_for(|now| now.removed).await;
            }
        }
        entry.read(|record| Exit {
            code: record.state.exit_code,
            oom_killed: record.state.oom_killed,
            at: record.state.finished_at.unwrap_or(Timestamp::UNIX_EPOCH),
        })
    }
}
