//! Finding the tasks of foreign shims again after the daemon was away.
//!
//! What always holds: what a shim says of its container and of every exec that was noted counts; an end that was not published
//! is, once; a task that no client was told of is removed; a shim that does not answer holds up nobody else.

#![forbid(unsafe_code)]

use std::sync::Arc;

use longshore_proto::containerd::task::v3 as task_api;
use longshore_proto::ttrpc::Code;
use tokio_util::sync::CancellationToken;

use super::super::bundle::CreateRecord;
use super::super::client::{Connection, Dialect, Failure};
use super::super::recover::{Found, Leftover};
use super::super::task::{NewTask, Process};
use super::super::types::{Exit, ProcessId, Status};
use super::super::{Inner, Slot, Task, delete_request, limits, wire};
use super::create::identify;
use super::{Address, Foreign, ForeignRecord, TaskApi, bundle, delete, follow, log, process_of};

/// Recovers one bundle.
pub async fn one(
    manager: &Arc<Inner>,
    leftover: Leftover,
    record: CreateRecord,
    shim: ForeignRecord,
) -> Found {
    let Leftover { namespace, id, bundle } = leftover;
    if shim.address.is_empty() {
        tracing::info!(container = id, "removed a task that was never finished");
        delete::clean_up_unstarted(manager, &shim.runtime(), &namespace, &id, &bundle).await;
        bundle::remove(&bundle);
        return Found::Discarded;
    }
    let ended = CancellationToken::new();
    if let Err(error) = log::drain(&bundle, &id, ended.clone()) {
        tracing::warn!(container = id, %error, "cannot read the log of a shim");
    }
    let stdio = record.request.as_ref().map(wire::stdio_of_request).unwrap_or_default();
    let new = NewTask {
        namespace,
        id,
        bundle,
        cgroups_path: record.cgroups_path.clone(),
        shim: None,
        seat: None,
        control: None,
        init: Process::new(0, Status::Unknown, stdio),
    };
    let foreign = Foreign::new(shim.runtime(), Address::restored(shim.address.clone()), shim.membership());
    let task = Task::of_foreign(new, foreign, ended);
    manager.insert(task.clone());
    let adopting = tokio::spawn(adopt(manager.clone(), task.clone(), record, shim));
    match tokio::time::timeout(limits::RECONNECT, adopting).await {
        Ok(found) => found.unwrap_or(Found::Silent),
        Err(_) => {
            tracing::warn!(container = task.id, "a shim does not answer; it is asked on in the background");
            Found::Silent
        }
    }
}

/// Asks a shim what became of its container, and follows it from there.
async fn adopt(manager: Arc<Inner>, task: Arc<Task>, mut record: CreateRecord, shim: ForeignRecord) -> Found {
    let Some(foreign) = &task.foreign else { return Found::Silent };
    let mut api = TaskApi::from_number(shim.api).unwrap_or(TaskApi::V2);
    let state = loop {
        let control = match follow::connect(&foreign.address).await {
            Ok(socket) => {
                let namespace = Some(task.namespace.as_str().into());
                Connection::speaking(socket, Dialect { task: api.service(), namespace })
            }
            Err(error) if follow::is_gone(&error) => return dead(&manager, &task, foreign).await,
            Err(error) => Err(error),
        };
        let failure = match control {
            Ok(control) => {
                task.state().control = Some(control.clone());
                match state_of(&task, &control, "").await {
                    Ok(state) => break state,
                    Err(failure) => failure,
                }
            }
            Err(error) => Failure::Closed(error.to_string().into()),
        };
        match failure {
            Failure::Refused(error) if error.code == Code::Unimplemented && api == TaskApi::V3 => {
                api = TaskApi::V2;
                if let Some(foreign) = &mut record.foreign {
                    foreign.api = api.number();
                }
                if let Err(error) = task.bundle.set_record(&record) {
                    tracing::warn!(container = task.id, %error, "cannot note the version of a shim");
                }
                continue;
            }
            Failure::Refused(error) if error.code == Code::NotFound => {
                return unknown_to_its_shim(&manager, &task, foreign).await;
            }
            failure => {
                tracing::warn!(container = task.id, %failure, "a shim does not say how its container is")
            }
        }
        tokio::time::sleep(limits::RECONNECT / 3).await;
    };
    let status = wire::status(state.status());
    if matches!(status, Status::Created | Status::Unknown) && !task.bundle.is_acknowledged() {
        return reject(&manager, &task).await;
    }
    apply(&manager, &task, foreign, "", &state);
    restore_execs(&manager, &task, foreign).await;
    // After its execs: the container's end is the last.
    follow::tell(&manager, &task, "");
    identify(&task).await;
    follow::follow(&manager, task.clone());
    Found::Alive
}

async fn state_of(
    task: &Task,
    control: &Connection,
    exec_id: &str,
) -> Result<task_api::StateResponse, Failure> {
    let request = task_api::StateRequest { id: task.id.clone(), exec_id: exec_id.to_owned() };
    control.unary(control.task_service(), "State", &request, limits::REQUEST).await
}

/// Moves a process to where its shim says it is.
fn apply(manager: &Inner, task: &Task, foreign: &Foreign, exec_id: &str, state: &task_api::StateResponse) {
    if bundle::told(&task.bundle, exec_id).is_some() {
        foreign.claim_exit(exec_id);
    }
    let status = wire::status(state.status());
    {
        let mut current = task.state();
        let oom_killed = current.oom;
        let process =
            if exec_id.is_empty() { Some(&mut current.init) } else { current.execs.get_mut(exec_id) };
        let Some(process) = process else { return };
        process.created(state.pid);
        match status {
            Status::Running => process.started(state.pid),
            Status::Paused => {
                process.started(state.pid);
                process.paused();
            }
            Status::Stopped => {
                let at = wire::timestamp(state.exited_at.as_ref());
                process.exited(Exit { status: state.exit_status, at, oom_killed });
            }
            Status::Created | Status::Unknown => {}
        }
    }
    if !exec_id.is_empty() {
        follow::tell(manager, task, exec_id);
    }
}

async fn restore_execs(manager: &Arc<Inner>, task: &Arc<Task>, foreign: &Foreign) {
    for (exec_id, stdio) in bundle::execs(&task.bundle) {
        let control = task.state().control.clone();
        let Some(control) = control else { return };
        let state = state_of(task, &control, &exec_id).await;
        match state {
            Ok(state) => {
                task.state().execs.insert(exec_id.clone(), Process::new(state.pid, Status::Unknown, stdio));
                apply(manager, task, foreign, &exec_id, &state);
                if task.info(process_of(&exec_id)).is_ok_and(|info| info.status == Status::Running) {
                    follow::follow_exec(manager, task, &exec_id);
                }
            }
            Err(Failure::Refused(error)) if error.code == Code::NotFound => {
                bundle::forget_exec(&task.bundle, &exec_id);
            }
            Err(failure) => tracing::warn!(container = task.id, exec_id, %failure, "cannot ask for an exec"),
        }
    }
}

/// A shim that ended while no daemon was there.
async fn dead(manager: &Arc<Inner>, task: &Arc<Task>, foreign: &Foreign) -> Found {
    task.state().control = None;
    let known = bundle::told(&task.bundle, "");
    if known.is_none() && !task.bundle.is_acknowledged() {
        return reject(manager, task).await;
    }
    if let Some(record) = known {
        foreign.claim_exit("");
        {
            let mut state = task.state();
            state.init.pid = record.pid;
            state.init.exited(wire::exit(&record));
        }
        follow::remains(manager, task, foreign).await;
    } else {
        for (exec_id, stdio) in bundle::execs(&task.bundle) {
            if bundle::told(&task.bundle, &exec_id).is_some() {
                foreign.claim_exit(&exec_id);
            }
            task.state().execs.insert(exec_id, Process::new(0, Status::Running, stdio));
        }
        follow::bury(manager, task).await;
    }
    Found::Stopped
}

/// The shim is there and the container is not: it was deleted just when the daemon died, or never made.
async fn unknown_to_its_shim(manager: &Arc<Inner>, task: &Arc<Task>, foreign: &Foreign) -> Found {
    if !task.bundle.is_acknowledged() {
        return reject(manager, task).await;
    }
    delete::leave(manager, task).await;
    dead(manager, task, foreign).await
}

/// Removes a task that no client was told of and that does not run.
async fn reject(manager: &Arc<Inner>, task: &Arc<Task>) -> Found {
    tracing::info!(container = task.id, "removed a task that was never finished");
    manager.replace(&task.namespace, &task.id, Slot::Making(task.clone()));
    let control = task.state().control.clone();
    if let Some(control) = control {
        let request = delete_request(&task.id, ProcessId::Init);
        let deleted: Result<task_api::DeleteResponse, _> =
            control.unary(control.task_service(), "Delete", &request, limits::DELETE).await;
        if let Err(failure) = deleted {
            tracing::debug!(container = task.id, %failure, "a shim does not delete what was not finished");
        }
    }
    delete::leave(manager, task).await;
    task.state().removed = true;
    task.drained.cancel();
    bundle::remove(&task.bundle);
    manager.release(&task.namespace, &task.id);
    Found::Discarded
}
