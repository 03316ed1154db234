//! How far a transfer is, in the words that containerd's clients render: one line for each descriptor, below the one that names it.
//!
//! What always holds: the transfer never waits for whoever watches it: the state is sampled at the watcher's pace; each status that
//! lasts is seen, and in the end what has become of each descriptor. What is said between comes in the order in which it was said.

#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::fetch::feed::Feed;
use super::graph;
use crate::content::{Descriptor, Digest};

/// Between two samples of the same descriptor's bytes.
const INTERVAL: Duration = Duration::from_millis(150);
/// Descriptors that are followed; more are transferred, but not shown.
const MAX_NODES: usize = 4096;

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    pub event: String,
    /// Of an image, or [`graph::ref_key`] of a descriptor; empty for the transfer as a whole.
    pub name: String,
    pub parents: Vec<String>,
    /// Bytes.
    pub progress: u64,
    pub total: u64,
    pub descriptor: Option<Descriptor>,
}

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Down,
    Up,
}

/// What is being done about a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Waiting,
    Moving,
    Complete,
    /// It was there before.
    Exists,
    Extracting,
    Extracted,
}

enum Meter {
    Feed(Arc<Feed>),
    Count(Arc<AtomicU64>),
}

struct Node {
    name: String,
    parents: Vec<String>,
    descriptor: Descriptor,
    step: Step,
    progress: u64,
    meter: Option<Meter>,
    /// As the watcher knows it.
    told: Option<(Step, u64)>,
}

#[derive(Default)]
struct State {
    nodes: Vec<Node>,
    by_digest: HashMap<Digest, usize>,
    /// Repositories that blobs were mounted from.
    mounted: HashMap<Digest, String>,
    unsent: VecDeque<Event>,
}

/// The state of one transfer.
pub struct Tracker {
    /// The name that the uppermost descriptor is below of.
    root: String,
    direction: Direction,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

impl Tracker {
    pub fn new(root: impl Into<String>, direction: Direction) -> Arc<Tracker> {
        let (state, changed) = (Mutex::default(), watch::Sender::new(()));
        Arc::new(Tracker { root: root.into(), direction, state, changed })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something about the whole.
    pub fn say(&self, event: impl Into<String>) {
        self.tell(Event { event: event.into(), ..Event::default() });
    }

    /// Something about an image.
    pub fn about(&self, event: &str, name: &str, descriptor: &Descriptor) {
        let (event, name) = (event.to_owned(), name.to_owned());
        self.tell(Event { event, name, descriptor: Some(descriptor.clone()), ..Event::default() });
    }

    /// Something about the image that all is below of.
    pub fn about_root(&self, event: &str, descriptor: &Descriptor) {
        self.about(event, &self.root, descriptor);
    }

    fn tell(&self, event: Event) {
        let mut state = self.state();
        // What was done before is told before.
        state.sample(self.direction);
        state.unsent.push_back(event);
        drop(state);
        self.changed.send_replace(());
    }

    /// Follows a descriptor, below the one that names it.
    pub fn add(&self, descriptor: &Descriptor, parent: Option<&Descriptor>) {
        let parent = parent.map_or_else(|| self.root.clone(), graph::ref_key);
        let mut state = self.state();
        if let Some(&at) = state.by_digest.get(&descriptor.digest) {
            let node = &mut state.nodes[at];
            if node.told.is_none() && !node.parents.contains(&parent) {
                node.parents.push(parent);
            }
            return;
        }
        if state.nodes.len() >= MAX_NODES {
            return;
        }
        let at = state.nodes.len();
        state.by_digest.insert(descriptor.digest.clone(), at);
        state.nodes.push(Node {
            name: graph::ref_key(descriptor),
            parents: vec![parent],
            descriptor: descriptor.clone(),
            step: Step::Waiting,
            progress: 0,
            meter: None,
            told: None,
        });
        drop(state);
        self.changed.send_replace(());
    }

    pub fn set(&self, digest: &Digest, step: Step) {
        self.change(digest, |node| {
            node.step = step;
            if !matches!(step, Step::Moving) {
                node.meter = None;
            }
            node.progress = match step {
                Step::Waiting | Step::Extracting => 0,
                Step::Moving => node.progress,
                Step::Complete | Step::Exists | Step::Extracted => node.descriptor.size,
            };
        });
    }

    /// Its bytes arrive here.
    pub fn downloading(&self, digest: &Digest, feed: &Arc<Feed>) {
        self.change(digest, |node| {
            node.step = Step::Moving;
            node.meter = Some(Meter::Feed(feed.clone()));
        });
    }

    /// So many of its bytes are sent.
    pub fn uploading(&self, digest: &Digest, sent: &Arc<AtomicU64>) {
        self.change(digest, |node| {
            node.step = Step::Moving;
            node.meter = Some(Meter::Count(sent.clone()));
        });
    }

    /// The registry had it in another repository.
    pub fn mounted(&self, digest: &Digest, repository: &str) {
        self.state().mounted.insert(digest.clone(), repository.to_owned());
    }

    /// The repository that it was mounted from.
    pub fn mounted_from(&self, digest: &Digest) -> Option<String> {
        self.state().mounted.get(digest).cloned()
    }

    /// Whether the work on it has come to its end.
    pub fn is_done(&self, digest: &Digest) -> bool {
        let state = self.state();
        let node = state.by_digest.get(digest).map(|&at| &state.nodes[at]);
        node.is_some_and(|node| matches!(node.step, Step::Complete | Step::Exists | Step::Extracted))
    }

    fn change(&self, digest: &Digest, change: impl FnOnce(&mut Node)) {
        let mut state = self.state();
        let Some(&at) = state.by_digest.get(digest) else { return };
        change(&mut state.nodes[at]);
        drop(state);
        self.changed.send_replace(());
    }

    /// Sends what happens until `ended` is set or the watcher is gone.
    pub async fn report(&self, watcher: &mpsc::Sender<Event>, mut ended: watch::Receiver<bool>) {
        let mut changed = self.changed.subscribe();
        loop {
            // Whoever sets it, or goes away, has said everything before.
            let last = *ended.borrow() || ended.has_changed().is_err();
            let events = {
                let mut state = self.state();
                state.sample(self.direction);
                std::mem::take(&mut state.unsent)
            };
            for event in events {
                if watcher.send(event).await.is_err() {
                    return;
                }
            }
            if last {
                return;
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep(INTERVAL) => {}
                _ = ended.wait_for(|ended| *ended) => {}
            }
        }
    }
}

impl State {
    // Notes what is new since the last sample.
    fn sample(&mut self, direction: Direction) {
        for node in &mut self.nodes {
            if node.told.is_none() {
                self.unsent.push_back(node.event("waiting", 0));
                node.told = Some((Step::Waiting, 0));
            }
            match &node.meter {
                Some(Meter::Feed(feed)) => node.progress = feed.available(),
                Some(Meter::Count(sent)) => node.progress = sent.load(Ordering::Relaxed),
                None => {}
            }
            let now = (node.step, node.progress.min(node.descriptor.size));
            if node.told == Some(now) {
                continue;
            }
            let event = match now.0 {
                Step::Waiting => "waiting",
                Step::Moving if direction == Direction::Down => "downloading",
                Step::Moving => "uploading",
                Step::Complete => "complete",
                Step::Exists => "already exists",
                Step::Extracting => "extracting",
                Step::Extracted => "extracted",
            };
            self.unsent.push_back(node.event(event, now.1));
            node.told = Some(now);
        }
    }
}

impl Node {
    fn event(&self, event: &str, progress: u64) -> Event {
        Event {
            event: event.to_owned(),
            name: self.name.clone(),
            parents: self.parents.clone(),
            progress,
            total: self.descriptor.size,
            descriptor: Some(self.descriptor.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::Labels;

    fn descriptor(media_type: &str, size: u64) -> Descriptor {
        let digest = Digest::of(media_type.as_bytes());
        Descriptor { media_type: media_type.to_owned(), digest, size, annotations: Labels::new() }
    }

    #[tokio::test]
    async fn events_come_in_order_below_their_parents() {
        let tracker = Tracker::new("image", Direction::Down);
        let manifest = descriptor(graph::OCI_MANIFEST, 10);
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar", 20);
        let (sender, mut receiver) = mpsc::channel(64);
        let (end, ended) = watch::channel(false);
        tracker.say("Resolving");
        tracker.about("fetching image content", "image", &manifest);
        tracker.add(&manifest, None);
        tracker.add(&layer, Some(&manifest));
        tracker.set(&manifest.digest, Step::Complete);
        tracker.uploading(&layer.digest, &Arc::new(AtomicU64::new(7)));
        tracker.say("between");
        tracker.set(&layer.digest, Step::Extracted);
        tracker.about("saved", "image", &manifest);
        end.send_replace(true);
        tracker.report(&sender, ended).await;
        drop(sender);
        let mut seen = Vec::new();
        while let Some(event) = receiver.recv().await {
            seen.push((event.event, event.parents.join(","), event.progress));
        }
        let parent = graph::ref_key(&manifest);
        let expected = [
            ("Resolving", "", 0),
            ("fetching image content", "", 0),
            ("waiting", "image", 0),
            ("complete", "image", 10),
            ("waiting", parent.as_str(), 0),
            ("downloading", parent.as_str(), 7),
            ("between", "", 0),
            ("extracted", parent.as_str(), 20),
            ("saved", "", 0),
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|(event, parents, at)| (event.to_string(), parents.to_string(), *at))
            .collect();
        assert_eq!(seen, expected);
    }
}
