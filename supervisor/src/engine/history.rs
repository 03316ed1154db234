//! What happened to containers, images and volumes, as `longshore events` shows it: the newest are kept for those who ask
//! about the past, new ones go to everyone who listens. A listener that does not keep up is told so and ended.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast;

/// Events kept for `--since`.
pub const KEPT: usize = 1024;

/// Bytes of the kept events: of larger ones fewer are kept.
const KEPT_BYTES: usize = 4 << 20;

/// Events that may wait for one listener.
const WAITING: usize = 1024;

/// Most bytes of one event's attributes. Labels come from images, which are a stranger's: the longest are left out.
const EVENT_BYTES: usize = 32 << 10;

/// Most bytes of an action, which may hold a command line.
const ACTION_BYTES: usize = 4 << 10;

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

impl Event {
    fn bytes(&self) -> usize {
        let attributes = self.attributes.iter().map(|(key, value)| key.len() + value.len());
        self.action.len() + self.actor.len() + attributes.sum::<usize>()
    }

    /// Cuts what is too long.
    fn fit(&mut self) {
        if self.action.len() > ACTION_BYTES {
            let end = self.action.floor_char_boundary(ACTION_BYTES);
            self.action = format!("{}…", &self.action[..end]).into();
        }
        while self.bytes() > EVENT_BYTES + ACTION_BYTES {
            let longest = self.attributes.iter().max_by_key(|(key, value)| key.len() + value.len());
            let Some(key) = longest.map(|(key, _)| key.clone()) else { break };
            self.attributes.remove(&key);
        }
    }
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
    kept: Mutex<Kept>,
    sender: broadcast::Sender<Arc<Event>>,
}

#[derive(Default)]
struct Kept {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
}

impl Kept {
    fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.bytes();
        self.events.push_back(event);
        while self.events.len() > KEPT || self.bytes > KEPT_BYTES {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.bytes();
        }
    }
}

impl Default for History {
    fn default() -> History {
        History { kept: Mutex::default(), sender: broadcast::Sender::new(WAITING) }
    }
}

impl History {
    pub fn record(&self, mut event: Event) {
        event.fit();
        let event = Arc::new(event);
        let mut kept = self.lock();
        kept.push(event.clone());
        // Nobody listening is no error. Sent under the lock, so that nothing falls between past and present.
        let _ = self.sender.send(event);
    }

    /// What is kept since a moment, and what comes.
    pub fn listen(&self, since: Option<Timestamp>) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let kept = self.lock();
        let past = match since {
            Some(since) => kept.events.iter().filter(|event| event.time >= since).cloned().collect(),
            None => Vec::new(),
        };
        (past, self.sender.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(labels: usize, length: usize) -> Event {
        let label = |number| (format!("label{number:04}"), "x".repeat(length));
        let mut attributes: BTreeMap<String, String> = (0..labels).map(label).collect();
        attributes.insert("name".to_owned(), "web".to_owned());
        Event {
            time: Timestamp::now(),
            subject: Subject::Container,
            action: "y".repeat(length).into(),
            actor: "a".repeat(64),
            attributes,
        }
    }

    #[test]
    fn labels_of_a_stranger_do_not_fill_the_memory() {
        let history = History::default();
        let (_, mut coming) = history.listen(None);
        for _ in 0..2 * KEPT {
            history.record(event(10, 1 << 20));
            history.record(event(900, 100));
        }
        let kept: usize = history.lock().events.iter().map(|event| event.bytes()).sum();
        assert!(kept <= KEPT_BYTES && kept == history.lock().bytes, "{kept}");
        assert!(history.lock().events.iter().all(|event| event.attributes["name"] == "web"));
        assert!(matches!(coming.try_recv(), Err(broadcast::error::TryRecvError::Lagged(_))));
        assert!(coming.try_recv().unwrap().bytes() <= EVENT_BYTES + ACTION_BYTES);
    }
}
