//! What takes how much of the disk, and why it is kept: each blob, snapshot, volume and unfinished blob with the images, containers, leases and
//! labels that hold it, found by the same references that the collector follows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Engine;
use super::images::ImageUsage;
use super::list::{ListRequest, Summary};
use crate::content::Digest;
use crate::error::Result;
use crate::filters::Filter;
use crate::labels::Labels;
use crate::leases::Resource;

/// Objects in one answer.
const MAX_OBJECTS: usize = 10_000;
/// Holders that are named of one object.
const MAX_HOLDERS: usize = 16;

const ROOT: &str = "containerd.io/gc.root";
const CONTENT: &str = "containerd.io/gc.ref.content";
const SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct DiskUsage {
    pub images: Vec<ImageUsage>,
    /// Bytes of all layers of all images, each once.
    pub layers: u64,
    pub containers: Vec<Summary>,
    /// Largest first.
    pub objects: Vec<StoredObject>,
    /// Smaller ones that found no room.
    pub left_out: u64,
}

/// Something on the disk.
#[derive(Clone, Debug)]
pub struct StoredObject {
    pub kind: &'static str,
    pub name: String,
    pub size: u64,
    /// Empty: the next collection removes it.
    pub kept_by: Vec<String>,
}

/// Whether each object is looked at, which costs a walk over all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objects {
    Shown,
    Left,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Node {
    Blob(Digest),
    /// Snapshotter and key.
    Snapshot(String, String),
    Ingest(String),
}

/// What there is, with what each thing refers to.
#[derive(Default)]
struct Graph {
    nodes: BTreeMap<Node, Stored>,
}

#[derive(Default)]
struct Stored {
    size: u64,
    refers_to: Vec<Node>,
    kept_by: BTreeSet<String>,
}

impl Engine {
    pub async fn disk_usage(self: &Arc<Self>, objects: Objects) -> Result<DiskUsage> {
        let (images, layers) = self.image_usage().await?;
        let all = ListRequest { all: true, size: true, ..ListRequest::default() };
        let containers = self.list(&all).await?;
        let mut usage = DiskUsage { images, layers, containers, ..DiskUsage::default() };
        if objects == Objects::Shown {
            let mut graph = self.stored().await?;
            self.hold_roots(&mut graph)?;
            usage.objects = graph.into_objects();
            usage.objects.extend(self.stored_volumes().await?);
            usage.objects.sort_by_key(|object| std::cmp::Reverse(object.size));
            usage.left_out = usage.objects.len().saturating_sub(MAX_OBJECTS) as u64;
            usage.objects.truncate(MAX_OBJECTS);
        }
        Ok(usage)
    }

    /// Volumes are kept by whoever has them, and until somebody removes them.
    async fn stored_volumes(self: &Arc<Self>) -> Result<Vec<StoredObject>> {
        let volumes = self.list_volumes(&[], true).await?;
        let holder = |id: &String| match self.registry.get(id) {
            Some(entry) => format!("container {}", entry.name()),
            None => format!("container {id}"),
        };
        let object = |volume: super::volumes::Listed| {
            let mut kept_by: Vec<String> = volume.users.iter().take(MAX_HOLDERS).map(holder).collect();
            if kept_by.is_empty() {
                kept_by.push("no container: 'volume rm' removes it".to_owned());
            }
            StoredObject { kind: "volume", name: volume.name, size: volume.size.unwrap_or(0), kept_by }
        };
        Ok(volumes.into_iter().map(object).collect())
    }

    async fn stored(&self) -> Result<Graph> {
        let mut graph = Graph::default();
        for blob in self.content.list(&self.namespace, &Filter::default())? {
            let stored = Stored { size: blob.size, refers_to: references(&blob.labels), ..Stored::default() };
            graph.add(Node::Blob(blob.digest), stored, &blob.labels);
        }
        let default = self.snapshotter()?;
        for snapshotter in std::iter::once(default.clone()).chain(self.snapshots.others(&default)) {
            for info in snapshotter.list(&self.namespace, &Filter::default()).await? {
                let usage = snapshotter.usage(&self.namespace, &info.name).await;
                let mut refers_to = references(&info.labels);
                let parent = info.parent.filter(|parent| !parent.is_empty());
                refers_to.extend(parent.map(|parent| Node::Snapshot(snapshotter.name().to_owned(), parent)));
                let size = usage.map_or(0, |usage| usage.size);
                let node = Node::Snapshot(snapshotter.name().to_owned(), info.name);
                graph.add(node, Stored { size, refers_to, ..Stored::default() }, &info.labels);
            }
        }
        for ingest in self.content.list_statuses(&self.namespace, &Filter::default()).await? {
            let stored = Stored { size: ingest.offset, ..Stored::default() };
            graph.add(Node::Ingest(ingest.reference), stored, &Labels::new());
        }
        Ok(graph)
    }

    fn hold_roots(&self, graph: &mut Graph) -> Result<()> {
        for image in self.all_images()? {
            graph.hold(Node::Blob(image.target.digest), &format!("image {}", image.name));
        }
        let names: HashMap<String, String> = self
            .registry
            .all()
            .iter()
            .map(|entry| (entry.id.clone(), entry.read(|record| record.name.clone())))
            .collect();
        for container in self.containers.list(&self.namespace, &Filter::default())? {
            let shown = names.get(&container.id).unwrap_or(&container.id);
            let key = Node::Snapshot(container.snapshotter.clone(), container.snapshot_key.clone());
            graph.hold(key, &format!("container {shown}"));
        }
        for lease in self.leases.list(&self.namespace, &Filter::default())? {
            let purpose = lease.labels.get(crate::images::pull::PURPOSE);
            let holder = match purpose {
                Some(purpose) => format!("lease {} ({purpose})", lease.id),
                None => format!("lease {}", lease.id),
            };
            for resource in self.leases.resources(&self.namespace, &lease.id)? {
                match resource {
                    Resource::Content(digest) => graph.hold(Node::Blob(digest), &holder),
                    Resource::Snapshot { snapshotter, key } => {
                        graph.hold(Node::Snapshot(snapshotter, key), &holder);
                    }
                    Resource::Ingest(reference) => graph.hold(Node::Ingest(reference), &holder),
                    // An image holds by itself.
                    Resource::Image(_) => {}
                }
            }
        }
        Ok(())
    }
}

impl Graph {
    fn add(&mut self, node: Node, mut stored: Stored, labels: &Labels) {
        let root = labels.contains_key(ROOT);
        stored.kept_by.extend(root.then(|| format!("label {ROOT}")));
        self.nodes.insert(node, stored);
    }

    /// Notes who keeps this and all that it refers to.
    fn hold(&mut self, root: Node, holder: &str) {
        let mut waiting = vec![root];
        let mut met = BTreeSet::new();
        while let Some(node) = waiting.pop() {
            let Some(stored) = self.nodes.get_mut(&node).filter(|_| met.insert(node)) else { continue };
            if stored.kept_by.len() < MAX_HOLDERS {
                stored.kept_by.insert(holder.to_owned());
            }
            waiting.extend(stored.refers_to.iter().cloned());
        }
    }

    fn into_objects(mut self) -> Vec<StoredObject> {
        let roots: Vec<Node> = self
            .nodes
            .iter()
            .filter(|(_, stored)| stored.kept_by.iter().any(|holder| holder.starts_with("label ")))
            .map(|(node, _)| node.clone())
            .collect();
        for root in roots {
            self.hold(root, &format!("label {ROOT}"));
        }
        let objects: Vec<StoredObject> = self
            .nodes
            .into_iter()
            .map(|(node, stored)| {
                let (kind, name) = match node {
                    Node::Blob(digest) => ("blob", digest.to_string()),
                    Node::Snapshot(_, key) => ("snapshot", key),
                    Node::Ingest(reference) => ("ingest", reference),
                };
                StoredObject { kind, name, size: stored.size, kept_by: stored.kept_by.into_iter().collect() }
            })
            .collect();
        objects
    }
}

// What labels refer to, as the collector reads them.
fn references(labels: &Labels) -> Vec<Node> {
    let mut found = Vec::new();
    for (key, value) in labels {
        if key == CONTENT || key.strip_prefix(CONTENT).is_some_and(|rest| rest.starts_with(['.', '/'])) {
            found.extend(Digest::parse(value).ok().map(Node::Blob));
        } else if let Some(rest) = key.strip_prefix(SNAPSHOT) {
            let snapshotter = rest.split(['.', '/']).next().unwrap_or(rest);
            found.push(Node::Snapshot(snapshotter.to_owned(), value.clone()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_root_refers_to_is_kept_by_it() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let labels = |pairs: &[(&str, String)]| -> Labels {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
        };
        let mut graph = Graph::default();
        let manifest = labels(&[
            ("containerd.io/gc.ref.content.config", digest("config").to_string()),
            ("containerd.io/gc.ref.content.l.0", digest("layer").to_string()),
        ]);
        let config = labels(&[("containerd.io/gc.ref.snapshot.overlayfs", "chain".to_owned())]);
        for (name, labels) in [("manifest", &manifest), ("config", &config), ("layer", &Labels::new())] {
            let stored = Stored { size: 1, refers_to: references(labels), ..Stored::default() };
            graph.add(Node::Blob(digest(name)), stored, labels);
        }
        let snapshot = |key: &str| Node::Snapshot("overlayfs".to_owned(), key.to_owned());
        graph.add(snapshot("chain"), Stored::default(), &Labels::new());
        graph.add(snapshot("other"), Stored::default(), &Labels::new());
        graph.hold(Node::Blob(digest("manifest")), "image a");
        graph.hold(snapshot("chain"), "container c");
        let kept = |graph: &Graph, node: Node| -> Vec<String> {
            graph.nodes[&node].kept_by.iter().cloned().collect()
        };
        assert_eq!(kept(&graph, Node::Blob(digest("layer"))), ["image a"]);
        assert_eq!(kept(&graph, snapshot("chain")), ["container c", "image a"]);
        assert!(kept(&graph, snapshot("other")).is_empty());
        assert_eq!(graph.into_objects().len(), 5);
    }
}
