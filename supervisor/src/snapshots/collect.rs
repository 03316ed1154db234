//! What the collector sees of snapshots, and how it removes them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::keys::{internal, plain, split};
use super::{Snapshots, Snapshotter};
use crate::error::Result;
use crate::gc::{SnapshotId, SnapshotNode, SnapshotSource};

impl SnapshotSource for Snapshots {
    fn nodes(&self) -> Result<Vec<SnapshotNode>> {
        let mut nodes = Vec::new();
        for snapshotter in self.usable() {
            snapshotter.0.claims.look();
            snapshotter.0.driver.walk(&mut |info| {
                if let Some((namespace, key)) = split(&info.name) {
                    let parent = info.parent.as_deref().and_then(split);
                    let id = SnapshotId { namespace, snapshotter: snapshotter.0.name.to_owned(), key };
                    let parent = parent.map(|(_, key)| key).unwrap_or_default();
                    nodes.push(SnapshotNode { id, parent, labels: info.labels.clone() });
                }
                ControlFlow::Continue(())
            });
        }
        Ok(nodes)
    }

    fn condemn(&self, ids: &[SnapshotId]) -> Vec<SnapshotId> {
        let condemned = ids.iter().filter(|id| {
            let Ok(snapshotter) = self.by_name(&id.snapshotter) else { return false };
            snapshotter.0.claims.condemn(internal(&id.namespace, &id.key))
        });
        condemned.cloned().collect()
    }

    fn remove_condemned(&self, ids: &[SnapshotId]) -> Result<()> {
        let _end = Reprieve(self, ids);
        let mut outcome = Ok(());
        for id in ids {
            let snapshotter = self.by_name(&id.snapshotter)?;
            if let Err(e) = remove(&snapshotter, id) {
                outcome = outcome.and(Err(e));
            }
        }
        for snapshotter in self.usable() {
            snapshotter.0.driver.cleanup().map_err(plain)?;
        }
        outcome
    }
}

fn remove(snapshotter: &Snapshotter, id: &SnapshotId) -> Result<()> {
    use longshore_snapshotter::Error;
    match snapshotter.0.driver.remove(&internal(&id.namespace, &id.key)) {
        Ok(()) => {
            snapshotter.removed(&id.namespace, &id.key);
            Ok(())
        }
        // Somebody removed it, or based another on it, between the mark and the verdict.
        Err(Error::NotFound { .. } | Error::HasChildren { .. }) => Ok(()),
        Err(e) => Err(plain(e)),
    }
}

/// Whatever happens, nobody waits for condemned snapshots for ever.
struct Reprieve<'a>(&'a Snapshots, &'a [SnapshotId]);

impl Drop for Reprieve<'_> {
    fn drop(&mut self) {
        let mut by_name: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for id in self.1 {
            by_name.entry(&id.snapshotter).or_default().push(internal(&id.namespace, &id.key));
        }
        for (name, keys) in by_name {
            if let Ok(snapshotter) = self.0.by_name(name) {
                snapshotter.0.claims.reprieve(keys.iter().map(String::as_str));
            }
        }
    }
}
