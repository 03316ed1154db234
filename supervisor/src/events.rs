//! The event bus: what happened, published after it was made durable, to every subscriber whose filters match.
//!
//! What always holds: publishing never blocks; a subscriber that does not keep up is ended with an error that
//! names the bound, and no other notices.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::any::Any;
use crate::error::{Error, Result};
use crate::filters::{Adaptor, Filter};
use crate::namespaces::Namespace;

mod fields;

/// Events that wait for one subscriber.
pub const MAX_WAITING: usize = 4096;
/// Subscribers at a time.
pub const MAX_SUBSCRIBERS: usize = 1024;
/// How long after the start clients that come back receive what happened while the daemon was away.
pub const KEPT_FOR: Duration = Duration::from_secs(30);
/// Longest topic in bytes.
const MAX_TOPIC: usize = 256;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub timestamp: Timestamp,
    pub namespace: Namespace,
    /// `/tasks/exit` and the like.
    pub topic: String,
    pub payload: Any,
}

impl Adaptor for Event {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["namespace"] => Some(self.namespace.to_string()),
            ["topic"] => Some(self.topic.clone()),
            ["event", rest @ ..] => fields::of(&self.payload, rest),
            _ => None,
        }
    }
}

struct Subscriber {
    filters: Filter,
    sender: mpsc::Sender<Event>,
    missed: Arc<AtomicBool>,
}

#[derive(Default)]
struct Subscribers {
    next: u64,
    all: BTreeMap<u64, Subscriber>,
    missed: Missed,
}

/// What was found out at start about the time before: nobody could subscribe before it was published, so whoever
/// subscribes soon afterwards receives it first.
#[derive(Default)]
enum Missed {
    #[default]
    None,
    /// The start is under way.
    Collected(Vec<Event>),
    /// Kept for clients that come back.
    Kept(Vec<Event>, Instant),
}

impl Missed {
    fn collect(&mut self, event: &Event) {
        if let Self::Collected(events) = self
            && events.len() < MAX_WAITING
        {
            events.push(event.clone());
        }
    }
}

#[derive(Default)]
pub struct EventBus {
    subscribers: Mutex<Subscribers>,
}

/// A subscriber's end: events in the order in which they were published.
pub struct Subscription {
    receiver: mpsc::Receiver<Event>,
    /// An event could not be queued: the subscription is over.
    missed: Arc<AtomicBool>,
}

impl Subscription {
    /// The next event; an error once if events were missed because this subscriber was too slow, after
    /// which the subscription is over; `None` when the bus is gone.
    pub async fn next(&mut self) -> Option<Result<Event>> {
        match self.receiver.recv().await {
            Some(event) => Some(Ok(event)),
            None if self.missed.swap(false, Ordering::Relaxed) => Some(Err(Error::ResourceExhausted {
                what: "event subscription ended: events were not read fast enough".into(),
                limit: "waiting events of one subscriber",
                max: MAX_WAITING as u64,
            })),
            None => None,
        }
    }
}

impl EventBus {
    pub fn new() -> Self {
        Self::default()
    }

    /// Publishes what happened now.
    pub fn publish(&self, namespace: &Namespace, topic: &str, payload: Any) {
        self.forward(Event {
            timestamp: Timestamp::now(),
            namespace: namespace.clone(),
            topic: topic.to_owned(),
            payload,
        });
    }

    /// Publishes the protobuf message `name` (its full name, such as `containerd.events.TaskExit`).
    pub fn publish_message<M: prost::Message>(
        &self,
        namespace: &Namespace,
        topic: &str,
        name: &str,
        message: &M,
    ) {
        self.publish(namespace, topic, Any::pack(name, message));
    }

    /// From here on what is published is kept for those who subscribe after [`EventBus::started`].
    pub fn starting(&self) {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.missed = Missed::Collected(Vec::new());
    }

    /// What was published since [`EventBus::starting`] is delivered first to everybody who subscribes within
    /// [`KEPT_FOR`].
    pub fn started(&self) {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Missed::Collected(events) = std::mem::take(&mut subscribers.missed)
            && !events.is_empty()
        {
            subscribers.missed = Missed::Kept(events, Instant::now() + KEPT_FOR);
        }
    }

    /// Publishes an event that carries its own time.
    pub fn forward(&self, event: Event) {
        tracing::debug!(namespace = %event.namespace, topic = %event.topic, "event");
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.missed.collect(&event);
        subscribers.all.retain(|id, subscriber| {
            if !subscriber.filters.matches(&event) {
                return !subscriber.sender.is_closed();
            }
            match subscriber.sender.try_send(event.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Closed(_)) => false,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    subscriber.missed.store(true, Ordering::Relaxed);
                    tracing::warn!(
                        subscriber = id,
                        "ended an event subscription: {MAX_WAITING} events wait for it"
                    );
                    false
                }
            }
        });
    }

    /// Subscribes to events that match one of `filters`; no filter matches everything.
    pub fn subscribe<S: AsRef<str>>(&self, filters: &[S]) -> Result<Subscription> {
        let filters = Filter::parse_all(filters)?;
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.all.retain(|_, subscriber| !subscriber.sender.is_closed());
        if subscribers.all.len() >= MAX_SUBSCRIBERS {
            return Err(Error::ResourceExhausted {
                what: "event subscription".into(),
                limit: "event subscribers",
                max: MAX_SUBSCRIBERS as u64,
            });
        }
        let id = subscribers.next;
        subscribers.next += 1;
        let missed = Arc::<AtomicBool>::default();
        match &subscribers.missed {
            Missed::Kept(_, until) if *until < Instant::now() => subscribers.missed = Missed::None,
            Missed::Kept(events, _) => {
                for event in events.iter().filter(|event| filters.matches(*event)) {
                    // There is room: no more are kept than may wait.
                    let _ = sender.try_send(event.clone());
                }
            }
            Missed::None | Missed::Collected(_) => {}
        }
        subscribers.all.insert(id, Subscriber { filters, sender, missed: Arc::clone(&missed) });
        Ok(Subscription { receiver, missed })
    }
}

/// Refuses what is no topic: `/word/word…`.
pub fn check_topic(topic: &str) -> Result<()> {
    let refuse = |why: &str| {
        Err(Error::invalid(format!("topic {:?}", topic.chars().take(64).collect::<String>()), why))
    };
    if topic.len() > MAX_TOPIC {
        return refuse("is longer than 256 bytes");
    }
    let Some(rest) = topic.strip_prefix('/') else {
        return refuse("must begin with '/'");
    };
    for component in rest.split('/') {
        crate::namespaces::check_identifier("topic component", component)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_subscriber_is_told_and_others_go_on() {
        let bus = EventBus::new();
        let namespace = Namespace::parse("n").unwrap();
        let mut slow = bus.subscribe::<&str>(&[]).unwrap();
        let mut picky = bus.subscribe(&["topic==\"/b\""]).unwrap();
        for _ in 0..=MAX_WAITING {
            bus.publish(&namespace, "/a", Any::default());
        }
        bus.publish(&namespace, "/b", Any::default());
        assert_eq!(picky.next().await.unwrap().unwrap().topic, "/b");
        for _ in 0..MAX_WAITING {
            assert_eq!(slow.next().await.unwrap().unwrap().topic, "/a");
        }
        assert!(matches!(slow.next().await, Some(Err(Error::ResourceExhausted { .. }))));
        assert!(slow.next().await.is_none());
    }

    #[tokio::test]
    async fn what_was_missed_is_told_to_clients_that_come_back() {
        let bus = EventBus::new();
        let namespace = Namespace::parse("n").unwrap();
        bus.starting();
        bus.publish(&namespace, "/tasks/exit", Any::default());
        bus.publish(&namespace, "/other", Any::default());
        bus.started();
        bus.publish(&namespace, "/too-late", Any::default());
        for _ in 0..2 {
            let mut back = bus.subscribe(&["topic~=|^/tasks/|"]).unwrap();
            assert_eq!(back.next().await.unwrap().unwrap().topic, "/tasks/exit");
            bus.publish(&namespace, "/tasks/new", Any::default());
            assert_eq!(back.next().await.unwrap().unwrap().topic, "/tasks/new");
        }
    }

    #[test]
    fn topics_are_checked() {
        check_topic("/tasks/exec-added").unwrap();
        for bad in ["", "tasks", "/", "/a//b", "/a b"] {
            assert!(check_topic(bad).is_err(), "{bad}");
        }
    }
}
