//! What happens to pods and containers, told to whoever listens.

use jiff::Timestamp;
use tokio::sync::broadcast;

use super::Pods;

/// Events that a listener may be behind; one that falls back further misses some.
const BEHIND: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    Created,
    Started,
    Stopped,
    Deleted,
}

#[derive(Clone, Debug)]
pub struct Event {
    /// Of the container, or of the pod itself.
    pub id: String,
    pub pod: String,
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
        let event = Event { id: id.to_owned(), pod: pod.to_owned(), what, at: Timestamp::now() };
        // Nobody may listen.
        let _ = self.events.0.send(event);
    }
}
