//! How far a pull is, for whoever watches it.
//!
//! What always holds: the pull itself never waits for a watcher: each samples the state at its own pace, and sees every status
//! that lasts, the plan before any layer, and in the end what has become of each layer.

#![forbid(unsafe_code)]

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use crate::content::Digest;
use crate::images::fetch::feed::Feed;
use crate::images::track::{Step, Tracker};

/// Between two samples of the same layer's bytes.
const INTERVAL: Duration = Duration::from_millis(100);

/// One step of a pull, in the order in which they come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullEvent {
    /// The canonical reference that is being resolved.
    Resolving(String),
    Plan {
        familiar_name: String,
        tag: String,
        layers: Vec<LayerPlan>,
    },
    Layer {
        digest: Digest,
        status: LayerStatus,
        current: u64,
        total: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerPlan {
    pub digest: Digest,
    /// Compressed, in bytes.
    pub size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerStatus {
    Pulling,
    Waiting,
    Downloading,
    Downloaded,
    Extracting,
    Complete,
    Exists,
}

/// The state of one pull.
pub struct Progress {
    reference: String,
    state: Mutex<State>,
    changed: watch::Sender<()>,
    /// Follows the descriptors of a transfer of which this is a part.
    tracker: Option<Arc<Tracker>>,
    since: Timestamp,
    /// Counts what was unpacked, and every change.
    moved: Arc<AtomicU64>,
    /// Layers that are being fetched or unpacked: the others wait for somebody.
    at_work: Arc<AtomicUsize>,
}

/// A pull under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderWay {
    /// Canonical.
    pub reference: String,
    pub since: Timestamp,
    pub step: &'static str,
    /// Bytes of layers that are here; 0 of 0 before they are known.
    pub current: u64,
    pub total: u64,
    pub layers: Vec<(LayerPlan, LayerStatus, u64)>,
}

/// A layer is being worked on until this is dropped.
pub struct AtWork(Arc<AtomicUsize>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Notes what passes through it.
pub struct Counted<R> {
    inner: R,
    moved: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.moved.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[derive(Default)]
struct State {
    plan: Option<PullEvent>,
    layers: Vec<LayerState>,
}

struct LayerState {
    plan: LayerPlan,
    status: LayerStatus,
    feed: Option<Arc<Feed>>,
    current: u64,
}

impl Progress {
    pub fn new(reference: String) -> Progress {
        Progress {
            reference,
            state: Mutex::default(),
            changed: watch::Sender::new(()),
            tracker: None,
            since: Timestamp::now(),
            moved: Arc::default(),
            at_work: Arc::default(),
        }
    }

    /// What is unpacked moves the pull.
    pub fn counted<R: Read>(&self, inner: R) -> Counted<R> {
        Counted { inner, moved: self.moved.clone() }
    }

    /// Work on a layer begins, which has to move from now on.
    pub fn at_work(&self) -> AtWork {
        self.at_work.fetch_add(1, Ordering::Relaxed);
        AtWork(self.at_work.clone())
    }

    /// How it is now.
    pub fn under_way(&self) -> UnderWay {
        let state = self.state();
        let here = |layer: &LayerState| layer.feed.as_ref().map_or(layer.current, |feed| feed.available());
        let any = |wanted: &[LayerStatus]| state.layers.iter().any(|layer| wanted.contains(&layer.status));
        let step = match &state.plan {
            None => "resolving",
            Some(_) if any(&[LayerStatus::Downloading]) => "downloading",
            Some(_) if any(&[LayerStatus::Extracting]) => "unpacking",
            Some(_) if any(&[LayerStatus::Pulling, LayerStatus::Waiting]) => "waiting",
            Some(_) => "recording",
        };
        UnderWay {
            reference: self.reference.clone(),
            since: self.since,
            step,
            current: state.layers.iter().map(here).sum(),
            total: state.layers.iter().map(|layer| layer.plan.size).sum(),
            layers: state.layers.iter().map(|one| (one.plan.clone(), one.status, here(one))).collect(),
        }
    }

    /// Bytes that have come of layers that are being fetched.
    fn arrived(&self) -> u64 {
        let state = self.state();
        state.layers.iter().filter_map(|layer| layer.feed.as_ref()).map(|feed| feed.arrived()).sum()
    }

    /// Ends when layers are worked on and nothing has moved for `patience`: how it is then.
    pub async fn stalled(&self, patience: Duration) -> UnderWay {
        let look = (patience / 10).clamp(Duration::from_millis(50), Duration::from_secs(5));
        let (mut last, mut since) = (0, Instant::now());
        loop {
            tokio::time::sleep(look).await;
            let now = self.under_way();
            let moved =
                self.moved.load(Ordering::Relaxed).wrapping_add(now.current).wrapping_add(self.arrived());
            if self.at_work.load(Ordering::Relaxed) == 0 || moved != last {
                (last, since) = (moved, Instant::now());
            } else if since.elapsed() >= patience {
                return now;
            }
        }
    }

    /// One that tells a transfer's tracker, too. The layers are there from the beginning.
    pub fn tracked(tracker: Option<Arc<Tracker>>, layers: Vec<LayerPlan>) -> Progress {
        let progress = Progress { tracker, ..Progress::new(String::new()) };
        progress.plan(String::new(), String::new(), layers);
        progress
    }

    fn track(&self, layer: usize, tell: impl FnOnce(&Tracker, &Digest)) {
        let Some(tracker) = &self.tracker else { return };
        let digest = self.state().layers.get(layer).map(|layer| layer.plan.digest.clone());
        if let Some(digest) = digest {
            tell(tracker, &digest);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn plan(&self, familiar_name: String, tag: String, layers: Vec<LayerPlan>) {
        let mut state = self.state();
        let layer = |plan: &LayerPlan| LayerState {
            plan: plan.clone(),
            status: LayerStatus::Pulling,
            feed: None,
            current: 0,
        };
        state.layers = layers.iter().map(layer).collect();
        state.plan = Some(PullEvent::Plan { familiar_name, tag, layers });
        drop(state);
        self.changed.send_replace(());
    }

    pub fn set(&self, layer: usize, status: LayerStatus) {
        self.moved.fetch_add(1, Ordering::Relaxed);
        if let Some(layer) = self.state().layers.get_mut(layer) {
            layer.status = status;
            if matches!(status, LayerStatus::Downloaded | LayerStatus::Complete | LayerStatus::Exists) {
                layer.current = layer.plan.size;
            }
            if status != LayerStatus::Downloading {
                layer.feed = None;
            }
        }
        self.changed.send_replace(());
        let step = match status {
            LayerStatus::Pulling | LayerStatus::Waiting => Step::Waiting,
            // Told with the feed.
            LayerStatus::Downloading => return,
            LayerStatus::Downloaded => Step::Complete,
            LayerStatus::Extracting => Step::Extracting,
            LayerStatus::Complete => Step::Extracted,
            LayerStatus::Exists => Step::Exists,
        };
        self.track(layer, |tracker, digest| tracker.set(digest, step));
    }

    /// The layer is being downloaded into this feed.
    pub fn downloading(&self, layer: usize, feed: &Arc<Feed>) {
        self.track(layer, |tracker, digest| tracker.downloading(digest, feed));
        if let Some(layer) = self.state().layers.get_mut(layer) {
            layer.feed = Some(feed.clone());
        }
        self.set(layer, LayerStatus::Downloading);
    }

    /// Sends what happens until `ended` is set or the watcher is gone.
    pub async fn report(&self, watcher: &mpsc::Sender<PullEvent>, mut ended: watch::Receiver<bool>) {
        let mut changed = self.changed.subscribe();
        let mut seen = Seen { planned: false, layers: Vec::new() };
        if watcher.send(PullEvent::Resolving(self.reference.clone())).await.is_err() {
            return;
        }
        loop {
            let last = *ended.borrow();
            for event in self.sample(&mut seen) {
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

    fn sample(&self, seen: &mut Seen) -> Vec<PullEvent> {
        let mut state = self.state();
        let mut events = Vec::new();
        let Some(plan) = &state.plan else { return events };
        if !seen.planned {
            events.push(plan.clone());
            seen.planned = true;
            seen.layers = vec![None; state.layers.len()];
        }
        for (layer, seen) in state.layers.iter_mut().zip(&mut seen.layers) {
            if let Some(feed) = &layer.feed {
                layer.current = feed.available();
            }
            let now = (layer.status, layer.current);
            if *seen != Some(now) {
                *seen = Some(now);
                let LayerPlan { digest, size } = layer.plan.clone();
                events.push(PullEvent::Layer { digest, status: now.0, current: now.1, total: size });
            }
        }
        events
    }
}

struct Seen {
    planned: bool,
    layers: Vec<Option<(LayerStatus, u64)>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn a_pull_stalls_when_it_is_worked_on_and_nothing_moves() {
        let progress = Progress::new("x".to_owned());
        let stalls =
            async |work: Duration| tokio::time::timeout(work, progress.stalled(PATIENCE)).await.is_ok();
        assert!(!stalls(PATIENCE * 3).await, "it waits for others");
        let at_work = progress.at_work();
        assert!(stalls(PATIENCE * 5).await);
        let mut reader = progress.counted(std::io::repeat(0));
        let moves = async {
            for _ in 0..20 {
                let mut piece = [0; 10];
                let _ = reader.read(&mut piece);
                tokio::time::sleep(PATIENCE / 6).await;
            }
        };
        let (stalled, ()) = tokio::join!(stalls(PATIENCE * 3), moves);
        assert!(!stalled, "what is unpacked moves it");
        drop(at_work);
        assert!(!stalls(PATIENCE * 3).await);
        assert_eq!(progress.under_way().step, "resolving");
    }
}
