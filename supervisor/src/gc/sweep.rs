//! The sweep: under the metadata lock what was touched since the mark began is marked, too, and the records of the rest are
//! deleted; then, with no lock, their files.

use std::collections::{HashMap, HashSet};

use super::graph::{Graph, Node, Reach};
use super::mark::Marked;
use super::views::{BlobView, ContainerView, ImageView, LabelsView, MountView};
use super::{Collected, SnapshotId, SnapshotNode, SnapshotSource, conditions, labels};
use crate::content::{ContentStore, Digest};
use crate::error::Result;
use crate::labels::Labels;
use crate::leases;
use crate::metadata::{Db, Reader, Touched, Tx, tables};
use crate::namespaces::Namespace;

/// Whose records are gone, or who are hidden: nothing can begin to use them.
#[derive(Debug, Default)]
pub struct Condemned {
    pub blobs: Vec<Digest>,
    pub images: Vec<(Namespace, String)>,
    pub leases: usize,
    pub ingests: Vec<(Namespace, String)>,
    /// Numbers of activations.
    pub mounts: Vec<u64>,
    /// Children before their parents.
    pub snapshots: Vec<SnapshotId>,
}

/// Deletes the records of everything unmarked. `None` if too much was written since the mark began.
pub async fn records(
    db: &Db,
    snapshots: &dyn SnapshotSource,
    mut marked: Marked,
) -> Result<Option<Condemned>> {
    db.write_after_mark(|tx, touched| {
        let Some(touched) = touched else { return Ok(None) };
        for touched in touched {
            add_touched(tx, &mut marked, touched)?;
        }
        let mut condemned = Condemned::default();
        let mut unmarked = Vec::new();
        for (namespace, scope) in &mut marked.scopes {
            scope.graph.mark();
            for node in scope.candidates.drain(..) {
                if !scope.graph.is_marked(&node) {
                    delete(tx, namespace, node, &mut condemned, &mut unmarked)?;
                }
            }
        }
        order(&mut unmarked, &marked.scopes.iter().map(|(name, scope)| (name, &scope.graph)).collect());
        // The last step: it cannot fail, and after it the batch is applied.
        condemned.snapshots = snapshots.condemn(&unmarked);
        Ok(Some(condemned))
    })
    .await
}

/// A record that was written since the mark began, and is still there, is a root, with what it refers to now.
fn add_touched(tx: &Tx<'_>, marked: &mut Marked, touched: Touched) -> Result<()> {
    let Touched { tag, namespace, key } = touched;
    let found = if tables::BLOBS.has(tag) {
        let labels = tx.get(&tables::BLOBS.view::<BlobView>(), &namespace, &key)?.map(|record| record.labels);
        labels.map(|labels| (Node::Content(key), may_keep(&labels)))
    } else if tables::IMAGES.has(tag) {
        tx.get(&tables::IMAGES.view::<ImageView>(), &namespace, &key)?.map(|image| {
            let mut edges = may_keep(&image.labels);
            edges.push(Node::Content(image.digest().to_owned()));
            (Node::Image(key), edges)
        })
    } else if tables::CONTAINERS.has(tag) {
        tx.get(&tables::CONTAINERS.view::<ContainerView>(), &namespace, &key)?.map(|container| {
            let mut edges: Vec<Node> = labels::references(&container.labels).collect();
            if !container.snapshot_key.is_empty() {
                edges
                    .push(Node::Snapshot { snapshotter: container.snapshotter, key: container.snapshot_key });
            }
            (Node::Container(key), edges)
        })
    } else if tables::SANDBOXES.has(tag) {
        let record = tx.get(&tables::SANDBOXES.view::<LabelsView>(), &namespace, &key)?;
        for edge in record.iter().flat_map(|record| labels::references(&record.labels)) {
            marked.scope(&namespace).graph.root(edge, Reach::Deep);
        }
        None
    } else if tables::MOUNTS.has(tag) {
        tx.get(&tables::MOUNTS.view::<MountView>(), &namespace, &key)?.map(|_| (Node::Mount(key), Vec::new()))
    } else if tables::LEASES.has(tag) {
        let labels =
            tx.get(&tables::LEASES.view::<LabelsView>(), &namespace, &key)?.map(|record| record.labels);
        labels.map(|labels| (Node::Lease(key), labels::references(&labels).collect()))
    } else if tables::LEASE_RESOURCES.has(tag) {
        // What a lease let go of is kept until the next collection: it may have been handed over.
        leases::split(&key).map(|(_, resource)| Node::from(&resource)).map(|node| (node, Vec::new()))
    } else {
        None
    };
    let Some((node, edges)) = found else { return Ok(()) };
    let graph = &mut marked.scope(&namespace).graph;
    for edge in edges {
        graph.root(edge, Reach::Deep);
    }
    graph.root(node, Reach::Deep);
    Ok(())
}

/// What new content or a new image refers to, whether or not its conditions hold: the next collection looks at those.
fn may_keep(labels: &Labels) -> Vec<Node> {
    let on_conditions = conditions::all(labels).map(|wanted| wanted.snapshot);
    labels::references(labels).chain(on_conditions).collect()
}

fn delete(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    node: Node,
    condemned: &mut Condemned,
    snapshots: &mut Vec<SnapshotId>,
) -> Result<()> {
    match node {
        Node::Content(digest) => {
            tx.delete(&tables::BLOBS, namespace, &digest)?;
            condemned.blobs.push(Digest::parse(&digest)?);
        }
        Node::Image(name) => {
            tx.delete(&tables::IMAGES, namespace, &name)?;
            condemned.images.push((namespace.clone(), name));
        }
        Node::Lease(id) => {
            leases::delete(tx, namespace, &id)?;
            condemned.leases += 1;
        }
        Node::Ingest(reference) => condemned.ingests.push((namespace.clone(), reference)),
        Node::Snapshot { snapshotter, key } => {
            snapshots.push(SnapshotId { namespace: namespace.clone(), snapshotter, key });
        }
        Node::Mount(name) => {
            if let Some(mount) = tx.get(&tables::MOUNTS.view::<MountView>(), namespace, &name)? {
                tx.delete(&tables::MOUNTS, namespace, &name)?;
                condemned.mounts.push(mount.id);
            }
        }
        // Containers are roots.
        Node::Container(_) => {}
    }
    Ok(())
}

/// Children before their parents.
fn order(snapshots: &mut [SnapshotId], graphs: &HashMap<&Namespace, &Graph>) {
    let depth = |id: &SnapshotId| {
        let Some(graph) = graphs.get(&id.namespace) else { return 0 };
        let mut node = Node::Snapshot { snapshotter: id.snapshotter.clone(), key: id.key.clone() };
        let mut seen = HashSet::new();
        while let Some(parent) = graph.parent_of(&node) {
            if !seen.insert(node) {
                break;
            }
            node = parent.clone();
        }
        seen.len()
    };
    snapshots.sort_by_cached_key(|id| std::cmp::Reverse(depth(id)));
}

/// Removes what the condemned records stood for, and files that have had no record before. Blocks.
pub fn files(
    content: &ContentStore,
    snapshots: Option<&dyn SnapshotSource>,
    condemned: &Condemned,
) -> Result<Collected> {
    if let Some(snapshots) = snapshots {
        snapshots.remove_condemned(&condemned.snapshots)?;
    }
    let mut bytes = 0;
    let mut ingests = 0;
    for (namespace, reference) in &condemned.ingests {
        if let Some(freed) = content.remove_ingest(namespace, reference)? {
            bytes += freed;
            ingests += 1;
        }
    }
    let (blobs, freed) = content.remove_unrecorded()?;
    Ok(Collected {
        blobs,
        snapshots: condemned.snapshots.len(),
        images: condemned.images.len(),
        leases: condemned.leases,
        ingests,
        bytes: bytes + freed,
    })
}

/// Before the snapshots module joined.
pub struct NoSnapshots;

impl SnapshotSource for NoSnapshots {
    fn nodes(&self) -> Result<Vec<SnapshotNode>> {
        Ok(Vec::new())
    }

    fn condemn(&self, _: &[SnapshotId]) -> Vec<SnapshotId> {
        Vec::new()
    }

    fn remove_condemned(&self, _: &[SnapshotId]) -> Result<()> {
        Ok(())
    }
}
