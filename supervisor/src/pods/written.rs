//! How much containers have written into their own layers.
//!
//! What always holds: layers are walked one at a time, in the background, each no sooner again than after several times what its
//! walk took: a container with millions of files makes its own figure old, and holds up nobody's.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

use super::Pods;

/// How old a figure may be before a layer is walked again.
const FRESH: Duration = Duration::from_secs(10);
/// Of the time that a walk took: how long the layer rests.
const REST: u32 = 10;
/// Of the time that a walk took: how long all rest.
const PAUSE: u32 = 2;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long whoever asks waits for figures that nobody has yet.
const PATIENCE: Duration = Duration::from_millis(500);

/// What one container has written, as it was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    pub inodes: u64,
    pub at: Timestamp,
}

/// What is known; a clone is the same.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    /// Something has become known.
    news: watch::Sender<()>,
}

/// Of who walks. Another one may when it is dropped, at the end of the line or before.
struct Walk {
    ledger: Ledger,
    over: bool,
}

impl Walk {
    /// The next in line; `None` ends the walk.
    fn next(&mut self) -> Option<String> {
        let mut state = self.ledger.state();
        let next = state.waiting.pop_front();
        state.walking = next.is_some();
        self.over = next.is_none();
        next
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        // Else it may be another's by now.
        if !self.over {
            self.ledger.state().walking = false;
        }
    }
}

#[derive(Default)]
struct State {
    known: HashMap<String, Known>,
    waiting: VecDeque<String>,
    /// Whether somebody walks.
    walking: bool,
}

struct Known {
    written: Option<Written>,
    /// Not walked again before.
    next: Instant,
}

impl Ledger {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn known(&self, container: &str) -> Option<Written> {
        self.state().known.get(container).and_then(|known| known.written)
    }

    pub fn forget(&self, container: &str) {
        let mut state = self.state();
        state.known.remove(container);
        state.waiting.retain(|id| id != container);
    }

    /// Puts those in line whose figures are old; to be walked by whoever asked if nobody does.
    fn ask(&self, containers: &[String]) -> Option<Walk> {
        let now = Instant::now();
        let mut state = self.state();
        for id in containers {
            if state.known.get(id).is_none_or(|known| known.next <= now) && !state.waiting.contains(id) {
                state.waiting.push_back(id.clone());
            }
        }
        let begins = !state.waiting.is_empty() && !std::mem::replace(&mut state.walking, true);
        begins.then(|| Walk { ledger: self.clone(), over: false })
    }

    fn learned(&self, id: String, written: Option<Written>, took: Duration) {
        let next = Instant::now() + FRESH.max(took * REST);
        self.state().known.insert(id, Known { written, next });
        self.0.news.send_replace(());
    }
}

impl Pods {
    /// Has layers walked whose figures are old. Waits a moment for those of which nothing is known.
    pub(super) async fn look_at_written(self: &Arc<Self>, containers: Vec<String>) {
        let mut news = self.written.0.news.subscribe();
        if let Some(walk) = self.written.ask(&containers) {
            // Not waited for at the daemon's end.
            tokio::spawn(self.clone().walk(walk));
        }
        let all_known = async {
            while !containers.iter().all(|id| self.written.state().known.contains_key(id)) {
                if news.changed().await.is_err() {
                    return;
                }
            }
        };
        // Later there will be more.
        let _ = tokio::time::timeout(PATIENCE, all_known).await;
    }

    async fn walk(self: Arc<Self>, mut walk: Walk) {
        while let Some(id) = walk.next() {
            if self.container(&id).is_err() {
                self.written.forget(&id);
                continue;
            }
            let begun = Instant::now();
            let usage = match self.engine.snapshotter() {
                Ok(snapshotter) => snapshotter.usage(&self.namespace, &id).await,
                Err(error) => Err(error),
            };
            let took = begun.elapsed();
            let written = match usage {
                Ok(usage) => Some(Written { bytes: usage.size, inodes: usage.inodes, at: Timestamp::now() }),
                Err(error) => {
                    // It may be being removed.
                    tracing::debug!(container = %id, %error, "what it has written cannot be told");
                    None
                }
            };
            self.written.learned(id.clone(), written, took);
            if self.container(&id).is_err() {
                // It was removed, and forgotten, meanwhile.
                self.written.forget(&id);
            }
            tokio::time::sleep(LONGEST_PAUSE.min(took * PAUSE)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_walked_once_and_rests_by_what_that_took() {
        let ledger = Ledger::default();
        let ids = ["a".to_owned(), "b".to_owned()];
        let mut walk = ledger.ask(&ids).expect("somebody has to walk");
        assert!(ledger.ask(&ids).is_none(), "somebody walks");
        assert_eq!(walk.next().as_deref(), Some("a"));
        let written = Written { bytes: 1, inodes: 2, at: Timestamp::UNIX_EPOCH };
        ledger.learned("a".into(), Some(written), Duration::from_secs(100));
        assert_eq!(ledger.known("a"), Some(written));
        let rests = ledger.state().known["a"].next.saturating_duration_since(Instant::now());
        assert!(rests > Duration::from_secs(900), "{rests:?}");
        assert_eq!(walk.next().as_deref(), Some("b"));
        ledger.learned("b".into(), None, Duration::ZERO);
        assert_eq!((walk.next(), ledger.known("b")), (None, None));
        assert!(ledger.ask(&ids).is_none(), "both rest");
        ledger.forget("a");
        let second = ledger.ask(&ids).expect("somebody has to walk again");
        assert!(ledger.known("a").is_none());
        drop(walk);
        assert!(ledger.ask(&ids).is_none(), "the end of the first is not the end of the second");
        drop(second);
    }

    #[test]
    fn whose_walk_is_dropped_leaves_it_to_the_next() {
        let ledger = Ledger::default();
        let ids = ["a".to_owned(), "b".to_owned()];
        drop(ledger.ask(&ids));
        let mut walk = ledger.ask(&ids).expect("nobody walks");
        assert_eq!(walk.next().as_deref(), Some("a"));
        drop(walk);
        let mut walk = ledger.ask(&[]).expect("one is in line still");
        assert_eq!(walk.next().as_deref(), Some("b"));
    }
}
