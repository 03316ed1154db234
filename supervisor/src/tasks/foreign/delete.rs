//! Deleting a task of a foreign shim.
//!
//! What always holds: the id is free again only after the shim has left or serves others of its group, its `delete` was run, and
//! nothing is mounted in the bundle any more; the exit is published before the deletion, each once.

#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use longshore_proto::containerd::events as ev;
use longshore_proto::containerd::task::v3 as task_api;
use longshore_proto::ttrpc::Code;

use super::super::bundle::Bundle;
use super::super::client::Failure;
use super::super::delete::from_wire;
use super::super::process::ShimProcess;
use super::super::runtimes::ForeignRuntime;
use super::super::types::{Deleted, ProcessId, Status};
use super::super::{Inner, Task, delete_request, limits, monitor, wire};
use super::command::Subject;
use super::{Foreign, bundle, follow};
use crate::error::Result;
use crate::namespaces::Namespace;

/// Deletes a task that is stopped or was never started.
pub async fn task(manager: &Inner, task: &Arc<Task>, foreign: &Foreign) -> Result<Deleted> {
    let _turn = task.turn("delete").await?;
    let control = task.state().control.clone();
    let status = task.info(ProcessId::Init)?.status;
    let answer = match control {
        None if status != Status::Stopped => return Err(task.out_of_reach()),
        None => None,
        Some(control) => {
            let request = delete_request(&task.id, ProcessId::Init);
            let asked: Result<task_api::DeleteResponse, Failure> =
                control.unary(control.task_service(), "Delete", &request, limits::DELETE).await;
            match asked {
                Ok(answer) => Some(answer),
                // It does not know the container any more.
                Err(Failure::Refused(error)) if error.code == Code::NotFound => {
                    leave(manager, task).await;
                    None
                }
                Err(failure @ Failure::Closed(_)) => match follow::connect(&foreign.address).await {
                    Err(error) if follow::is_gone(&error) => None,
                    _ => return Err(wire::failure(&task.id, "delete", &failure)),
                },
                Err(failure) => return Err(wire::failure(&task.id, "delete", &failure)),
            }
        }
    };
    let deleted = match answer {
        Some(answer) => {
            let deleted = from_wire(&answer);
            follow::stop(task, "", deleted.exit);
            // It was published before, or its event is on its way. What never ran has no end to tell.
            if status != Status::Created && !foreign.exit_told("", limits::EVENT_GRACE).await {
                follow::tell(manager, task, "");
            }
            if !foreign.delete_told(limits::DELETE_EVENT).await {
                tracing::debug!(container = task.id, "its shim did not tell of the deletion");
            }
            leave(manager, task).await;
            deleted
        }
        None => {
            follow::bury(manager, task).await;
            task.end_of_init()?
        }
    };
    gone(manager, task, foreign, deleted).await;
    Ok(deleted)
}

/// Asks a shim that has no container any more to leave, makes sure that it does unless it serves others, and cleans up after it.
pub async fn leave(manager: &Inner, task: &Task) {
    let Some(foreign) = &task.foreign else { return };
    let control = task.state().control.clone();
    if let Some(control) = control {
        let request = task_api::ShutdownRequest { id: task.id.clone(), now: false };
        let asked: Result<(), Failure> =
            control.unary(control.task_service(), "Shutdown", &request, limits::SHIM_SHUTDOWN).await;
        if let Err(Failure::Refused(error)) = &asked {
            tracing::debug!(container = task.id, %error, "a shim does not shut down");
        }
        if foreign.leaves_with(manager, task) {
            let closed = tokio::time::timeout(limits::SHIM_EXIT, control.closed()).await.is_ok();
            match foreign.process() {
                _ if closed => {}
                Some(process) => {
                    tracing::warn!(
                        container = task.id,
                        pid = process.pid(),
                        "killed a shim that did not leave"
                    );
                    process.kill_and_wait(limits::SHIM_EXIT).await;
                }
                // It was cut off before it said which process it is.
                None => end_working_in(task.bundle.path()).await,
            }
        }
        task.state().control = None;
    }
    follow::remains(manager, task, foreign).await;
}

/// Removes the task and its bundle.
async fn gone(manager: &Inner, task: &Arc<Task>, foreign: &Foreign, deleted: Deleted) {
    task.state().removed = true;
    task.drained.cancel();
    let folder = task.bundle.clone();
    let _ = tokio::task::spawn_blocking(move || bundle::remove(&folder)).await;
    manager.departed.note(&task.namespace, &task.id);
    manager.release(&task.namespace, &task.id);
    if foreign.claim_delete() {
        let event = ev::TaskDelete {
            container_id: task.id.clone(),
            id: task.id.clone(),
            pid: deleted.pid,
            exit_status: deleted.exit.status,
            exited_at: Some(wire::wire_timestamp(deleted.exit.at)),
        };
        monitor::publish(manager, task, "/tasks/delete", "containerd.events.TaskDelete", &event);
    }
}

/// Tells the end of an exec that its shim deleted, if the shim did not.
pub async fn exec_gone(manager: &Inner, task: &Task, exec_id: &str, started: bool, deleted: Deleted) {
    let Some(foreign) = &task.foreign else { return };
    if started {
        follow::stop(task, exec_id, deleted.exit);
        if !foreign.exit_told(exec_id, limits::EVENT_GRACE).await {
            follow::tell(manager, task, exec_id);
        }
    }
    foreign.forget_exit(exec_id);
    bundle::forget_exec(&task.bundle, exec_id);
}

/// Cleans up after a `start` that failed, or of which the daemon did not live to see the end: the shim that runs in this
/// bundle, which is told by its working directory, is killed, and its `delete` is run.
pub async fn clean_up_unstarted(
    manager: &Inner,
    runtime: &ForeignRuntime,
    namespace: &Namespace,
    id: &str,
    bundle: &Bundle,
) {
    end_working_in(bundle.path()).await;
    let subject = Subject { namespace, id, bundle: bundle.path() };
    if let Err(error) = manager.commands.delete(runtime, subject).await {
        tracing::debug!(container = id, %error, "a shim that did not start has nothing to delete");
    }
}

/// Kills the shim of a bundle, which is told by its working directory.
async fn end_working_in(folder: &Path) {
    for pid in working_in(folder) {
        if let Ok(process) = ShimProcess::open(pid)
            // The pid may have changed hands before it was opened; afterwards it cannot.
            && works_in(pid, folder)
        {
            process.kill_and_wait(limits::SHIM_EXIT).await;
        }
    }
}

/// The processes whose working directory is this folder.
fn working_in(folder: &Path) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| works_in(*pid, folder)).collect()
}

fn works_in(pid: i32, folder: &Path) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder)
}
