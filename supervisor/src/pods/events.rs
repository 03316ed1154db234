//! What happens to pods and containers, told to whoever listens.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::broadcast;

use super::Pods;
use super::pod::Pod;

/// Events that a listener may be behind; one that falls back further misses some.
const BEHIND: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    Created,
    Started,
    Stopped,
    Deleted,
}

#[derive(Clone)]
pub struct Event {
    /// Of the container, or of the pod itself.
    pub id: String,
    pub pod: String,
    /// The pod itself, which may be gone by the time that this is read.
    pub sandbox: Option<Arc<Pod>>,
    pub what: Happened,
    pub at: Timestamp,
}

pub struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }
}

impl Events {
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}

impl Pods {
    pub(super) fn happened(&self, id: &str, pod: &str, what: Happened) {
        let sandbox = self.pod(pod).ok();
        self.tell(Event { id: id.to_owned(), pod: pod.to_owned(), sandbox, what, at: Timestamp::now() });
    }

    /// A pod is gone.
    pub(super) fn deleted(&self, pod: &Arc<Pod>) {
        let (id, sandbox) = (pod.id.clone(), Some(pod.clone()));
        self.tell(Event { id: id.clone(), pod: id, sandbox, what: Happened::Deleted, at: Timestamp::now() });
    }

    fn tell(&self, event: Event) {
        // Nobody may listen.
        let _ = self.events.0.send(event);
    }
}
