//! Freezing and thawing a container.

use std::sync::Arc;

use super::Engine;
use super::registry::Entry;
use super::state::{Refused, Status};
use crate::error::Result;

impl Engine {
    pub async fn pause(self: &Arc<Self>, text: &str) -> Result<()> {
        let entry = self.find(text)?;
        let engine = self.clone();
        self.carry("pausing a container", async move { engine.pause_entry(&entry).await }).await
    }

    async fn pause_entry(&self, entry: &Arc<Entry>) -> Result<()> {
        let _turn = entry.turn.lock().await;
        // Asked of a copy first: nothing is frozen that may not be.
        let mut would_be = entry.state();
        entry.transition(|_| would_be.paused())?;
        self.tasks.pause(&self.namespace, &entry.id).await?;
        entry.transition(|state| state.paused())?;
        self.save_state_soon(entry);
        self.happened(entry, "pause", &[]);
        Ok(())
    }

    pub async fn unpause(self: &Arc<Self>, text: &str) -> Result<()> {
        let entry = self.find(text)?;
        let engine = self.clone();
        let work = async move {
            let _turn = entry.turn.lock().await;
            if entry.status() != Status::Paused {
                entry.transition(|_| Err(Refused::NotPaused))?;
            }
            engine.thaw(&entry).await
        };
        self.carry("unpausing a container", work).await
    }

    pub(super) async fn unpause_entry(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<()> {
        let _turn = entry.turn.lock().await;
        if entry.status() == Status::Paused { self.thaw(entry).await } else { Ok(()) }
    }

    async fn thaw(&self, entry: &Entry) -> Result<()> {
        self.tasks.resume(&self.namespace, &entry.id).await?;
        entry.transition(|state| state.resumed())?;
        self.save_state_soon(entry);
        self.happened(entry, "unpause", &[]);
        Ok(())
    }
}
