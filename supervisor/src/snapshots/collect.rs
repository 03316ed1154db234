//! What the collector sees of snapshots, and how it removes them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use super::backend::Backend;
use super::keys::{internal, plain, split};
use super::remote::Remote;
use super::{Snapshots, Snapshotter};
use crate::error::{Error, Result};
use crate::gc::{SnapshotId, SnapshotNode, SnapshotSource};
use crate::labels::Labels;
use crate::metadata::{Reader, tables};
use crate::namespaces::Namespace;

/// How long a collection waits for one plugin's snapshots.
const PATIENCE: Duration = Duration::from_secs(10);

impl SnapshotSource for Snapshots {
    fn nodes(&self) -> Result<Vec<SnapshotNode>> {
        let mut nodes = Vec::new();
        for snapshotter in self.usable() {
            snapshotter.0.claims.look();
            match &snapshotter.0.backend {
                Backend::Local(driver) => driver.walk(&mut |info| {
                    if let Some((namespace, key)) = split(&info.name) {
                        let parent = info.parent.as_deref().and_then(split).map(|(_, key)| key);
                        nodes.push(snapshotter.node(namespace, key, parent, &info.labels));
                    }
                    ControlFlow::Continue(())
                }),
                Backend::Remote(remote) => match tokio_wait(self.listed(snapshotter, remote)) {
                    Ok(listed) => nodes.extend(listed),
                    // Its snapshots are no candidates, so that nothing of it is lost.
                    Err(error) => tracing::warn!("a plugin's snapshots are not collected now: {error}"),
                },
            }
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
            if let Backend::Local(driver) = &snapshotter.0.backend {
                driver.cleanup().map_err(plain)?;
            }
        }
        outcome
    }
}

impl Snapshots {
    /// The nodes of a plugin, within a time that a collection can wait.
    async fn listed(&self, snapshotter: &Snapshotter, remote: &Remote) -> Result<Vec<SnapshotNode>> {
        let list = async {
            let mut nodes = Vec::new();
            for row in self.db.scan(&tables::NAMESPACES)? {
                for info in remote.list(&row.namespace).await? {
                    nodes.push(snapshotter.node(row.namespace.clone(), info.name, info.parent, &info.labels));
                }
            }
            Ok(nodes)
        };
        tokio::time::timeout(PATIENCE, list).await.unwrap_or_else(|_| {
            let what = format!("snapshotter \"{}\": listing everything", snapshotter.name());
            Err(Error::Timeout { what, seconds: PATIENCE.as_secs() })
        })
    }
}

impl Snapshotter {
    fn node(
        &self,
        namespace: Namespace,
        key: String,
        parent: Option<String>,
        labels: &Labels,
    ) -> SnapshotNode {
        let id = SnapshotId { namespace, snapshotter: self.name().to_owned(), key };
        SnapshotNode { id, parent: parent.unwrap_or_default(), labels: labels.clone() }
    }
}

/// Waits on a thread that may block.
fn tokio_wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(work)
}

fn remove(snapshotter: &Snapshotter, id: &SnapshotId) -> Result<()> {
    let removed = match &snapshotter.0.backend {
        Backend::Local(driver) => driver.remove(&internal(&id.namespace, &id.key)).map_err(plain),
        Backend::Remote(remote) => tokio_wait(remote.remove(&id.namespace, &id.key)),
    };
    match removed {
        Ok(()) => {
            snapshotter.removed(&id.namespace, &id.key);
            Ok(())
        }
        // Somebody removed it, or based another on it, between the mark and the verdict.
        Err(Error::NotFound { .. } | Error::FailedPrecondition { .. }) => Ok(()),
        outcome => outcome,
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
