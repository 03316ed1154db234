//! Deleting tasks and execs that have ended.
//!
//! What always holds: a deletion that began is carried through; the id is free again only after the bundle is removed and the
//! shim is gone, unless it has other tasks.

#![forbid(unsafe_code)]

use std::sync::Arc;

use longshore_proto::containerd::events as ev;
use longshore_proto::containerd::task::v3 as shim_task;

use super::client::{Connection, Failure};
use super::task::Task;
use super::types::{Deleted, Exit, ProcessId, Status};
use super::{Inner, TaskManager, carried_through, delete_request, foreign, limits, monitor, wire};
use crate::error::{Error, Result};
use crate::namespaces::{Namespace, check_identifier};

impl TaskManager {
    /// Deletes a task that is stopped or was never started; its shim goes with it.
    ///
    /// # Errors
    /// NotFound; FailedPrecondition while it runs.
    pub async fn delete(&self, namespace: &Namespace, id: &str) -> Result<Deleted> {
        let task = self.inner.task(namespace, id)?;
        let inner = self.inner.clone();
        carried_through("the deletion of a task", async move {
            match &task.foreign {
                Some(shim) => foreign::delete::task(&inner, &task, shim).await,
                None => inner.delete(&task).await,
            }
        })
        .await
    }

    /// Deletes an exec that has ended or was never started.
    ///
    /// # Errors
    /// NotFound; FailedPrecondition while it runs.
    pub async fn delete_process(&self, namespace: &Namespace, id: &str, exec_id: &str) -> Result<Deleted> {
        check_identifier("exec", exec_id)?;
        let task = self.inner.task(namespace, id)?;
        let exec_id = exec_id.to_owned();
        let inner = self.inner.clone();
        carried_through("the deletion of an exec", async move { inner.delete_exec(&task, &exec_id).await })
            .await
    }
}

impl Inner {
    async fn delete(&self, task: &Arc<Task>) -> Result<Deleted> {
        let _turn = task.turn("delete").await?;
        let control = task.state().control.clone();
        let deleted = match control {
            None if task.info(ProcessId::Init)?.status != Status::Stopped => return Err(task.out_of_reach()),
            None => None,
            Some(control) => {
                let request = delete_request(&task.id, ProcessId::Init);
                let answer = control.unary(wire::TASK, "Delete", &request, limits::DELETE).await;
                match answer {
                    Ok(answer) => {
                        if !task.is_shared() {
                            shut_down(&control, &task.id);
                        }
                        Some(from_wire(&answer))
                    }
                    Err(Failure::Closed(_)) if task.is_lost().await => None,
                    Err(failure) => return Err(wire::failure(&task.id, "delete", &failure)),
                }
            }
        };
        let deleted = match deleted {
            Some(deleted) => deleted,
            None => {
                monitor::bury(self, task).await;
                task.end_of_init()?
            }
        };
        self.clear_away(task, deleted).await;
        Ok(deleted)
    }

    /// Removes what is left of a task that has no container any more.
    async fn clear_away(&self, task: &Arc<Task>, deleted: Deleted) {
        task.state().removed = true;
        let seat = task.seat().take();
        if seat.is_some() {
            let _ = tokio::time::timeout(limits::SHIM_EXIT, task.drained.cancelled()).await;
        } else if let Some(shim) = &task.shim {
            if !shim.ended_within(limits::SHIM_EXIT).await {
                tracing::warn!(container = task.id, pid = shim.pid(), "killed a shim that did not leave");
                shim.kill_and_wait(limits::SHIM_EXIT).await;
            }
            let _ = tokio::time::timeout(limits::SHIM_EXIT, task.drained.cancelled()).await;
        }
        let control = task.state().control.take();
        task.bundle.remove();
        if let Some(seat) = seat {
            self.leave(seat, control.as_ref()).await;
        }
        self.release(&task.namespace, &task.id);
        if !task.state().delete_published {
            let event = ev::TaskDelete {
                container_id: task.id.clone(),
                id: task.id.clone(),
                pid: deleted.pid,
                exit_status: deleted.exit.status,
                exited_at: Some(wire::wire_timestamp(deleted.exit.at)),
            };
            monitor::publish(self, task, "/tasks/delete", "containerd.events.TaskDelete", &event);
        }
    }
}

impl Task {
    /// Whether the shim is gone, given that its connection is.
    async fn is_lost(&self) -> bool {
        match &self.shim {
            Some(shim) => shim.ended_within(limits::SHIM_EXIT).await,
            None => true,
        }
    }

    pub(super) fn end_of_init(&self) -> Result<Deleted> {
        let info = self.info(ProcessId::Init)?;
        let exit = info.exit.ok_or(Error::Lost { what: "a task without its shim" })?;
        Ok(Deleted { pid: info.pid, exit })
    }
}

impl Inner {
    async fn delete_exec(&self, task: &Task, exec_id: &str) -> Result<Deleted> {
        // The own shim answers when all output has been taken, which a child of the exec may hold up for seconds: others do not
        // wait for that.
        let _turn = match task.foreign {
            Some(_) => Some(task.turn("delete exec").await?),
            None => None,
        };
        let process = ProcessId::Exec(exec_id);
        let info = task.info(process)?;
        let deleted = match (task.control(), info.exit) {
            (Ok(_), _) => {
                let request = delete_request(&task.id, process);
                let answer: shim_task::DeleteResponse =
                    task.ask("delete exec", "Delete", &request, limits::DELETE).await?;
                from_wire(&answer)
            }
            (Err(_), Some(exit)) if info.status == Status::Stopped => Deleted { pid: info.pid, exit },
            (Err(error), _) => return Err(error),
        };
        foreign::delete::exec_gone(self, task, exec_id, info.status != Status::Created, deleted).await;
        let removed = task.state().execs.remove(exec_id);
        if let Some(mut exec) = removed {
            // Whoever waits for it and was not told yet.
            exec.exited(deleted.exit);
        }
        Ok(deleted)
    }
}

/// Tells a shim without a container to go. Its answer is not waited for: its end is.
pub(super) fn shut_down(control: &Connection, id: &str) {
    let request = shim_task::ShutdownRequest { id: id.to_owned(), now: false };
    // A failure means that it is gone already.
    let _ = control.pipeline(|p| p.unary::<_, ()>(wire::TASK, "Shutdown", &request, limits::REQUEST));
}

pub(super) fn from_wire(answer: &shim_task::DeleteResponse) -> Deleted {
    let at = wire::timestamp(answer.exited_at.as_ref());
    Deleted { pid: answer.pid, exit: Exit { status: answer.exit_status, at, oom_killed: false } }
}
