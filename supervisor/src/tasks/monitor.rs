//! One task of the event loop per container: it forwards what the shim reports, and notices when the shim dies.
//!
//! What always holds: the events of a shim are applied and published in their order, each once; a shim that dies is the
//! end of every process it had, published once, with what it wrote to disk or else 137; a connection that ends
//! while the shim lives is made anew, and nothing is missed.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_proto::containerd::events as ev;
use longshore_proto::longshore::shim::v1 as shim;
use prost::Message;

use super::bundle::Forwarded;
use super::client::{Connection, Failure, Incoming};
use super::process::ShimProcess;
use super::task::Task;
use super::types::{Exit, Status};
use super::{Inner, foreign, limits, orphan, wire};
use crate::any::Any;
use crate::events::Event;

/// What a process without an exit record ended with: as if killed by SIGKILL.
const LOST: u32 = 137;

/// Follows a task until its shim is gone, or, where it has others, too, the task is.
pub(super) fn watch(manager: &Arc<Inner>, task: Arc<Task>, events: Incoming<shim::Event>) {
    tokio::spawn(follow(manager.clone(), task, events));
}

async fn follow(manager: Arc<Inner>, task: Arc<Task>, mut events: Incoming<shim::Event>) {
    if let Some(process) = &task.shim {
        // The connection on which a task was started may also carry the stream of the client that started it. Should that
        // one be in the way in spite of its window, requests and events move to a connection of their own.
        let mut sharing = Sharing::Perhaps;
        while let Some(next) = read(&manager, &task, process, &mut events, sharing).await {
            events = next;
            sharing = Sharing::No;
        }
    }
    drop(events);
    task.drained.cancel();
    // A delete under way knows what became of the shim; otherwise it died.
    if let Ok(_turn) = task.turn("clean up after the shim").await {
        bury(&manager, &task).await;
    }
}

/// Whether the connection with the events may carry an attach too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Perhaps,
    No,
}

/// Reads one event stream to its end; another one if the shim lives on, `None` if it is gone.
async fn read(
    manager: &Inner,
    task: &Arc<Task>,
    process: &ShimProcess,
    events: &mut Incoming<shim::Event>,
    sharing: Sharing,
) -> Option<Incoming<shim::Event>> {
    let connection = events.connection().clone();
    let shared = sharing == Sharing::Perhaps;
    loop {
        tokio::select! {
            biased;
            event = events.next() => match event {
                Some(Ok(event)) => {
                    forward(manager, task, &event);
                    while let Some(Ok(event)) = events.try_next() {
                        forward(manager, task, &event);
                    }
                    task.note_forwarded();
                    if task.is_shared() && task.state().delete_published {
                        // The shim goes on for others.
                        return None;
                    }
                }
                Some(Err(failure)) => return reconnect(task, process, &failure.to_string()).await,
                None => return reconnect(task, process, "it ended the stream of events").await,
            },
            () = process.ended() => {
                drain(manager, task, events).await;
                return None;
            }
            () = connection.stalled(), if shared => match subscribe(task).await {
                Ok(next) => return Some(next),
                Err(error) => tracing::debug!(container = task.id, error, "cannot leave a stalled connection"),
            },
        }
    }
}

/// What a shim sent before it died is still in the socket.
async fn drain(manager: &Inner, task: &Arc<Task>, events: &mut Incoming<shim::Event>) {
    let rest = async {
        while let Some(Ok(event)) = events.next().await {
            forward(manager, task, &event);
        }
    };
    let _ = tokio::time::timeout(limits::SHIM_EXIT, rest).await;
    task.note_forwarded();
}

/// A new connection to a shim that lives, tried until it answers or is gone.
async fn reconnect(task: &Arc<Task>, process: &ShimProcess, why: &str) -> Option<Incoming<shim::Event>> {
    let mut pause = Duration::from_millis(100);
    loop {
        // The end of its connection is mostly the end of the shim.
        if process.ended_within(pause).await {
            return None;
        }
        match subscribe(task).await {
            Ok(events) => return Some(events),
            Err(error) => {
                tracing::warn!(
                    container = task.id,
                    shim = process.pid(),
                    why,
                    error,
                    "cannot reconnect to a shim"
                );
            }
        }
        pause = (pause * 2).min(Duration::from_secs(30));
    }
}

/// Opens a connection of its own for requests and events, from the last event on.
async fn subscribe(task: &Arc<Task>) -> Result<Incoming<shim::Event>, String> {
    let socket = task.bundle.connect(limits::REQUEST).await.map_err(|e| e.to_string())?;
    let connection = Connection::new(socket).map_err(|e| e.to_string())?;
    let request = shim::EventsRequest { after: task.state().sequence, id: task.id.clone() };
    let events = connection
        .pipeline(|p| p.server_stream(wire::SHIM, "Events", &request))
        .map_err(|failure: Failure| failure.to_string())?;
    task.state().control = Some(connection);
    Ok(events)
}

/// Applies and publishes an event.
pub(super) fn forward(manager: &Inner, task: &Task, event: &shim::Event) {
    if task.apply(event) {
        publish_event(manager, task, event);
    }
}

/// Publishes an event as the shim sent it.
pub(super) fn publish_event(manager: &Inner, task: &Task, event: &shim::Event) {
    manager.events.forward(Event {
        timestamp: wire::timestamp(event.timestamp.as_ref()),
        namespace: task.namespace.clone(),
        topic: event.topic.clone(),
        payload: event.event.clone().map(Any::from).unwrap_or_default(),
    });
}

impl Task {
    /// Notes for the next daemon what was published.
    pub(super) fn note_forwarded(&self) {
        let forwarded = {
            let state = self.state();
            Forwarded { sequence: state.sequence, exited: state.init.status() == Status::Stopped }
        };
        self.bundle.set_forwarded(forwarded);
    }
}

/// Ends every process of a task whose shim is gone. Doing it again changes nothing.
pub(super) async fn bury(manager: &Inner, task: &Task) {
    if task.state().control.take().is_none() && task.state().init.status() == Status::Stopped {
        return;
    }
    tracing::warn!(container = task.id, namespace = %task.namespace, "the shim of a container is gone");
    foreign::driven::clean_up(manager, &task.namespace, &task.id, &task.bundle).await;
    orphan::remove(manager, &task.id, &task.cgroups_path, Some(&task.bundle)).await;
    let execs: Vec<String> = task.state().execs.keys().cloned().collect();
    for exec_id in execs {
        end(manager, task, &exec_id);
    }
    end(manager, task, "");
    task.note_forwarded();
}

/// Ends one process, by its exit record or as lost.
pub(super) fn end(manager: &Inner, task: &Task, exec_id: &str) {
    let record = task.bundle.exit_record(exec_id).unwrap_or_else(|| {
        let record = shim::ExitRecord {
            container_id: task.id.clone(),
            exec_id: exec_id.to_owned(),
            exit_status: LOST,
            exited_at: Some(wire::wire_timestamp(Timestamp::now())),
            ..shim::ExitRecord::default()
        };
        if let Err(error) = task.bundle.write_exit_record(&record) {
            tracing::warn!(container = task.id, exec_id, %error, "cannot write an exit record");
        }
        record
    });
    let exit = wire::exit(&record);
    let pid = {
        let mut state = task.state();
        let process = if exec_id.is_empty() { Some(&mut state.init) } else { state.execs.get_mut(exec_id) };
        let Some(process) = process else { return };
        if !process.exited(exit) {
            return;
        }
        process.pid
    };
    publish_exit(manager, task, exec_id, pid, exit);
}

/// Publishes the end of a process in the place of its shim.
pub(super) fn publish_exit(manager: &Inner, task: &Task, exec_id: &str, pid: u32, exit: Exit) {
    let event = ev::TaskExit {
        container_id: task.id.clone(),
        id: if exec_id.is_empty() { task.id.clone() } else { exec_id.to_owned() },
        pid,
        exit_status: exit.status,
        exited_at: Some(wire::wire_timestamp(exit.at)),
    };
    publish(manager, task, "/tasks/exit", "containerd.events.TaskExit", &event);
}

/// Publishes an event that the daemon makes itself.
pub(super) fn publish<M: Message>(manager: &Inner, task: &Task, topic: &str, name: &str, event: &M) {
    manager.events.publish_message(&task.namespace, topic, name, event);
}
