//! Stopping: the container's stop signal, patience, then SIGKILL.

use std::sync::Arc;
use std::time::Duration;

use super::kill::is_gone;
use super::registry::Entry;
use super::state::Status;
use super::{Engine, signals};
use crate::error::{Error, Result};

/// Patience when nobody said otherwise.
const DEFAULT_SECONDS: i32 = 10;

/// How long a killed container may take to go.
const AFTER_KILL: Duration = Duration::from_secs(15);

/// How to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Empty: the container's.
    pub signal: String,
    /// Seconds; `None`: the container's, then 10; negative: for ever.
    pub timeout: Option<i32>,
}

/// How often a run may have been followed by another, whose start was under way already, until a container counts as stopped.
const ROUNDS: usize = 3;

impl Engine {
    /// Returns when the container has stopped; one that does not run is left alone.
    pub async fn stop(self: &Arc<Self>, text: &str, how: Stop) -> Result<()> {
        let entry = self.find(text)?;
        let engine = self.clone();
        self.carry("stopping a container", async move { engine.stop_if_up(&entry, &how).await }).await
    }

    pub(super) async fn stop_if_up(self: &Arc<Self>, entry: &Arc<Entry>, how: &Stop) -> Result<()> {
        if entry.status().is_up() {
            self.stop_entry(entry, how).await?;
            self.happened(entry, "stop", &[]);
        }
        Ok(())
    }

    /// Stops the run that is under way, and one that its policy was about to begin.
    pub(super) async fn stop_entry(self: &Arc<Self>, entry: &Arc<Entry>, how: &Stop) -> Result<()> {
        if !how.signal.is_empty() {
            signals::parse(&how.signal)?;
        }
        self.ask_stop(entry).await?;
        for _ in 0..ROUNDS {
            if self.give_up_restart(entry).await || !entry.status().is_live() {
                break;
            }
            self.stop_run(entry, how).await?;
        }
        Ok(())
    }

    /// SIGKILL at once, and no other run after it.
    pub(super) async fn kill_for_good(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<()> {
        entry.change(|record| record.state.stop_asked = true);
        for _ in 0..ROUNDS {
            if self.give_up_restart(entry).await || !entry.status().is_live() {
                break;
            }
            self.kill_and_wait(entry).await?;
        }
        Ok(())
    }

    pub(super) async fn stop_run(self: &Arc<Self>, entry: &Arc<Entry>, how: &Stop) -> Result<()> {
        let (own_signal, own_timeout) = entry.read(|record| (record.stop_signal, record.config.stop_timeout));
        let signal = if how.signal.is_empty() { own_signal } else { signals::parse(&how.signal)? };
        let seconds = how.timeout.or(own_timeout).unwrap_or(DEFAULT_SECONDS);
        match self.signal_and_tell(entry, signal).await {
            Ok(()) => {}
            // It ended by itself; what follows is under way.
            Err(error) if is_gone(&error) => {
                entry.until_stopped().await;
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        if entry.status() == Status::Paused {
            // A frozen process cannot act on the signal.
            self.unpause_entry(entry).await?;
        }
        let Ok(seconds) = u64::try_from(seconds) else {
            entry.until_stopped().await;
            return Ok(());
        };
        if tokio::time::timeout(Duration::from_secs(seconds), entry.until_stopped()).await.is_ok() {
            return Ok(());
        }
        self.kill_and_wait(entry).await
    }

    /// SIGKILL, and the wait for its effect.
    pub(super) async fn kill_and_wait(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<()> {
        match self.signal_and_tell(entry, signals::KILL).await {
            Ok(()) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
        tokio::time::timeout(AFTER_KILL, entry.until_stopped()).await.map_err(|_| Error::Timeout {
            what: format!("container {} was killed but does not end", entry.id),
            seconds: AFTER_KILL.as_secs(),
        })
    }
}
