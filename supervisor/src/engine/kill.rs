//! Sending a signal.

use std::sync::Arc;

use super::conflict::Conflict;
use super::registry::Entry;
use super::state::Status;
use super::{Engine, signals};
use crate::error::{Error, Result};
use crate::tasks::{self, KillScope, ProcessId};

impl Engine {
    /// Sends a signal (name or number; empty: SIGKILL) to the container's first process.
    pub async fn kill(self: &Arc<Self>, text: &str, signal: &str) -> Result<()> {
        let entry = self.find(text)?;
        let number = if signal.is_empty() { signals::KILL } else { signals::parse(signal)? };
        let (engine, asked) = (self.clone(), text.to_owned());
        self.carry("killing a container", async move { engine.kill_entry(&entry, number, asked).await }).await
    }

    async fn kill_entry(self: &Arc<Self>, entry: &Arc<Entry>, number: i32, asked: String) -> Result<()> {
        let not_running =
            || Error::Conflict(Conflict::NotRunningForKill { asked: asked.clone(), id: entry.id.clone() });
        if !entry.status().is_up() {
            return Err(not_running());
        }
        // As with docker: what stops it also ends what its policy would do.
        let stops = number == signals::KILL || number == entry.read(|record| record.stop_signal);
        if stops {
            self.ask_stop(entry).await?;
            if self.give_up_restart(entry).await {
                return Ok(());
            }
        }
        if !entry.status().is_live() {
            return if entry.status() == Status::Restarting { Ok(()) } else { Err(not_running()) };
        }
        match self.signal_and_tell(entry, number).await {
            Ok(()) => {}
            // Its end had been followed by a pause already when the wish to stop was noted.
            Err(error) if is_gone(&error) && stops && self.give_up_restart(entry).await => return Ok(()),
            Err(error) if is_gone(&error) => return Err(not_running()),
            Err(error) => return Err(error),
        }
        if number == signals::KILL {
            // As with docker, the container is stopped when the command returns.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(10), entry.until_stopped()).await;
        }
        Ok(())
    }

    /// Sends a signal, and tells of it before an end that it brings about is told.
    pub(super) async fn signal_and_tell(&self, entry: &Entry, number: i32) -> Result<()> {
        let _first = entry.signalling.read().await;
        self.signal(entry, number).await?;
        self.happened(entry, "kill", &[("signal", number.to_string())]);
        Ok(())
    }

    /// Sends a signal; a frozen container is thawed after SIGKILL so that it can die of it.
    async fn signal(&self, entry: &Entry, number: i32) -> Result<()> {
        let signal = u32::try_from(number).unwrap_or(0);
        self.tasks.kill(&self.namespace, &entry.id, ProcessId::Init, signal, KillScope::One).await?;
        if number == signals::KILL && self.is_frozen(entry) {
            self.tasks.resume(&self.namespace, &entry.id).await?;
        }
        Ok(())
    }
}

impl Engine {
    /// Asked of the task, too: a pause whose answer was lost froze it all the same.
    fn is_frozen(&self, entry: &Entry) -> bool {
        let task = || self.tasks.get(&self.namespace, &entry.id, ProcessId::Init);
        entry.status() == Status::Paused || task().is_ok_and(|task| task.status == tasks::Status::Paused)
    }
}

/// Whether an error means that there is no process any more.
pub(super) fn is_gone(error: &Error) -> bool {
    error.is_not_found() || matches!(error, Error::AlreadyFinished { .. })
}
