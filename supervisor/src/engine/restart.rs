//! Stop and start again.

use std::sync::Arc;

use super::Engine;
use super::start::Starter;
use super::stop::Stop;
use crate::error::Result;

impl Engine {
    pub async fn restart(self: &Arc<Self>, text: &str, how: Stop) -> Result<()> {
        let entry = self.find(text)?;
        let engine = self.clone();
        let work = async move {
            // A container that is removed when it stops is not to be removed by its restart.
            let _kept = entry.keep();
            engine.stop_if_up(&entry, &how).await?;
            engine.start_entry(&entry, None, Starter::User).await?;
            engine.happened(&entry, "restart", &[]);
            Ok(())
        };
        self.carry("restarting a container", work).await
    }
}
