//! One namespace as a graph: objects, what each refers to, and which are reached.

use std::collections::{HashMap, HashSet};

use crate::leases::Resource;

/// An object of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    Content(String),
    Snapshot { snapshotter: String, key: String },
    Image(String),
    Container(String),
    Lease(String),
    Ingest(String),
    Mount(String),
}

impl From<&Resource> for Node {
    fn from(resource: &Resource) -> Self {
        match resource {
            Resource::Content(digest) => Self::Content(digest.to_string()),
            Resource::Snapshot { snapshotter, key } => {
                Self::Snapshot { snapshotter: snapshotter.clone(), key: key.clone() }
            }
            Resource::Ingest(reference) => Self::Ingest(reference.clone()),
            Resource::Image(name) => Self::Image(name.clone()),
        }
    }
}

/// How far a reference keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The object and everything that it refers to.
    Deep,
    /// The object alone, and what it is nothing without: a snapshot's parents, an image's target.
    Flat,
}

#[derive(Debug, Default)]
pub struct Graph {
    edges: HashMap<Node, Vec<Node>>,
    parents: HashMap<Node, Node>,
    roots: Vec<(Node, Reach)>,
    deep: HashSet<Node>,
    flat: HashSet<Node>,
}

impl Graph {
    pub fn root(&mut self, node: Node, reach: Reach) {
        self.roots.push((node, reach));
    }

    pub fn edge(&mut self, from: Node, to: Node) {
        self.edges.entry(from).or_default().push(to);
    }

    /// `parent` is kept as far as `node` is: a snapshot's parent, or the target of an image or an ingest.
    pub fn parent(&mut self, node: Node, parent: Node) {
        self.parents.insert(node, parent);
    }

    pub fn parent_of(&self, snapshot: &Node) -> Option<&Node> {
        self.parents.get(snapshot)
    }

    /// Marks everything that the roots reach; may be called again after more roots came.
    pub fn mark(&mut self) {
        let mut pending = std::mem::take(&mut self.roots);
        while let Some((node, reach)) = pending.pop() {
            let new = match reach {
                Reach::Deep => self.deep.insert(node.clone()),
                Reach::Flat => self.flat.insert(node.clone()),
            };
            if !new {
                continue;
            }
            if let Some(parent) = self.parents.get(&node) {
                pending.push((parent.clone(), reach));
            }
            if reach == Reach::Deep
                && let Some(edges) = self.edges.get(&node)
            {
                pending.extend(edges.iter().map(|to| (to.clone(), Reach::Deep)));
            }
        }
    }

    pub fn is_marked(&self, node: &Node) -> bool {
        self.deep.contains(node) || self.flat.contains(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(name: &str) -> Node {
        Node::Content(name.into())
    }

    #[test]
    fn cycles_end_and_the_unreached_stay_unmarked() {
        let mut graph = Graph::default();
        graph.edge(content("a"), content("b"));
        graph.edge(content("b"), content("a"));
        graph.edge(content("c"), content("a"));
        graph.root(content("a"), Reach::Deep);
        graph.mark();
        assert!(graph.is_marked(&content("b")) && !graph.is_marked(&content("c")));
    }

    #[test]
    fn flat_keeps_parents_but_no_references() {
        let snapshot = |key: &str| Node::Snapshot { snapshotter: "s".into(), key: key.into() };
        let mut graph = Graph::default();
        graph.edge(snapshot("top"), content("x"));
        graph.parent(snapshot("top"), snapshot("base"));
        graph.root(snapshot("top"), Reach::Flat);
        graph.mark();
        assert!(graph.is_marked(&snapshot("base")) && !graph.is_marked(&content("x")));
        graph.root(snapshot("top"), Reach::Deep);
        graph.mark();
        assert!(graph.is_marked(&content("x")));
    }
}
