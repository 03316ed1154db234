//! Looking after addresses that were given back: they are fresh again when the interface that had them is gone. Most go by
//! themselves, with the container's namespace; one that something else keeps alive is removed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::Networks;
use crate::error::{Error, Result};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(200);

/// Looks after which an interface is not waited for any more.
const LOOKS: u32 = 10;

impl Networks {
    pub(super) fn sweep_soon(self: &Arc<Self>) {
        if std::mem::replace(&mut self.table().sweeping, true) {
            return;
        }
        let networks = self.clone();
        // Also from the kernel's thread, which is not the runtime's.
        self.runtime.spawn(async move {
            for look in 1.. {
                tokio::time::sleep(INTERVAL).await;
                match networks.sweep(look >= LOOKS).await {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!("what is left of containers' networks is not looked after: {error}");
                        break;
                    }
                }
            }
            networks.table().sweeping = false;
        });
    }

    /// Frees addresses whose interfaces are gone, and removes those interfaces if they had long enough; how many are left.
    async fn sweep(&self, overdue: bool) -> Result<usize> {
        let resting = self.resting(None);
        if resting.is_empty() {
            return Ok(0);
        }
        let left = self
            .on_kernel("looking after interfaces", move |host| {
                let failed = |source| Error::network("looking after", "interfaces", source);
                let links = host.netlink.links().map_err(failed)?;
                let mut left = HashSet::new();
                for link in links.into_iter().filter(|link| resting.contains(&link.name)) {
                    if overdue {
                        host.netlink.delete_link(link.index).map_err(failed)?;
                    } else {
                        left.insert(link.name);
                    }
                }
                // Those that came to rest meanwhile were not looked for.
                let gone: HashSet<String> = resting.into_iter().filter(|name| !left.contains(name)).collect();
                Ok(gone)
            })
            .await?;
        let mut table = self.table();
        for place in table.places.values_mut() {
            for addresses in place.v4.iter_mut().chain(&mut place.v6) {
                addresses.rested(|interface| left.contains(interface));
            }
        }
        drop(table);
        Ok(self.resting(None).len())
    }

    /// Interfaces whose addresses rest, of one network or of all.
    pub(super) fn resting(&self, network: Option<&str>) -> HashSet<String> {
        let table = self.table();
        let places = table.places.values().filter(|place| network.is_none_or(|id| place.network.id == id));
        places
            .flat_map(|place| place.v4.iter().chain(&place.v6))
            .flat_map(|addresses| addresses.resting().cloned())
            .collect()
    }
}
