//! The verbs that are one request to the shim each.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::Path;

use longshore_proto::containerd::task::v3 as task;
use longshore_proto::longshore::shim::v1 as shim;
use prost::Message;

use super::attach::AttachStream;
use super::client::{Connection, Failure};
use super::task::Task;
use super::types::{AttachStreams, Exit, ProcessId, Status};
use super::{TaskManager, foreign, limits, wire};
use crate::any::Any;
use crate::error::{Error, Result};
use crate::namespaces::Namespace;

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillScope {
    /// The named process.
    One,
    /// Every process of the container.
    All,
}

/// A process of a container, as the host sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskPid {
    pub pid: u32,
    /// What the shim says of it, such as `containerd.runc.v1.ProcessDetails`.
    pub info: Option<Any>,
}

impl TaskManager {
    /// Starts a created process; its pid.
    ///
    /// # Errors
    /// NotFound; it was started before; its program cannot be executed.
    pub async fn start(&self, namespace: &Namespace, id: &str, process: ProcessId<'_>) -> Result<u32> {
        let found = self.inner.task(namespace, id)?;
        // One exec that is slow to start holds up no other, nor the container's end.
        let _turn = match process {
            ProcessId::Init => Some(found.turn("start").await?),
            ProcessId::Exec(_) => None,
        };
        let request = task::StartRequest { id: id.to_owned(), exec_id: process.exec_id().to_owned() };
        let answer: task::StartResponse = found.ask("start", "Start", &request, limits::START).await?;
        let mut state = found.state();
        match process {
            ProcessId::Init => state.init.started(answer.pid),
            ProcessId::Exec(exec_id) => {
                if let Some(exec) = state.execs.get_mut(exec_id) {
                    exec.started(answer.pid);
                }
            }
        }
        drop(state);
        if let (Some(_), ProcessId::Exec(exec_id)) = (&found.foreign, process) {
            foreign::follow_exec(&self.inner, &found, exec_id);
        }
        Ok(answer.pid)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// NotFound, also when the process has ended.
    pub async fn kill(
        &self,
        namespace: &Namespace,
        id: &str,
        process: ProcessId<'_>,
        signal: u32,
        scope: KillScope,
    ) -> Result<()> {
        let found = self.inner.task(namespace, id)?;
        if found.info(process)?.status == Status::Stopped && scope == KillScope::One {
            return Err(found.already_finished(process));
        }
        let all = scope == KillScope::All;
        let exec_id = process.exec_id().to_owned();
        let request = task::KillRequest { id: id.to_owned(), exec_id, signal, all };
        found.ask("kill", "Kill", &request, limits::REQUEST).await
    }

    /// Gives a terminal a size.
    ///
    /// # Errors
    /// NotFound; the process has no terminal.
    pub async fn resize(
        &self,
        namespace: &Namespace,
        id: &str,
        process: ProcessId<'_>,
        columns: u32,
        rows: u32,
    ) -> Result<()> {
        let found = self.inner.task(namespace, id)?;
        let exec_id = process.exec_id().to_owned();
        let request = task::ResizePtyRequest { id: id.to_owned(), exec_id, width: columns, height: rows };
        found.ask("resize the terminal", "ResizePty", &request, limits::REQUEST).await
    }

    /// Closes a process's stdin after what was written to it so far.
    ///
    /// # Errors
    /// NotFound.
    pub async fn close_stdin(&self, namespace: &Namespace, id: &str, process: ProcessId<'_>) -> Result<()> {
        let found = self.inner.task(namespace, id)?;
        let exec_id = process.exec_id().to_owned();
        let request = task::CloseIoRequest { id: id.to_owned(), exec_id, stdin: true };
        found.ask("close stdin", "CloseIO", &request, limits::REQUEST).await
    }

    /// Freezes every process of a container.
    ///
    /// # Errors
    /// NotFound; it does not run.
    pub async fn pause(&self, namespace: &Namespace, id: &str) -> Result<()> {
        let found = self.inner.task(namespace, id)?;
        let _turn = found.turn("pause").await?;
        let request = task::PauseRequest { id: id.to_owned() };
        found.ask::<_, ()>("pause", "Pause", &request, limits::REQUEST).await?;
        found.state().init.paused();
        Ok(())
    }

    /// Says which ports of the host the container's shim holds, and where it finds names.
    ///
    /// # Errors
    /// NotFound; a port cannot be had: then nothing has changed.
    pub async fn publish(
        &self,
        namespace: &Namespace,
        id: &str,
        request: shim::PublishRequest,
    ) -> Result<()> {
        let found = self.inner.task(namespace, id)?;
        let answer = found.control()?.unary(wire::SHIM, "Publish", &request, limits::REQUEST).await;
        answer.map_err(|failure| wire::failure(id, "publish ports", &failure))
    }

    /// Has a container's `cri://` log opened anew, once somebody has renamed the file.
    ///
    /// # Errors
    /// NotFound; it has no such log; the file cannot be opened: then the shim goes on with the one that it has.
    pub async fn reopen_log(&self, namespace: &Namespace, id: &str) -> Result<()> {
        let found = self.inner.task(namespace, id)?;
        found.refuse_foreign("reopening a log")?;
        let request = shim::ReopenLogRequest { id: id.to_owned() };
        let answer = found.control()?.unary(wire::SHIM, "ReopenLog", &request, limits::REQUEST).await;
        answer.map_err(|failure| wire::failure(id, "reopen the log", &failure))
    }

    /// Thaws a paused container.
    ///
    /// # Errors
    /// NotFound; it is not paused.
    pub async fn resume(&self, namespace: &Namespace, id: &str) -> Result<()> {
        let found = self.inner.task(namespace, id)?;
        let _turn = found.turn("resume").await?;
        let request = task::ResumeRequest { id: id.to_owned() };
        found.ask::<_, ()>("resume", "Resume", &request, limits::REQUEST).await?;
        found.state().init.resumed();
        Ok(())
    }

    /// Every process of a container.
    ///
    /// # Errors
    /// NotFound.
    pub async fn pids(&self, namespace: &Namespace, id: &str) -> Result<Vec<TaskPid>> {
        let found = self.inner.task(namespace, id)?;
        let request = task::PidsRequest { id: id.to_owned() };
        let answer: task::PidsResponse =
            found.ask("list processes", "Pids", &request, limits::REQUEST).await?;
        let processes = answer
            .processes
            .into_iter()
            .map(|process| TaskPid { pid: process.pid, info: process.info.map(Any::from) });
        Ok(processes.collect())
    }

    /// Changes a container's limits: OCI `LinuxResources` as JSON under containerd's type URL.
    ///
    /// # Errors
    /// NotFound; what the kernel refuses.
    pub async fn update(
        &self,
        namespace: &Namespace,
        id: &str,
        resources: Option<Any>,
        annotations: HashMap<String, String>,
    ) -> Result<()> {
        let found = self.inner.task(namespace, id)?;
        let _turn = found.turn("update").await?;
        let resources = resources.map(Into::into);
        let request = task::UpdateTaskRequest { id: id.to_owned(), resources, annotations };
        found.ask("update limits", "Update", &request, limits::REQUEST).await
    }

    /// Has the container's state written into the folder `path`. `options` are the runtime's, such as
    /// `containerd.runc.v1.CheckpointOptions`.
    ///
    /// # Errors
    /// NotFound; Unimplemented, with the shim's reason; what it says when it fails.
    pub async fn checkpoint(
        &self,
        namespace: &Namespace,
        id: &str,
        path: &Path,
        options: Option<Any>,
    ) -> Result<()> {
        let found = self.inner.task(namespace, id)?;
        let _turn = found.turn("checkpoint").await?;
        let request = task::CheckpointTaskRequest {
            id: id.to_owned(),
            path: path.to_string_lossy().into_owned(),
            options: options.map(Into::into),
        };
        found.ask("checkpoint", "Checkpoint", &request, limits::CHECKPOINT).await
    }

    /// A container's usage: `io.containerd.cgroups.v1.Metrics` or `…v2.Metrics`, by the host.
    ///
    /// # Errors
    /// NotFound; the container has no cgroups any more.
    pub async fn metrics(&self, namespace: &Namespace, id: &str) -> Result<Any> {
        let found = self.inner.task(namespace, id)?;
        let request = task::StatsRequest { id: id.to_owned() };
        let answer: task::StatsResponse =
            found.ask("read statistics", "Stats", &request, limits::REQUEST).await?;
        let stats = answer.stats.ok_or_else(|| Error::not_found("statistics of task", id))?;
        Ok(stats.into())
    }

    /// Waits until a process has ended. Cancel by dropping.
    ///
    /// # Errors
    /// NotFound.
    pub async fn wait(&self, namespace: &Namespace, id: &str, process: ProcessId<'_>) -> Result<Exit> {
        let mut exit = self.inner.task(namespace, id)?.exit_of(process)?;
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.ok_or(Error::Lost { what: "the wait for a process" }),
            // The process was removed without an end: its exec was undone, or the daemon stops.
            Err(_) => Err(Error::not_found("process", process.exec_id())),
        }
    }

    /// Joins the stdio of a process that exists, on a connection of its own.
    ///
    /// # Errors
    /// NotFound; it has ended.
    pub async fn attach(
        &self,
        namespace: &Namespace,
        id: &str,
        process: ProcessId<'_>,
        streams: AttachStreams,
    ) -> Result<AttachStream> {
        let found = self.inner.task(namespace, id)?;
        found.info(process)?;
        found.refuse_foreign("attaching to a process")?;
        let connection = found.own_connection("attach").await?;
        let start = wire::attach_start(id, process.exec_id(), streams);
        let ends = connection
            .pipeline(|p| p.duplex(wire::SHIM, "Attach", &start))
            .map_err(|failure| wire::failure(id, "attach", &failure))?;
        Ok(AttachStream::new(id, ends))
    }
}

impl Task {
    /// One request of the task service; `step` names it in an error.
    pub(super) async fn ask<R: Message, A: Message + Default>(
        &self,
        step: &'static str,
        method: &'static str,
        request: &R,
        limit: std::time::Duration,
    ) -> Result<A> {
        let control = self.control()?;
        control
            .unary(control.task_service(), method, request, limit)
            .await
            .map_err(|failure| wire::failure(&self.id, step, &failure))
    }

    /// A connection that nothing else uses, so that its streams may stop it.
    pub(super) async fn own_connection(&self, step: &'static str) -> Result<Connection> {
        self.control()?;
        let fail =
            |error: std::io::Error| wire::failure(&self.id, step, &Failure::Closed(error.to_string().into()));
        let socket = self.bundle.connect(limits::REQUEST).await.map_err(fail)?;
        Connection::new(socket).map_err(fail)
    }
}
