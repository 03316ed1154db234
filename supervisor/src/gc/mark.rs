//! The mark: every namespace is read into a graph, without any lock; what changes meanwhile is added by the sweep.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::graph::{Graph, Node, Reach};
use super::views::{BlobView, ContainerView, ImageView, LabelsView, MountView};
use super::{SnapshotId, SnapshotSource, conditions, labels};
use crate::content::ContentStore;
use crate::error::Result;
use crate::labels::Labels;
use crate::leases::{self, Resource};
use crate::metadata::{Db, Reader, tables};
use crate::mounts::State;
use crate::namespaces::Namespace;

/// One namespace: its graph, and the objects that go unless they are marked.
#[derive(Default)]
pub struct Scope {
    pub graph: Graph,
    pub candidates: Vec<Node>,
    /// Snapshots that say when they were used.
    used: HashMap<Node, Vec<Timestamp>>,
}

pub struct Marked {
    pub scopes: HashMap<Namespace, Scope>,
    pub now: Timestamp,
}

pub fn run(
    db: &Db,
    content: &ContentStore,
    snapshots: Option<&dyn SnapshotSource>,
    ingest_age: Duration,
) -> Result<Marked> {
    let mut marked = Marked { scopes: HashMap::new(), now: Timestamp::now() };
    // Snapshots come first: one that is made later is no candidate, whoever refers to it.
    if let Some(snapshots) = snapshots {
        add_snapshots(&mut marked, snapshots)?;
    }
    add_ingests(&mut marked, content, ingest_age)?;
    add_leases(&mut marked, db)?;
    add_images(&mut marked, db)?;
    add_containers(&mut marked, db)?;
    add_sandboxes(&mut marked, db)?;
    add_content(&mut marked, db)?;
    add_mounts(&mut marked, db)?;
    for scope in marked.scopes.values_mut() {
        scope.graph.mark();
    }
    Ok(marked)
}

impl Marked {
    pub fn scope(&mut self, namespace: &Namespace) -> &mut Scope {
        self.scopes.entry(namespace.clone()).or_default()
    }
}

impl Scope {
    fn add_labels(&mut self, node: &Node, labels: &Labels) {
        for to in labels::references(labels) {
            self.graph.edge(node.clone(), to);
        }
        for from in labels::back_references(labels) {
            self.graph.edge(from, node.clone());
        }
    }

    /// What an image or content keeps of the snapshots, which are all known by then, as long as a condition holds.
    fn add_conditions(&mut self, node: &Node, labels: &Labels, now: Timestamp) {
        for wanted in conditions::all(labels) {
            let used = self.used.get(&wanted.snapshot);
            if used.is_some_and(|used| used.iter().any(|used_at| wanted.holds(*used_at, now))) {
                self.graph.edge(node.clone(), wanted.snapshot);
            }
        }
    }

    /// Content or a snapshot: a root only if it says so itself.
    fn add_candidate(&mut self, node: Node, labels: &Labels) {
        self.add_labels(&node, labels);
        if labels::is_root(labels) {
            self.graph.root(node.clone(), Reach::Deep);
        }
        self.candidates.push(node);
    }
}

fn add_snapshots(marked: &mut Marked, snapshots: &dyn SnapshotSource) -> Result<()> {
    for found in snapshots.nodes()? {
        let SnapshotId { namespace, snapshotter, key } = found.id;
        let scope = marked.scope(&namespace);
        if !found.parent.is_empty() {
            let parent = Node::Snapshot { snapshotter: snapshotter.clone(), key: found.parent };
            scope.graph.parent(Node::Snapshot { snapshotter: snapshotter.clone(), key: key.clone() }, parent);
        }
        let node = Node::Snapshot { snapshotter, key };
        for used_at in conditions::used_at(&found.labels) {
            scope.used.entry(node.clone()).or_default().push(used_at);
        }
        scope.add_candidate(node, &found.labels);
    }
    Ok(())
}

fn add_ingests(marked: &mut Marked, content: &ContentStore, age: Duration) -> Result<()> {
    for (namespace, status) in content.all_statuses()? {
        let scope = marked.scope(&namespace);
        let node = Node::Ingest(status.reference);
        if let Some(expected) = status.expected {
            scope.graph.parent(node.clone(), Node::Content(expected.to_string()));
        }
        let written = SystemTime::from(status.updated_at);
        let old = SystemTime::now().duration_since(written).is_ok_and(|since| since > age);
        if old {
            scope.candidates.push(node);
        } else {
            scope.graph.root(node, Reach::Deep);
        }
    }
    Ok(())
}

fn add_leases(marked: &mut Marked, db: &Db) -> Result<()> {
    let mut flat = HashMap::new();
    let now = marked.now;
    for row in db.scan(&tables::LEASES.view::<LabelsView>())? {
        let scope = marked.scope(&row.namespace);
        let node = Node::Lease(row.key.clone());
        if labels::is_expired(&row.record.labels, now) {
            scope.candidates.push(node);
        } else {
            // A lease may also say what it keeps by labels; `ctr images mount` does.
            scope.add_labels(&node, &row.record.labels);
            scope.graph.root(node, Reach::Deep);
            let reach = if labels::is_flat(&row.record.labels) { Reach::Flat } else { Reach::Deep };
            flat.insert((row.namespace, row.key), reach);
        }
    }
    for row in db.scan(&tables::LEASE_RESOURCES)? {
        let Some((lease, resource)) = leases::split(&row.key) else { continue };
        if let Some(&reach) = flat.get(&(row.namespace.clone(), lease.to_owned())) {
            // An ingest is always held with the blob that it is going to be.
            let reach = if matches!(resource, Resource::Ingest(_)) { Reach::Deep } else { reach };
            marked.scope(&row.namespace).graph.root(Node::from(&resource), reach);
        }
    }
    Ok(())
}

fn add_images(marked: &mut Marked, db: &Db) -> Result<()> {
    let now = marked.now;
    for row in db.scan(&tables::IMAGES.view::<ImageView>())? {
        let scope = marked.scope(&row.namespace);
        let node = Node::Image(row.key);
        scope.graph.parent(node.clone(), Node::Content(row.record.digest().to_owned()));
        scope.add_labels(&node, &row.record.labels);
        scope.add_conditions(&node, &row.record.labels, now);
        if labels::is_expired(&row.record.labels, now) {
            scope.candidates.push(node);
        } else {
            scope.graph.root(node, Reach::Deep);
        }
    }
    Ok(())
}

fn add_containers(marked: &mut Marked, db: &Db) -> Result<()> {
    for row in db.scan(&tables::CONTAINERS.view::<ContainerView>())? {
        let scope = marked.scope(&row.namespace);
        let node = Node::Container(row.key);
        let ContainerView { labels, snapshotter, snapshot_key } = row.record;
        if !snapshot_key.is_empty() {
            scope.graph.edge(node.clone(), Node::Snapshot { snapshotter, key: snapshot_key });
        }
        scope.add_labels(&node, &labels);
        scope.graph.root(node, Reach::Deep);
    }
    Ok(())
}

/// A sandbox's record keeps what its labels name.
fn add_sandboxes(marked: &mut Marked, db: &Db) -> Result<()> {
    for row in db.scan(&tables::SANDBOXES.view::<LabelsView>())? {
        let graph = &mut marked.scope(&row.namespace).graph;
        for to in labels::references(&row.record.labels) {
            graph.root(to, Reach::Deep);
        }
    }
    Ok(())
}

/// Activated mounts stay as long as their lease, or what their labels or others' name. One that is being made is left alone.
fn add_mounts(marked: &mut Marked, db: &Db) -> Result<()> {
    for row in db.scan(&tables::MOUNTS.view::<MountView>())? {
        let scope = marked.scope(&row.namespace);
        let node = Node::Mount(row.key);
        if let Some(lease) = row.record.lease {
            scope.graph.edge(Node::Lease(lease), node.clone());
        }
        scope.add_labels(&node, &row.record.labels);
        if row.record.state == State::Active {
            scope.candidates.push(node);
        }
    }
    Ok(())
}

fn add_content(marked: &mut Marked, db: &Db) -> Result<()> {
    let now = marked.now;
    for row in db.scan(&tables::BLOBS.view::<BlobView>())? {
        let scope = marked.scope(&row.namespace);
        let node = Node::Content(row.key);
        scope.add_conditions(&node, &row.record.labels, now);
        scope.add_candidate(node, &row.record.labels);
    }
    Ok(())
}
