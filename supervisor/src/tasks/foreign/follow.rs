//! Following a foreign shim: the ends of its processes by Wait, its own end by its connection.
//!
//! What always holds: an end is published once, by the shim's event if that comes in time, else in its place; a connection
//! that ends is made anew while somebody listens; when nobody does, the task is buried once.

#![forbid(unsafe_code)]

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_proto::containerd::task::v3 as task_api;

use super::super::client::{Connection, Failure};
use super::super::types::{Exit, Status};
use super::super::{Inner, Task, limits, monitor, orphan, wire};
use super::events::note_exit;
use super::{Address, Foreign, Membership, mounts, process_of};

/// What a container whose shim cannot say ended with: as if killed by SIGKILL.
const LOST: u32 = 137;

/// Follows a task until it is deleted or its shim is gone.
pub fn follow(manager: &Arc<Inner>, task: Arc<Task>) {
    let manager = manager.clone();
    tokio::spawn(async move {
        let ended = task.drained.clone();
        tokio::select! {
            () = ended.cancelled() => {}
            () = until_the_shim_is_gone(&manager, &task) => {
                // A delete under way knows what became of the shim; otherwise it died.
                if let Ok(_turn) = task.turn("clean up after the shim").await {
                    bury(&manager, &task).await;
                }
            }
        }
    });
}

async fn until_the_shim_is_gone(manager: &Arc<Inner>, task: &Arc<Task>) {
    let Some(foreign) = &task.foreign else { return };
    let mut asked = Asked::No;
    loop {
        let control = task.state().control.clone();
        let Some(control) = control else { return };
        if asked == Asked::No {
            match wait(task, &control, "").await {
                Ok(answer) => {
                    asked = Asked::Answered;
                    exited(manager, task, foreign, "", &answer).await;
                }
                // It has no such verb, or does not know the container: its events and its end are all there is.
                Err(Failure::Refused(error)) => {
                    tracing::debug!(container = task.id, %error, "its shim does not wait");
                    asked = Asked::Answered;
                }
                Err(Failure::Closed(_)) => {}
                Err(failure) => {
                    tracing::warn!(container = task.id, %failure, "cannot wait for a container");
                    tokio::time::sleep(limits::RECONNECT).await;
                    continue;
                }
            }
        }
        control.closed().await;
        if !reconnect(task, foreign, &control).await {
            return;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    No,
    Answered,
}

async fn wait(task: &Task, control: &Connection, exec_id: &str) -> Result<task_api::WaitResponse, Failure> {
    let request = task_api::WaitRequest { id: task.id.clone(), exec_id: exec_id.to_owned() };
    control.unary(control.task_service(), "Wait", &request, limits::FOREVER).await
}

/// A new connection to a shim that lives: whether there is one.
async fn reconnect(task: &Task, foreign: &Foreign, old: &Connection) -> bool {
    let mut pause = Duration::from_millis(50);
    loop {
        match foreign.process() {
            // The end of its connection is mostly the end of the shim.
            Some(process) if process.ended_within(pause).await => return false,
            Some(_) => {}
            None => tokio::time::sleep(pause).await,
        }
        match connect(&foreign.address).await {
            Ok(socket) => match Connection::speaking(socket, old.dialect()) {
                Ok(control) => {
                    task.state().control = Some(control);
                    return true;
                }
                Err(error) => tracing::warn!(container = task.id, %error, "cannot take up a connection"),
            },
            Err(error) if is_gone(&error) => return false,
            Err(error) => tracing::warn!(container = task.id, %error, "cannot reconnect to a shim"),
        }
        pause = (pause * 2).min(Duration::from_secs(30));
    }
}

/// Connects without holding up the event loop: a shim that takes no connections blocks whoever tries.
pub async fn connect(address: &Address) -> io::Result<UnixStream> {
    let address = address.clone();
    let connecting = tokio::task::spawn_blocking(move || address.connect());
    match tokio::time::timeout(limits::RECONNECT, connecting).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Whether nobody listens at an address any more.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

/// Follows an exec that was started until it ended.
pub fn follow_exec(manager: &Arc<Inner>, task: &Arc<Task>, exec_id: &str) {
    let (manager, task, exec_id) = (manager.clone(), task.clone(), exec_id.to_owned());
    tokio::spawn(async move {
        let ended = task.drained.clone();
        tokio::select! {
            () = ended.cancelled() => {}
            () = until_the_exec_ended(&manager, &task, &exec_id) => {}
        }
    });
}

async fn until_the_exec_ended(manager: &Inner, task: &Task, exec_id: &str) {
    let Some(foreign) = &task.foreign else { return };
    loop {
        let running = task.info(process_of(exec_id)).is_ok_and(|info| info.status != Status::Stopped);
        let control = task.state().control.clone();
        let (true, Some(control)) = (running, control) else { return };
        match wait(task, &control, exec_id).await {
            Ok(answer) => return exited(manager, task, foreign, exec_id, &answer).await,
            Err(Failure::Refused(_)) => return,
            // The connection is made anew by whoever follows the container.
            Err(_) => tokio::time::sleep(limits::RECONNECT).await,
        }
    }
}

/// A process ended, by the word of the shim.
async fn exited(
    manager: &Inner,
    task: &Task,
    foreign: &Foreign,
    exec_id: &str,
    answer: &task_api::WaitResponse,
) {
    let exit = Exit {
        status: answer.exit_status,
        at: wire::timestamp(answer.exited_at.as_ref()),
        oom_killed: task.state().oom,
    };
    stop(task, exec_id, exit);
    // The shim's own words are better, and on their way.
    if !foreign.exit_told(exec_id, limits::EVENT_GRACE).await {
        tell(manager, task, exec_id);
    }
}

/// Moves a process to its end, for those who wait for it.
pub fn stop(task: &Task, exec_id: &str, exit: Exit) {
    let mut state = task.state();
    let process = if exec_id.is_empty() { Some(&mut state.init) } else { state.execs.get_mut(exec_id) };
    if let Some(process) = process {
        process.exited(exit);
    }
}

/// Publishes the end of a process in the place of its shim, unless it was published.
pub fn tell(manager: &Inner, task: &Task, exec_id: &str) {
    let Some(foreign) = &task.foreign else { return };
    let Ok(info) = task.info(process_of(exec_id)) else { return };
    let Some(exit) = info.exit else { return };
    if foreign.claim_exit(exec_id) {
        monitor::publish_exit(manager, task, exec_id, info.pid, exit);
        note_exit(task, exec_id, info.pid, exit.status, Some(wire::wire_timestamp(exit.at)));
    }
}

/// Ends every process of a task whose shim is gone, and removes what it left. Doing it again changes nothing.
pub async fn bury(manager: &Inner, task: &Task) {
    let Some(foreign) = &task.foreign else { return };
    if task.state().control.take().is_none() && task.state().init.status() == Status::Stopped {
        return;
    }
    tracing::warn!(container = task.id, namespace = %task.namespace, "the shim of a container is gone");
    let end = remains(manager, task, foreign).await;
    let execs: Vec<String> = task.state().execs.keys().cloned().collect();
    let at = end.as_ref().map_or_else(Timestamp::now, |end| wire::timestamp(end.exited_at.as_ref()));
    let lost = |status| Exit { status, at, oom_killed: task.state().oom };
    for exec_id in execs {
        stop(task, &exec_id, lost(LOST));
        tell(manager, task, &exec_id);
    }
    let status = end.map(|end| end.exit_status).filter(|status| *status != 0).unwrap_or(LOST);
    let exit = lost(status);
    stop(task, "", exit);
    tell(manager, task, "");
}

/// Removes what a shim left: by its binary's `delete`, then whatever is left all the same.
pub async fn remains(manager: &Inner, task: &Task, foreign: &Foreign) -> Option<task_api::DeleteResponse> {
    let end = match foreign.membership {
        Membership::Started => manager
            .commands
            .delete(&foreign.runtime, task.subject())
            .await
            .inspect_err(|error| tracing::warn!(container = task.id, %error, "a shim's delete failed"))
            .ok(),
        Membership::Joined => None,
    };
    orphan::remove_quietly(manager, &task.id, &task.cgroups_path).await;
    let bundle = task.bundle.path().to_owned();
    let unmounted = tokio::task::spawn_blocking(move || mounts::unmount_below(&bundle)).await;
    if let Ok(Err(error)) = unmounted {
        tracing::error!(container = task.id, %error, "cannot unmount what a shim left");
    }
    if foreign.leaves_with(manager, task)
        && let Some(path) = foreign.address.path()
        && connect(&foreign.address).await.is_err_and(|error| is_gone(&error))
    {
        // Nobody listens there: a shim that was killed could not remove it.
        let _ = std::fs::remove_file(path);
    }
    end
}
