//! Another name.

use std::sync::Arc;

use super::conflict::Conflict;
use super::registry::Entry;
use super::{Engine, names};
use crate::error::Result;

impl Engine {
    pub async fn rename(self: &Arc<Self>, text: &str, new_name: &str) -> Result<()> {
        let entry = self.find(text)?;
        let name = names::validate(new_name)?.to_owned();
        let engine = self.clone();
        self.carry("renaming a container", async move { engine.rename_entry(&entry, &name).await }).await
    }

    async fn rename_entry(&self, entry: &Arc<Entry>, name: &str) -> Result<()> {
        let _turn = entry.turn.lock().await;
        if entry.name() == name {
            return Err(Conflict::SameName.into());
        }
        let old = self.registry.rename(entry, name)?;
        if let Err(error) = self.save_record(entry).await {
            // Nobody was told of the new name yet.
            if let Err(second) = self.registry.rename(entry, &old) {
                tracing::error!(container = %entry.id, %second, "a failed rename could not be taken back");
            }
            return Err(error);
        }
        self.networks.renamed(&entry.id, name);
        self.happened(entry, "rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }
}
