//! The labels by which clients tell the collector what refers to what.

use jiff::Timestamp;

use super::graph::Node;
use crate::labels::Labels;
use crate::leases::EXPIRE;

const ROOT: &str = "containerd.io/gc.root";
const FLAT: &str = "containerd.io/gc.flat";
const REFERENCE: &str = "containerd.io/gc.ref.";
const BACK_REFERENCE: &str = "containerd.io/gc.bref.";

/// Whether content or a snapshot is a root by itself: by a label that begins with `containerd.io/gc.root`.
pub fn is_root(labels: &Labels) -> bool {
    labels.range(ROOT.to_owned()..).next().is_some_and(|(key, _)| key.starts_with(ROOT))
}

pub fn is_flat(labels: &Labels) -> bool {
    labels.contains_key(FLAT)
}

/// Whether its time is over. A time that cannot be read is no reason to lose anything.
pub fn is_expired(labels: &Labels, now: Timestamp) -> bool {
    labels.get(EXPIRE).and_then(|at| at.parse::<Timestamp>().ok()).is_some_and(|at| at <= now)
}

/// What the labelled object keeps: `ref.content[./…]`, `ref.image[./…]`, `ref.snapshot.NAME[/…]`.
pub fn references(labels: &Labels) -> impl Iterator<Item = Node> + '_ {
    labels.iter().filter_map(|(key, value)| node(key.strip_prefix(REFERENCE)?, value))
}

/// What keeps the labelled object: `bref.content[./…]`, `bref.image[./…]`, `bref.container[./…]`,
/// `bref.snapshot.NAME[/…]`.
pub fn back_references(labels: &Labels) -> impl Iterator<Item = Node> + '_ {
    labels.iter().filter_map(|(key, value)| {
        let kind = key.strip_prefix(BACK_REFERENCE)?;
        if is(kind, "container") { Some(Node::Container(value.clone())) } else { node(kind, value) }
    })
}

fn node(kind: &str, value: &str) -> Option<Node> {
    if is(kind, "content") {
        return Some(Node::Content(value.to_owned()));
    }
    if is(kind, "image") {
        return Some(Node::Image(value.to_owned()));
    }
    if is(kind, "mount") {
        return Some(Node::Mount(value.to_owned()));
    }
    let snapshotter = kind.strip_prefix("snapshot.")?;
    let snapshotter = snapshotter.split_once('/').map_or(snapshotter, |(name, _)| name);
    Some(Node::Snapshot { snapshotter: snapshotter.to_owned(), key: value.to_owned() })
}

fn is(kind: &str, word: &str) -> bool {
    kind.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_from_labels() {
        let labels: Labels = [
            ("containerd.io/gc.ref.content.m.0", "sha256:a"),
            ("containerd.io/gc.ref.content", "sha256:b"),
            ("containerd.io/gc.ref.contents", "no"),
            ("containerd.io/gc.ref.snapshot.overlayfs/x", "chain"),
            ("containerd.io/gc.ref.image/1", "img"),
            ("containerd.io/gc.bref.container", "c1"),
            ("other", "x"),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
        let found: Vec<Node> = references(&labels).collect();
        assert_eq!(found.len(), 4);
        assert!(found.contains(&Node::Snapshot { snapshotter: "overlayfs".into(), key: "chain".into() }));
        assert_eq!(back_references(&labels).collect::<Vec<_>>(), [Node::Container("c1".into())]);
    }
}
