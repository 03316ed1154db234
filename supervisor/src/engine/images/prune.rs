//! Removing images that nobody uses.

use std::sync::Arc;

use jiff::Timestamp;

use crate::engine::Engine;
use crate::engine::filters::Filters;
use crate::error::Result;
use crate::images::reference::Reference;

/// Which images count as unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unused {
    /// Without a tag, and no container's.
    Dangling,
    /// No container's.
    Any,
}

/// What was removed.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    pub untagged: Vec<String>,
    pub deleted: Vec<String>,
    pub reclaimed: u64,
}

impl Engine {
    pub async fn prune_images(self: &Arc<Self>, which: Unused, filters: &[String]) -> Result<Pruned> {
        let filters = Filters::parse(filters, &["label", "label!", "until", "dangling"])?;
        let until = filters.until(Timestamp::now())?;
        let which = match filters.flag("dangling")? {
            Some(false) => Unused::Any,
            _ => which,
        };
        let mut pruned = Pruned::default();
        for group in self.image_groups().await? {
            let tagged = group
                .names
                .iter()
                .any(|name| Reference::parse(&name.name).is_ok_and(|reference| reference.digest().is_none()));
            let created = group.local.created.unwrap_or_default();
            let chosen = (which == Unused::Any || !tagged)
                && until.is_none_or(|until| created < until)
                && filters.labels(|key| group.local.config.labels.get(key))
                && !self.is_used(group.local.id.as_str());
            if !chosen {
                continue;
            }
            let size = self.image_size(&group.local).await;
            let names = group.names.clone();
            let removed = self.remove_names(&group, names).await?;
            if !removed.deleted.is_empty() {
                pruned.reclaimed += size;
            }
            pruned.untagged.extend(removed.untagged);
            pruned.deleted.extend(removed.deleted);
        }
        Ok(pruned)
    }
}
