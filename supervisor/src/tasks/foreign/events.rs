//! Events that shims send to the daemon's second socket.
//!
//! What always holds: they are published in the order in which each shim sends them, with their own topic, time and words; one
//! that is sent twice, and the end of a process that was published already, are dropped.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use longshore_proto::containerd::events as ev;
use longshore_proto::longshore::shim::v1::ExitRecord;
use prost::Message;

use super::super::types::Exit;
use super::super::{Inner, Slot, Task, TaskManager, limits, wire};
use super::{Foreign, bundle};
use crate::events::Event;
use crate::namespaces::Namespace;

/// Containers that were deleted a moment ago: what their shims still say of their end was told already.
#[derive(Default)]
pub struct Departed(Mutex<VecDeque<(Namespace, String)>>);

impl Departed {
    pub fn note(&self, namespace: &Namespace, id: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= limits::DEPARTED {
            all.pop_front();
        }
        all.push_back((namespace.clone(), id.to_owned()));
    }

    /// It exists again.
    pub fn forget(&self, namespace: &Namespace, id: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(other, name)| other != namespace || name != id);
    }

    fn contains(&self, namespace: &Namespace, id: &str) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().any(|(other, name)| other == namespace && name == id)
    }
}

/// Which container an event of a task is about.
fn container_of(event: &Event) -> Option<String> {
    /// In every one of them the container is the first field, except in those of I/O.
    #[derive(Clone, PartialEq, Message)]
    struct First {
        #[prost(string, tag = "1")]
        container_id: String,
    }
    if !event.topic.starts_with("/tasks/") {
        return None;
    }
    First::decode(event.payload.value.clone())
        .ok()
        .map(|first| first.container_id)
        .filter(|id| !id.is_empty())
}

impl TaskManager {
    /// Takes in an event that a shim sent, and publishes it.
    pub fn forwarded(&self, event: Event) {
        let inner = &self.inner;
        let Some(id) = container_of(&event) else { return inner.events.forward(event) };
        match inner.task_or_made(&event.namespace, &id) {
            Some(task) => match &task.foreign {
                Some(foreign) => take_in(inner, &task, foreign, event),
                None => inner.events.forward(event),
            },
            None if inner.departed.contains(&event.namespace, &id)
                && matches!(event.topic.as_str(), "/tasks/exit" | "/tasks/delete") =>
            {
                tracing::debug!(container = id, topic = event.topic, "an event that was told already");
            }
            None => inner.events.forward(event),
        }
    }
}

impl Inner {
    fn task_or_made(&self, namespace: &Namespace, id: &str) -> Option<Arc<Task>> {
        match self.slots().get(namespace)?.get(id)? {
            Slot::Task(task) | Slot::Making(task) => Some(task.clone()),
            Slot::Reserved => None,
        }
    }
}

fn digest(event: &Event) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&event.topic, event.timestamp, &event.payload.type_url, &event.payload.value).hash(&mut hasher);
    hasher.finish()
}

fn take_in(manager: &Inner, task: &Task, foreign: &Foreign, event: Event) {
    if !foreign.is_news(digest(&event)) {
        tracing::debug!(container = task.id, topic = event.topic, "an event came twice");
        return;
    }
    let value = event.payload.value.clone();
    match event.topic.as_str() {
        "/tasks/exit" => match ev::TaskExit::decode(value) {
            Ok(exit) => exited(manager, task, foreign, &exit, event),
            Err(error) => malformed(task, &event, &error),
        },
        "/tasks/delete" => match ev::TaskDelete::decode(value) {
            Ok(deleted) if deleted.id.is_empty() || deleted.id == task.id => {
                if foreign.claim_delete() {
                    task.state().delete_published = true;
                    manager.events.forward(event);
                }
            }
            // An exec's: the request that deletes it takes it away.
            Ok(_) => manager.events.forward(event),
            Err(error) => malformed(task, &event, &error),
        },
        topic => {
            let applied = task.state().apply(&task.id, topic, &value);
            match applied {
                Ok(()) => manager.events.forward(event),
                Err(error) => malformed(task, &event, &error),
            }
        }
    }
}

fn exited(manager: &Inner, task: &Task, foreign: &Foreign, exit: &ev::TaskExit, event: Event) {
    let exec_id = if exit.id == task.id { "" } else { exit.id.as_str() };
    {
        let mut state = task.state();
        let oom_killed = state.oom;
        let end = Exit { status: exit.exit_status, at: wire::timestamp(exit.exited_at.as_ref()), oom_killed };
        let process = if exec_id.is_empty() { Some(&mut state.init) } else { state.execs.get_mut(exec_id) };
        if let Some(process) = process {
            process.exited(end);
        }
    }
    if !foreign.claim_exit(exec_id) {
        return;
    }
    manager.events.forward(event);
    note_exit(task, exec_id, exit.pid, exit.exit_status, exit.exited_at);
}

/// Notes for the next daemon that an end was published.
pub fn note_exit(task: &Task, exec_id: &str, pid: u32, status: u32, at: Option<prost_types::Timestamp>) {
    let record = ExitRecord {
        container_id: task.id.clone(),
        exec_id: exec_id.to_owned(),
        pid,
        exit_status: status,
        exited_at: at,
        oom_killed: task.state().oom,
        ..ExitRecord::default()
    };
    if let Err(error) = bundle::note_told(&task.bundle, &record)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(container = task.id, exec_id, %error, "cannot note that an exit was published");
    }
}

fn malformed(task: &Task, event: &Event, error: &prost::DecodeError) {
    tracing::warn!(container = task.id, topic = event.topic, %error, "an event of the shim is malformed");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_that_left_are_remembered_for_a_while() {
        let departed = Departed::default();
        let namespace = Namespace::parse("n").unwrap();
        departed.note(&namespace, "first");
        assert!(departed.contains(&namespace, "first"));
        for number in 0..limits::DEPARTED {
            departed.note(&namespace, &number.to_string());
        }
        assert!(!departed.contains(&namespace, "first"));
        departed.forget(&namespace, "7");
        assert!(!departed.contains(&namespace, "7"));
    }
}
