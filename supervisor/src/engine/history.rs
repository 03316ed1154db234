//! What happened to containers, images and volumes, as `longshore events` shows it: the newest are kept for those who ask
//! about the past, new ones go to everyone who listens. A listener that does not keep up is told so and ended.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast;

/// Events kept for `--since`.
pub const KEPT: usize = 1024;

/// Events that may wait for one listener.
const WAITING: usize = 1024;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub time: Timestamp,
    pub subject: Subject,
    /// `start`, `exec_create: sh -c true`, `health_status: healthy`, …
    pub action: Cow<'static, str>,
    /// Container id, the image's name or id, or the volume's name.
    pub actor: String,
    pub attributes: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Container,
    Image,
    Network,
    Volume,
}

impl Subject {
    pub fn as_str(self) -> &'static str {
        match self {
            Subject::Container => "container",
            Subject::Image => "image",
            Subject::Network => "network",
            Subject::Volume => "volume",
        }
    }
}

/// All events of this daemon's life.
pub struct History {
    kept: Mutex<VecDeque<Event>>,
    sender: broadcast::Sender<Event>,
}

impl Default for History {
    fn default() -> History {
        History { kept: Mutex::default(), sender: broadcast::Sender::new(WAITING) }
    }
}

impl History {
    pub fn record(&self, event: Event) {
        let mut kept = self.lock();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(event.clone());
        // Nobody listening is no error. Sent under the lock, so that nothing falls between past and present.
        let _ = self.sender.send(event);
    }

    /// What is kept since a moment, and what comes.
    pub fn listen(&self, since: Option<Timestamp>) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let kept = self.lock();
        let past = match since {
            Some(since) => kept.iter().filter(|event| event.time >= since).cloned().collect(),
            None => Vec::new(),
        };
        (past, self.sender.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
