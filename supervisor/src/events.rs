//! The event bus: what happened, published after it was made durable, to every subscriber whose filters match.
//!
//! What always holds: publishing never blocks; a subscriber that does not keep up is ended with an error that
//! names the bound, and no other notices; what happened to a container while its clients could not listen, because the
//! daemon was started again, they are told when they come back.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::any::Any;
use crate::error::{Error, Result};
use crate::filters::{Adaptor, Filter};
use crate::namespaces::Namespace;
use backlog::Backlog;
pub use backlog::Tasks;

mod backlog;
mod fields;

/// Events that wait for one subscriber.
pub const MAX_WAITING: usize = 4096;
/// Subscribers at a time.
pub const MAX_SUBSCRIBERS: usize = 1024;
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

/// An event as all its subscribers share it.
#[derive(Debug)]
pub struct Published {
    event: Event,
    wire: OnceLock<Bytes>,
}

impl Published {
    fn new(event: Event) -> Arc<Self> {
        Arc::new(Self { event, wire: OnceLock::new() })
    }

    /// Its wire form, which `encode` makes for the first who asks, and which is shared by all others.
    pub fn wire(&self, encode: impl FnOnce(&Event) -> Bytes) -> Bytes {
        self.wire.get_or_init(|| encode(&self.event)).clone()
    }
}

impl Deref for Published {
    type Target = Event;
    fn deref(&self) -> &Event {
        &self.event
    }
}

struct Subscriber {
    filters: Filter,
    sender: mpsc::Sender<Arc<Published>>,
    missed: Arc<AtomicBool>,
}

#[derive(Default)]
struct Subscribers {
    next: u64,
    all: BTreeMap<u64, Subscriber>,
    backlog: Backlog,
}

#[derive(Default)]
pub struct EventBus {
    subscribers: Mutex<Subscribers>,
}

/// A subscriber's end: events in the order in which they were published.
pub struct Subscription {
    receiver: mpsc::Receiver<Arc<Published>>,
    /// An event could not be queued: the subscription is over.
    missed: Arc<AtomicBool>,
}

impl Subscription {
    /// The next event; an error once if events were missed because this subscriber was too slow, after
    /// which the subscription is over; `None` when the bus is gone.
    pub async fn next(&mut self) -> Option<Result<Arc<Published>>> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// [`Subscription::next`], for those who poll.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Arc<Published>>>> {
        Poll::Ready(match ready!(self.receiver.poll_recv(context)) {
            Some(event) => Some(Ok(event)),
            None if self.missed.swap(false, Ordering::Relaxed) => Some(Err(Error::ResourceExhausted {
                what: "event subscription ended: events were not read fast enough".into(),
                limit: "waiting events of one subscriber",
                max: MAX_WAITING as u64,
            })),
            None => None,
        })
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

    /// Publishes an event that carries its own time.
    pub fn forward(&self, event: Event) {
        tracing::debug!(namespace = %event.namespace, topic = %event.topic, "event");
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.backlog.keep(&event);
        let event = Published::new(event);
        subscribers.all.retain(|id, subscriber| {
            if !subscriber.filters.matches(&event.event) {
                return !subscriber.sender.is_closed();
            }
            match subscriber.sender.try_send(Arc::clone(&event)) {
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

    /// Clients are about to come, some of them back: of these tasks they may have missed something.
    pub fn serve(&self, tasks: Tasks) {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).backlog.serve(tasks);
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
        for event in subscribers.backlog.events().filter(|event| filters.matches(*event)) {
            // There is room for all of them, and the other end is still here.
            let _ = sender.try_send(Published::new(event.clone()));
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
    async fn whoever_comes_back_is_told_what_became_of_older_tasks() {
        let bus = EventBus::new();
        let namespace = Namespace::parse("n").unwrap();
        let exit = |id: &str| {
            let event = longshore_proto::containerd::events::TaskExit {
                container_id: id.into(),
                ..Default::default()
            };
            bus.publish_message(&namespace, "/tasks/exit", "containerd.events.TaskExit", &event);
        };
        exit("missed");
        bus.serve(["missed", "late"].map(|id| (namespace.clone(), id.to_owned())).into());
        exit("late");
        exit("new");
        bus.publish(&namespace, "/images/create", Any::default());
        let mut back = bus.subscribe(&["topic~=|^/tasks/|"]).unwrap();
        exit("new");
        for id in ["missed", "late", "new"] {
            let event = back.next().await.unwrap().unwrap();
            assert_eq!(event.field(&["event", "container_id"]).unwrap(), id);
        }
        let mut picky = bus.subscribe(&["namespace==other"]).unwrap();
        drop(bus);
        assert!(picky.next().await.is_none());
        assert!(back.next().await.is_none(), "a task of this daemon is not told of again");
    }

    #[test]
    fn topics_are_checked() {
        check_topic("/tasks/exec-added").unwrap();
        for bad in ["", "tasks", "/", "/a//b", "/a b"] {
            assert!(check_topic(bad).is_err(), "{bad}");
        }
    }
}
