//! Which networks there are.

use std::sync::Arc;

use jiff::Timestamp;

use crate::engine::Engine;
use crate::engine::filters::Filters;
use crate::error::{Error, Result};
use crate::network::record::Network;

const FILTERS: [&str; 9] = ["dangling", "driver", "id", "label", "label!", "name", "scope", "type", "until"];

impl Engine {
    /// By name.
    pub fn list_networks(&self, filters: &[String]) -> Result<Vec<Arc<Network>>> {
        let filters = Filters::parse(filters, &FILTERS)?;
        let dangling = filters.flag("dangling")?;
        if let Some(bad) =
            filters.values("type").iter().find(|kind| !["custom", "builtin"].contains(&kind.as_str()))
        {
            return Err(Error::invalid(
                format!("invalid filter 'type={bad}'"),
                "Invalid filter: 'type'='custom' or 'builtin'",
            ));
        }
        let mut found: Vec<_> = self
            .networks
            .all()
            .into_iter()
            .filter(|network| {
                let kind = if network.is_predefined() { "builtin" } else { "custom" };
                let unused = || !network.is_predefined() && self.network_members(network).is_empty();
                filters.any("driver", |driver| driver == network.driver.name())
                    && filters.any("id", |id| network.id.contains(id))
                    && filters.any("name", |name| network.name.contains(name))
                    && filters.any("scope", |scope| scope == "local")
                    && filters.any("type", |wanted| wanted == kind)
                    && filters.labels(|key| network.labels.get(key))
                    && dangling.is_none_or(|wanted| wanted == unused())
            })
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Removes every user's network that no running container is on and that the filters (`label`, `label!`, `until`)
    /// select; their names.
    pub async fn prune_networks(&self, filters: &[String]) -> Result<Vec<String>> {
        let filters = Filters::parse(filters, &["label", "label!", "until"])?;
        let until = filters.until(Timestamp::now())?;
        let mut removed = Vec::new();
        let mut all = self.networks.all();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        for network in all {
            let chosen = !network.is_predefined()
                && until.is_none_or(|until| network.created_at < until)
                && filters.labels(|key| network.labels.get(key))
                && self.network_members(&network).is_empty();
            if !chosen {
                continue;
            }
            match self.networks.remove(&network).await {
                Ok(()) => {
                    self.network_happened(&network, "destroy", None);
                    removed.push(network.name.clone());
                }
                // A container came in the meantime.
                Err(error) => tracing::info!(network = network.name, %error, "not pruned"),
            }
        }
        Ok(removed)
    }
}
