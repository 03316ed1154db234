//! What became of containers while their clients were cut off by the daemon's end: kept for a moment after a start, and
//! told to whoever subscribes in it.
//!
//! What always holds: only events of tasks that are older than the daemon are kept, for [`GRACE`] and at most [`MAX_KEPT`] of
//! them; a client that subscribes twice in that time is told twice.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::{Event, fields};
use crate::namespaces::Namespace;

/// How long after a start clients may take to come back: they try again every few seconds.
const GRACE: Duration = Duration::from_secs(30);
/// Events that are kept; the oldest go first.
const MAX_KEPT: usize = super::MAX_WAITING / 2;

/// The tasks of an earlier daemon.
pub type Tasks = HashSet<(Namespace, String)>;

#[derive(Default)]
enum Phase {
    /// Nobody can subscribe yet: whatever happens to a task is older than the daemon.
    #[default]
    Starting,
    Serving {
        tasks: Tasks,
        until: Instant,
    },
    Over,
}

#[derive(Default)]
pub struct Backlog {
    phase: Phase,
    events: VecDeque<Event>,
}

impl Backlog {
    /// From now on clients subscribe.
    pub fn serve(&mut self, tasks: Tasks) {
        self.phase = Phase::Serving { tasks, until: Instant::now() + GRACE };
    }

    pub fn keep(&mut self, event: &Event) {
        if !event.topic.starts_with("/tasks/") {
            return;
        }
        self.expire();
        let kept = match &self.phase {
            Phase::Starting => true,
            Phase::Over => false,
            Phase::Serving { tasks, .. } => fields::of(&event.payload, &["container_id"])
                .is_some_and(|id| tasks.contains(&(event.namespace.clone(), id))),
        };
        if kept {
            if self.events.len() == MAX_KEPT {
                self.events.pop_front();
            }
            self.events.push_back(event.clone());
        }
    }

    /// What a new subscriber is told first.
    pub fn events(&mut self) -> impl Iterator<Item = &Event> {
        self.expire();
        self.events.iter()
    }

    fn expire(&mut self) {
        if matches!(&self.phase, Phase::Serving { until, .. } if *until < Instant::now()) {
            *self = Self { phase: Phase::Over, events: VecDeque::new() };
        }
    }
}
