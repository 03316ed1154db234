//! Streams that clients open and name, for a later request of theirs to use: an archive, credentials, progress.
//!
//! What always holds: a stream is used by one request; the number of those that wait is bounded, and so is the time that each waits;
//! its name is free again when it has ended. What is on its way in either direction is bounded.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::any::Any;
use crate::error::{Error, Result};
use crate::namespaces::Namespace;

/// Streams that wait for a request at one time.
const MAX_WAITING: usize = 1024;
/// How long each waits.
pub const WAIT: Duration = Duration::from_secs(60);
/// Longest name in bytes.
const MAX_NAME: usize = 256;
/// Messages on their way, in each direction.
const QUEUE: usize = 4;

/// What comes from the client: messages, and then nothing if it has ended the stream in order.
pub type Received = std::result::Result<Any, Broken>;

/// The client went away in the middle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken(pub String);

/// The daemon's end. Dropping it ends the stream.
#[derive(Debug)]
pub struct Stream {
    pub from_client: mpsc::Receiver<Received>,
    pub to_client: mpsc::Sender<Any>,
}

/// The client's end, for whoever serves it.
#[derive(Debug)]
pub struct Served {
    /// Closed when the daemon wants no more.
    pub to_daemon: mpsc::Sender<Received>,
    /// Closed when the daemon has said everything.
    pub from_daemon: mpsc::Receiver<Any>,
    _name: Name,
}

type Key = (Namespace, String);
/// `None`: in use.
type Waiting = HashMap<Key, Option<Stream>>;

/// All streams.
#[derive(Debug, Default)]
pub struct Streams(Mutex<Waiting>);

#[derive(Debug)]
struct Name {
    streams: Arc<Streams>,
    key: Key,
}

impl Drop for Name {
    fn drop(&mut self) {
        self.streams.lock().remove(&self.key);
    }
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream under a name that no other has.
    pub fn open(self: &Arc<Self>, namespace: &Namespace, name: &str) -> Result<Served> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Error::invalid("stream id", format!("must be 1 to {MAX_NAME} bytes")));
        }
        let mut all = self.lock();
        if all.values().filter(|stream| stream.is_some()).count() >= MAX_WAITING {
            return Err(Error::ResourceExhausted {
                what: format!("stream {name:?}"),
                limit: "streams that wait for a request",
                max: MAX_WAITING as u64,
            });
        }
        let key = (namespace.clone(), name.to_owned());
        let Entry::Vacant(slot) = all.entry(key.clone()) else {
            return Err(Error::already_exists("stream", name));
        };
        let (to_daemon, from_client) = mpsc::channel(QUEUE);
        let (to_client, from_daemon) = mpsc::channel(QUEUE);
        slot.insert(Some(Stream { from_client, to_client }));
        let name = Name { streams: Arc::clone(self), key };
        Ok(Served { to_daemon, from_daemon, _name: name })
    }

    /// The stream of that name, for the caller alone.
    pub fn take(&self, namespace: &Namespace, name: &str) -> Result<Stream> {
        let mut all = self.lock();
        let slot = all.get_mut(&(namespace.clone(), name.to_owned()));
        slot.and_then(Option::take).ok_or_else(|| Error::not_found("stream", name))
    }

    /// Ends a stream that nobody has taken. `false`: it is in use.
    pub fn expire(&self, served: &Served) -> bool {
        let mut all = self.lock();
        all.get_mut(&served._name.key).and_then(Option::take).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_is_taken_once_and_its_name_is_free_in_the_end() {
        let streams = Arc::new(Streams::default());
        let (one, two) = (Namespace::parse("one").unwrap(), Namespace::parse("two").unwrap());
        let served = streams.open(&one, "s").unwrap();
        assert!(streams.open(&one, "s").unwrap_err().is_already_exists());
        let _other = streams.open(&two, "s").unwrap();
        let stream = streams.take(&one, "s").unwrap();
        assert!(streams.take(&one, "s").unwrap_err().is_not_found());
        assert!(!streams.expire(&served), "it is in use");
        served.to_daemon.send(Ok(Any::new("t", "x"))).await.unwrap();
        drop(stream);
        assert!(served.to_daemon.is_closed());
        drop(served);
        let again = streams.open(&one, "s").unwrap();
        assert!(streams.expire(&again));
        assert!(streams.take(&one, "s").unwrap_err().is_not_found());
    }

    #[test]
    fn waiting_streams_are_bounded() {
        let streams = Arc::new(Streams::default());
        let namespace = Namespace::parse("one").unwrap();
        let open = |name: usize| streams.open(&namespace, &name.to_string());
        let all: Vec<_> = (0..MAX_WAITING).map(|name| open(name).unwrap()).collect();
        assert!(matches!(open(MAX_WAITING), Err(Error::ResourceExhausted { .. })));
        drop(all);
        open(MAX_WAITING).unwrap();
        assert!(streams.open(&namespace, "").is_err());
    }
}
