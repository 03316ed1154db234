//! Stop and start again.

use std::sync::Arc;

use super::Engine;
use super::start::Starter;
use super::stop::Stop;
use crate::error::Result;

impl Engine {
    pub async fn restart(self: &Arc<Self>, text: &str, how: &Stop) -> Result<()> {
        let entry = self.find(text)?;
        // A container that is removed when it stops is not to be removed by its restart.
        let removed_at_exit = entry.change(|record| std::mem::take(&mut record.config.auto_remove));
        let done = self.stop_and_start(&entry, how).await;
        if removed_at_exit {
            entry.change(|record| record.config.auto_remove = true);
        }
        done?;
        self.happened(&entry, "restart", &[]);
        Ok(())
    }

    async fn stop_and_start(self: &Arc<Self>, entry: &Arc<super::registry::Entry>, how: &Stop) -> Result<()> {
        if entry.status().is_up() {
            self.stop_entry(entry, how).await?;
            self.happened(entry, "stop", &[]);
        }
        self.start_entry(entry, None, Starter::User).await?;
        Ok(())
    }
}
