//! Removing what stopped.

use std::sync::Arc;

use jiff::Timestamp;

use super::Engine;
use super::filters::Filters;
use super::list::newest_first;
use super::state::Status;
use crate::error::Result;

/// What was removed.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    pub removed: Vec<String>,
    pub reclaimed: u64,
}

impl Engine {
    /// Removes every container without a process that the filters (`label`, `label!`, `until`) select.
    pub async fn prune(self: &Arc<Self>, filters: &[String]) -> Result<Pruned> {
        let filters = Filters::parse(filters, &["label", "label!", "until"])?;
        let until = filters.until(Timestamp::now())?;
        let mut pruned = Pruned::default();
        let mut entries = self.registry.all();
        newest_first(&mut entries);
        for entry in entries {
            let chosen = entry.read(|record| {
                matches!(record.state.status, Status::Created | Status::Exited | Status::Dead)
                    && until.is_none_or(|until| record.created_at < until)
                    && filters.labels(|key| record.config.labels.get(key))
            });
            if !chosen {
                continue;
            }
            let size = match entry
                .read(|record| self.snapshotter_of(record))?
                .usage(&self.namespace, &entry.id)
                .await
            {
                Ok(usage) => usage.size,
                Err(_) => 0,
            };
            match self.remove_entry(&entry).await {
                Ok(()) => {
                    pruned.removed.push(entry.id.clone());
                    pruned.reclaimed += size;
                }
                // It was started, or removed by someone else, in the meantime.
                Err(error) => tracing::info!(container = %entry.id, %error, "not pruned"),
            }
        }
        Ok(pruned)
    }
}
