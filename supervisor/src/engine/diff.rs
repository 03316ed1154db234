//! What a container has changed of its image, and its files as one archive.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::Engine;
use super::copy::sink;
use super::image_mounts::OWNER;
use super::registry::Entry;
use crate::content::store::blocking;
use crate::diff::{changes, read_only};
use crate::error::{Error, Result};
use crate::images::detached;
use crate::labels::Labels;
use crate::snapshots::{Hold, Mount, Snapshotter};
use crate::trees::{self, Holes};

/// A path and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub path: String,
    pub kind: changes::Kind,
}

/// What a start makes in every container's root: no change that anybody asked for.
const MADE_BY_THE_START: [&[u8]; 12] = [
    b"dev",
    b"dev/console",
    b"dev/mqueue",
    b"dev/pts",
    b"dev/shm",
    b"etc/hostname",
    b"etc/hosts",
    b"etc/mtab",
    b"etc/resolv.conf",
    b"proc",
    b"sys",
    b".dockerenv",
];

/// The mounts of a container's snapshot, and of what is below its writable layer.
pub(super) struct Sides {
    snapshotter: Snapshotter,
    key: String,
    /// Until something refers to the view, nothing but this keeps it.
    _hold: Hold,
    pub below: Vec<Mount>,
    pub above: Vec<Mount>,
}

impl Engine {
    /// The changes, in the order of their paths.
    pub async fn diff(self: &Arc<Self>, text: &str) -> Result<Vec<Change>> {
        let entry = self.find(text)?;
        let sides = self.sides(&entry).await?;
        let (below, above) = (sides.below.clone(), sides.above.clone());
        let listed = blocking(move || {
            let below: OwnedFd = detached::open(&read_only(&below))?;
            let above = detached::open(&read_only(&above))?;
            changes::list(&below, &above, &|path, kind| {
                kind == changes::Kind::Added && MADE_BY_THE_START.contains(&path)
            })
        })
        .await;
        self.leave(sides).await;
        let shown = |(path, kind): (Vec<u8>, changes::Kind)| Change {
            path: format!("/{}", String::from_utf8_lossy(&path)),
            kind,
        };
        Ok(listed?.into_iter().map(shown).collect())
    }

    /// All files of the container as a tar stream, without its volumes.
    pub async fn export(self: &Arc<Self>, text: &str, pieces: mpsc::Sender<Bytes>) -> Result<()> {
        let entry = self.find(text)?;
        let (above, _) = self.mounts_of(&entry, entry.state().run == 0).await?;
        let _permit = self
            .transfers
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| Error::Lost { what: "the count of transfers" })?;
        let runtime = Handle::current();
        blocking(move || {
            let root = detached::open(&read_only(&above))?;
            let sink = sink(runtime, pieces);
            trees::pack_contents(root.as_fd(), Holes::WrittenOut, sink, &AtomicBool::new(false))
        })
        .await?;
        self.happened(&entry, "export", &[]);
        Ok(())
    }

    /// What is compared; to be given back by [`Engine::leave`].
    pub(super) async fn sides(self: &Arc<Self>, entry: &Entry) -> Result<Sides> {
        let (above, _) = self.mounts_of(entry, entry.state().run == 0).await?;
        let snapshotter = entry.read(|record| self.snapshotter_of(record))?;
        let parent = snapshotter.stat(&self.namespace, &entry.id).await?.parent.unwrap_or_default();
        let key = format!("diff-{}-{}", entry.id, crate::hex::encode(&rand::random::<[u8; 8]>()));
        // The label has a start of the daemon remove what a crash leaves.
        let labels = Labels::from([(OWNER.to_owned(), key.clone())]);
        let hold = snapshotter.hold(&self.namespace, &key).await;
        let below = snapshotter.view(&self.namespace, &key, &parent, labels, None).await?;
        Ok(Sides { snapshotter, key, _hold: hold, below, above })
    }

    pub(super) async fn leave(&self, sides: Sides) {
        let Sides { snapshotter, key, .. } = sides;
        if let Err(error) = snapshotter.remove(&self.namespace, &key).await {
            tracing::warn!(snapshot = %key, %error, "a view could not be removed; the next start does it");
        }
    }
}
