//! Adding processes to a running container.
//!
//! What always holds: an exec that fails or whose caller goes away before it was answered is killed and deleted.

#![forbid(unsafe_code)]

use std::sync::Arc;

use longshore_proto::containerd::task::v3 as shim_task;
use tonic::Code;

use super::attach::AttachStream;
use super::task::{Process, Task};
use super::types::{AttachStreams, ExecTask, ProcessId, Status};
use super::{Started, TaskManager, delete_request, foreign, limits, wire};
use crate::error::{Error, Result};
use crate::namespaces::{Namespace, check_identifier};

impl TaskManager {
    /// Adds a process, to be started by [`TaskManager::start`].
    ///
    /// # Errors
    /// NotFound; AlreadyExists; the container does not run.
    pub async fn exec(&self, namespace: &Namespace, id: &str, exec_id: &str, exec: ExecTask) -> Result<()> {
        let task = self.inner.task(namespace, id)?;
        let _turn = task.turn("exec").await?;
        let adding = Adding::begin(&task, exec_id, &exec)?;
        let request = wire::exec_request(id, exec_id, &exec);
        let added = task.ask("exec", "Exec", &request, limits::REQUEST).await;
        if added.is_ok() && task.foreign.is_some() {
            // Without the note a daemon after this one would not know the exec.
            if let Err(error) = foreign::bundle::note_exec(&task.bundle, exec_id, &exec.stdio) {
                tracing::warn!(container = id, exec_id, %error, "cannot note an exec");
            }
        }
        adding.settle(added).await
    }

    /// Adds a process, joins its stdio and starts it, all with one message to the shim.
    ///
    /// # Errors
    /// As [`TaskManager::exec`]; its program cannot be executed.
    pub async fn exec_attach_start(
        &self,
        namespace: &Namespace,
        id: &str,
        exec_id: &str,
        exec: ExecTask,
        attach: Option<AttachStreams>,
    ) -> Result<Started> {
        let task = self.inner.task(namespace, id)?;
        task.refuse_foreign("adding a process at once")?;
        let _turn = task.turn("exec").await?;
        let adding = Adding::begin(&task, exec_id, &exec)?;
        let started = start_new(&task, exec_id, &exec, attach).await;
        adding.settle(started).await
    }
}

async fn start_new(
    task: &Task,
    exec_id: &str,
    exec: &ExecTask,
    attach: Option<AttachStreams>,
) -> Result<Started> {
    let id = task.id.as_str();
    let connection = match attach {
        Some(_) => task.own_connection("exec").await?,
        None => task.control()?,
    };
    let request = wire::exec_request(id, exec_id, exec);
    let start = shim_task::StartRequest { id: id.to_owned(), exec_id: exec_id.to_owned() };
    let (added, attached, started) = connection
        .pipeline(|p| {
            let added = p.unary::<_, ()>(wire::TASK, "Exec", &request, limits::REQUEST)?;
            let attached = match attach {
                Some(streams) => {
                    Some(p.duplex(wire::SHIM, "Attach", &wire::attach_start(id, exec_id, streams))?)
                }
                None => None,
            };
            let started =
                p.unary::<_, shim_task::StartResponse>(wire::TASK, "Start", &start, limits::START)?;
            Ok((added, attached, started))
        })
        .map_err(|failure| wire::failure(id, "exec", &failure))?;
    added.answer().await.map_err(|failure| wire::failure(id, "exec", &failure))?;
    let pid = started.answer().await.map_err(|failure| wire::failure(id, "exec start", &failure))?.pid;
    if let Some(process) = task.state().execs.get_mut(exec_id) {
        process.started(pid);
    }
    Ok(Started { pid, attach: attached.map(|ends| AttachStream::new(id, ends)) })
}

/// An exec in the making; dropped unfinished it is undone.
struct Adding {
    task: Option<Arc<Task>>,
    exec_id: String,
}

impl Adding {
    fn begin(task: &Arc<Task>, exec_id: &str, exec: &ExecTask) -> Result<Self> {
        check_identifier("exec", exec_id)?;
        let mut state = task.state();
        if state.init.status() == Status::Stopped {
            return Err(task.already_finished(ProcessId::Init));
        }
        if state.execs.contains_key(exec_id) {
            return Err(Error::already_exists("exec", format!("{exec_id} of container {}", task.id)));
        }
        let process = Process::new(0, Status::Created, exec.stdio.clone());
        state.execs.insert(exec_id.to_owned(), process);
        drop(state);
        Ok(Self { task: Some(task.clone()), exec_id: exec_id.to_owned() })
    }

    /// Keeps what was made, or undoes it before the caller hears why.
    async fn settle<T>(mut self, result: Result<T>) -> Result<T> {
        if let (Err(error), Some(task)) = (&result, &self.task) {
            // What a shim has refused is not on its way.
            let unanswered = matches!(error, Error::Shim { code: Code::DeadlineExceeded, .. });
            match undo(task, &self.exec_id).await {
                Left::Unheard if !unanswered => {}
                left => go_on(task, &self.exec_id, left),
            }
        }
        self.task = None;
        result
    }
}

impl Drop for Adding {
    fn drop(&mut self) {
        let Some(task) = self.task.take() else { return };
        let exec_id = std::mem::take(&mut self.exec_id);
        let undo = async move {
            let _turn = task.turn("undo exec").await;
            let left = undo(&task, &exec_id).await;
            go_on(&task, &exec_id, left);
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(undo);
        }
    }
}

/// Kills and deletes an exec of which nobody knows; what the shim never made is only forgotten.
async fn undo(task: &Arc<Task>, exec_id: &str) -> Left {
    let left = end(task, exec_id).await;
    task.state().execs.remove(exec_id);
    if task.foreign.is_some() {
        foreign::bundle::forget_exec(&task.bundle, exec_id);
    }
    left
}

/// A shim that has not answered, or has not heard of an exec, may make it yet: it is asked again in the background.
fn go_on(task: &Arc<Task>, exec_id: &str, left: Left) {
    if left != Left::Nothing {
        tokio::spawn(undo_later(task.clone(), exec_id.to_owned(), left));
    }
}

async fn undo_later(task: Arc<Task>, exec_id: String, mut before: Left) {
    for _ in 0..limits::UNDO_TRIES {
        tokio::time::sleep(limits::UNDO_PAUSE).await;
        if task.state().removed {
            return;
        }
        let left = end(&task, &exec_id).await;
        // The shim's late news of it may have come.
        task.state().execs.remove(&exec_id);
        if left == Left::Nothing || (left, before) == (Left::Unheard, Left::Unheard) {
            return;
        }
        before = left;
    }
    tracing::warn!(
        container = task.id,
        exec_id,
        "an exec that failed could not be ended: its shim does not answer"
    );
}

/// What a shim has of an exec that is to be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    /// It knows no such exec; the request for it may be on its way.
    Unheard,
    /// It does not answer, or the process has not ended.
    Something,
}

async fn end(task: &Task, exec_id: &str) -> Left {
    let process = ProcessId::Exec(exec_id);
    let exit = task.exit_of(process);
    let kill = shim_task::KillRequest {
        id: task.id.clone(),
        exec_id: exec_id.to_owned(),
        signal: libc::SIGKILL.unsigned_abs(),
        all: false,
    };
    let killed = task.ask::<_, ()>("kill", "Kill", &kill, limits::REQUEST).await;
    if killed.is_ok()
        && let Ok(mut exit) = exit
    {
        let _ = tokio::time::timeout(limits::REQUEST, exit.wait_for(Option::is_some)).await;
    }
    let request = delete_request(&task.id, process);
    let deleted =
        task.ask::<_, shim_task::DeleteResponse>("delete", "Delete", &request, limits::REQUEST).await;
    match deleted {
        Ok(_) => Left::Nothing,
        Err(Error::Shim { code: Code::DeadlineExceeded | Code::FailedPrecondition, .. }) => Left::Something,
        Err(Error::Shim { code: Code::NotFound, .. }) => Left::Unheard,
        Err(error) => {
            tracing::debug!(container = task.id, exec_id, %error, "an exec that failed is gone");
            Left::Nothing
        }
    }
}
