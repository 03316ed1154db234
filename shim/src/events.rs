//! The containers' events, numbered and kept, so that a daemon that was away misses none.
//!
//! Those of a container's first process are kept for as long as the container, and a while longer; of the others the newest
//! [`limits::EVENTS`]: who asks for older ones sees the gap in the numbers.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::SystemTime;

use longshore_proto::containerd::events;
use longshore_proto::longshore::shim::v1::{Event, EventsRequest};
use prost::Message;
use prost_types::Any;

use crate::connection::Open;
use crate::dispatch::Answer;
use crate::error::Result;
use crate::limits;
use crate::process::Caller;
use crate::server::Shim;

/// What happened.
pub enum What {
    Create(events::TaskCreate),
    Start(events::TaskStart),
    Oom(events::TaskOom),
    Exit(events::TaskExit),
    Delete(events::TaskDelete),
    ExecAdded(events::TaskExecAdded),
    ExecStarted(events::TaskExecStarted),
    Paused(events::TaskPaused),
    Resumed(events::TaskResumed),
    Checkpointed(events::TaskCheckpointed),
}

impl What {
    fn encode(&self) -> (&'static str, &'static str, Vec<u8>) {
        match self {
            Self::Create(m) => ("/tasks/create", "containerd.events.TaskCreate", m.encode_to_vec()),
            Self::Start(m) => ("/tasks/start", "containerd.events.TaskStart", m.encode_to_vec()),
            Self::Oom(m) => ("/tasks/oom", "containerd.events.TaskOOM", m.encode_to_vec()),
            Self::Exit(m) => ("/tasks/exit", "containerd.events.TaskExit", m.encode_to_vec()),
            Self::Delete(m) => ("/tasks/delete", "containerd.events.TaskDelete", m.encode_to_vec()),
            Self::ExecAdded(m) => ("/tasks/exec-added", "containerd.events.TaskExecAdded", m.encode_to_vec()),
            Self::ExecStarted(m) => {
                ("/tasks/exec-started", "containerd.events.TaskExecStarted", m.encode_to_vec())
            }
            Self::Paused(m) => ("/tasks/paused", "containerd.events.TaskPaused", m.encode_to_vec()),
            Self::Resumed(m) => ("/tasks/resumed", "containerd.events.TaskResumed", m.encode_to_vec()),
            Self::Checkpointed(m) => {
                ("/tasks/checkpointed", "containerd.events.TaskCheckpointed", m.encode_to_vec())
            }
        }
    }

    /// The id of its container.
    fn container(&self) -> &str {
        match self {
            Self::Create(m) => &m.container_id,
            Self::Start(m) => &m.container_id,
            Self::Oom(m) => &m.container_id,
            Self::Exit(m) => &m.container_id,
            Self::Delete(m) => &m.container_id,
            Self::ExecAdded(m) => &m.container_id,
            Self::ExecStarted(m) => &m.container_id,
            Self::Paused(m) => &m.container_id,
            Self::Resumed(m) => &m.container_id,
            Self::Checkpointed(m) => &m.container_id,
        }
    }

    /// Whether it belongs to the life of the container's first process.
    fn is_lasting(&self) -> bool {
        match self {
            Self::Create(_) | Self::Start(_) | Self::Delete(_) => true,
            Self::Exit(exit) => exit.id == exit.container_id,
            _ => false,
        }
    }
}

struct Kept {
    sequence: u64,
    container: Rc<str>,
    lasting: bool,
    /// Whether nothing more will be heard of the container.
    is_last: bool,
    encoded: Box<[u8]>,
}

/// The events so far.
#[derive(Default)]
pub struct EventLog {
    last: u64,
    kept: VecDeque<Kept>,
    /// How many of `kept` are not lasting.
    passing: usize,
}

impl EventLog {
    /// Numbers and keeps an event; gives back what subscribers get.
    fn add(&mut self, what: &What, now: SystemTime) -> &[u8] {
        self.last += 1;
        let (topic, name, value) = what.encode();
        let event = Event {
            sequence: self.last,
            timestamp: Some(now.into()),
            topic: topic.to_owned(),
            event: Some(Any { type_url: name.to_owned(), value }),
        };
        let lasting = what.is_lasting();
        if !lasting {
            self.make_room();
        }
        let encoded = event.encode_to_vec().into_boxed_slice();
        let last = self.kept.back().map(|kept| &kept.container);
        let container = last.filter(|last| ***last == *what.container()).cloned();
        let container = container.unwrap_or_else(|| what.container().into());
        let is_last = matches!(what, What::Delete(_));
        self.kept.push_back(Kept { sequence: self.last, container, lasting, is_last, encoded });
        self.kept.back().map(|kept| &*kept.encoded).unwrap_or_default()
    }

    fn make_room(&mut self) {
        if self.passing < limits::EVENTS {
            self.passing += 1;
        } else if let Some(oldest) = self.kept.iter().position(|kept| !kept.lasting) {
            self.kept.remove(oldest);
        }
    }

    /// What a subscriber that has everything up to `after` still needs.
    pub fn since(&self, after: u64) -> impl Iterator<Item = &[u8]> {
        self.of("", after)
    }

    /// As [`EventLog::since`], of one container; of all if it has no name.
    fn of<'a>(&'a self, container: &'a str, after: u64) -> impl Iterator<Item = &'a [u8]> {
        let wanted = move |kept: &&Kept| container.is_empty() || *kept.container == *container;
        let late = self.kept.iter().filter(move |kept| kept.sequence > after);
        late.filter(wanted).map(|kept| &*kept.encoded)
    }

    /// A container of this name is made: what is known of one before it is nobody's any more, nor what is known of those that were
    /// deleted long ago.
    pub fn forget_of(&mut self, container: &str) {
        let deleted: Vec<Rc<str>> =
            self.kept.iter().filter(|kept| kept.is_last).map(|kept| kept.container.clone()).collect();
        let long_ago = deleted.len().saturating_sub(limits::DELETED);
        for (n, id) in deleted.iter().enumerate() {
            if n < long_ago || **id == *container {
                self.drop_of(id);
            }
        }
    }

    fn drop_of(&mut self, container: &str) {
        let passing = &mut self.passing;
        self.kept.retain(|kept| {
            let stays = *kept.container != *container;
            *passing -= usize::from(!stays && !kept.lasting);
            stays
        });
    }
}

impl EventLog {
    /// The number of the newest event.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Forgets events that nobody will ask for again.
    pub fn forget(&mut self, up_to: u64) {
        while let Some(kept) = self.kept.pop_front_if(|kept| kept.sequence <= up_to) {
            self.passing -= usize::from(!kept.lasting);
        }
    }
}

impl Shim {
    /// Keeps an event and tells every subscriber.
    pub fn emit(&mut self, what: &What) {
        let encoded = self.events.add(what, SystemTime::now());
        let wanted = |open: &Open| match open {
            Open::Events(None) => true,
            Open::Events(Some(container)) => **container == *what.container(),
            _ => false,
        };
        for connection in self.connections.values_mut() {
            let streams: Vec<u32> = connection
                .streams
                .iter()
                .filter_map(|(stream, open)| wanted(open).then_some(*stream))
                .collect();
            for stream in streams {
                connection.send_raw(stream, encoded);
            }
        }
        if self.publisher.is_some() {
            self.publish();
        }
    }

    /// `Events`: what was missed, then the stream stays open.
    pub fn subscribe(&mut self, caller: Caller, request: EventsRequest) -> Result<Answer> {
        self.assigned()?;
        if let Some(connection) = self.connections.get_mut(&caller.connection) {
            let container = Some(request.id.as_str()).filter(|id| !id.is_empty());
            connection.streams.insert(caller.stream, Open::Events(container.map(Into::into)));
            for encoded in self.events.of(&request.id, request.after) {
                connection.send_raw(caller.stream, encoded);
            }
        }
        Ok(Answer::Later)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(n: usize) -> What {
        What::ExecAdded(events::TaskExecAdded { container_id: "c".into(), exec_id: n.to_string() })
    }

    #[test]
    fn the_first_process_is_never_forgotten() {
        let mut log = EventLog::default();
        log.add(&What::Start(events::TaskStart { container_id: "c".into(), pid: 1 }), SystemTime::now());
        for n in 0..3 * limits::EVENTS {
            log.add(&added(n), SystemTime::now());
        }
        let kept: Vec<Event> = log.since(0).map(|bytes| Event::decode(bytes).unwrap()).collect();
        assert_eq!(kept.len(), limits::EVENTS + 1);
        assert_eq!(kept[0].topic, "/tasks/start");
        assert_eq!(kept.last().unwrap().sequence, 3 * limits::EVENTS as u64 + 1);
        assert_eq!(log.since(log.last).count(), 0);
    }

    #[test]
    fn a_container_that_is_deleted_is_forgotten_after_others() {
        let mut log = EventLog::default();
        let count = |log: &EventLog, id: &str| log.of(id, 0).count();
        for n in 0..limits::DELETED + 3 {
            let id = format!("c{n}");
            log.forget_of(&id);
            log.add(&What::Start(events::TaskStart { container_id: id.clone(), pid: 1 }), SystemTime::now());
            let added = events::TaskExecAdded { container_id: id.clone(), exec_id: "e".into() };
            log.add(&What::ExecAdded(added), SystemTime::now());
            log.add(
                &What::Delete(events::TaskDelete { container_id: id, ..Default::default() }),
                SystemTime::now(),
            );
        }
        assert_eq!((count(&log, "c0"), count(&log, "c1"), count(&log, "c2")), (0, 0, 3));
        assert_eq!(log.passing, limits::DELETED + 1);
        log.forget_of("c5");
        assert_eq!(count(&log, "c5"), 0, "one of its name is made");
        assert_eq!(count(&log, ""), 3 * (limits::DELETED - 1), "and the oldest goes, too");
    }

    #[test]
    fn a_subscriber_gets_what_it_has_not() {
        let mut log = EventLog::default();
        for n in 0..5 {
            log.add(&added(n), SystemTime::now());
        }
        let sequences: Vec<u64> = log.since(3).map(|bytes| Event::decode(bytes).unwrap().sequence).collect();
        assert_eq!(sequences, [4, 5]);
    }
}
