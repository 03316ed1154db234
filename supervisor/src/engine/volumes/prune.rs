//! Removing the volumes that no container has.

use std::path::Path;
use std::sync::Arc;

use super::list::{measure, parse};
use super::remove::Absent;
use crate::content::store::blocking;
use crate::engine::Engine;
use crate::engine::prune::Pruned;
use crate::error::Result;

/// Which of the unused volumes are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selected {
    /// Those without a name of the user's.
    Anonymous,
    All,
}

impl Engine {
    /// `filters`: label, label!, and `all`, which is the same as [`Selected::All`].
    pub async fn prune_volumes(self: &Arc<Self>, which: Selected, filters: &[String]) -> Result<Pruned> {
        let filters = parse(filters, &["label", "label!", "all"])?;
        let all = which == Selected::All || filters.flag("all")? == Some(true);
        let names: Vec<String> = self
            .volumes
            .lock()
            .iter()
            .filter(|(_, kept)| kept.users.is_empty() && (all || kept.record.anonymous))
            .filter(|(_, kept)| filters.labels(|key| kept.record.labels.get(key)))
            .map(|(name, _)| name.clone())
            .collect();
        let mut pruned = Pruned::default();
        for name in names {
            let path = self.volumes.data(&name);
            let size = blocking(move || measure(Path::new(&path))).await.unwrap_or(0);
            match self.remove_volume(&name, Absent::Refuse).await {
                Ok(()) => {
                    pruned.reclaimed = pruned.reclaimed.saturating_add(size);
                    pruned.removed.push(name);
                }
                // A container has it by now, or somebody else removed it.
                Err(error) => tracing::info!(volume = %name, %error, "not pruned"),
            }
        }
        self.volume_happened("", "prune", &[("reclaimed", &pruned.reclaimed.to_string())]);
        Ok(pruned)
    }
}
