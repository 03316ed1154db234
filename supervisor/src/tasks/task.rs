//! One task as the daemon knows it: its shim, its processes and their states.
//!
//! What always holds: the shim's events are the only thing that moves a state, except that a start that was answered
//! counts as started and that the end of the shim is the end of every process; a process stops once.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longshore_proto::containerd::events as ev;
use longshore_proto::longshore::shim::v1 as shim;
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bundle::Bundle;
use super::client::Connection;
use super::foreign::Foreign;
use super::group::{Place, Seat};
use super::process::ShimProcess;
use super::types::{Exit, ProcessId, ProcessInfo, Status, TaskStdio};
use super::{limits, wire};
use crate::error::{Error, Result};
use crate::namespaces::Namespace;

/// A process of a task.
pub struct Process {
    pub pid: u32,
    status: Status,
    pub stdio: TaskStdio,
    exit: watch::Sender<Option<Exit>>,
}

impl Process {
    pub fn new(pid: u32, status: Status, stdio: TaskStdio) -> Self {
        Self { pid, status, stdio, exit: watch::Sender::new(None) }
    }

    pub fn status(&self) -> Status {
        self.status
    }

    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    pub fn created(&mut self, pid: u32) {
        if self.status == Status::Unknown {
            self.status = Status::Created;
        }
        self.set_pid(pid);
    }

    pub fn started(&mut self, pid: u32) {
        if matches!(self.status, Status::Created | Status::Unknown) {
            self.status = Status::Running;
        }
        self.set_pid(pid);
    }

    pub fn paused(&mut self) {
        if self.status == Status::Running {
            self.status = Status::Paused;
        }
    }

    pub fn resumed(&mut self) {
        if self.status == Status::Paused {
            self.status = Status::Running;
        }
    }

    /// Whether this is the first that is heard of its end.
    pub fn exited(&mut self, exit: Exit) -> bool {
        if self.status == Status::Stopped {
            return false;
        }
        self.status = Status::Stopped;
        self.exit.send_replace(Some(exit));
        true
    }

    fn set_pid(&mut self, pid: u32) {
        if pid != 0 {
            self.pid = pid;
        }
    }
}

/// What changes in a task's life.
pub struct TaskState {
    /// The connection for requests; `None` once the shim is gone.
    pub control: Option<Connection>,
    pub init: Process,
    pub execs: BTreeMap<String, Process>,
    /// The last event that was applied.
    pub sequence: u64,
    /// The kernel killed something in the container for memory.
    pub oom: bool,
    /// `/tasks/delete` was published.
    pub delete_published: bool,
    /// The task is deleted; whoever still holds it sees NotFound.
    pub removed: bool,
}

/// One task.
pub struct Task {
    pub namespace: Namespace,
    pub id: String,
    pub bundle: Bundle,
    /// Empty: unknown.
    pub cgroups_path: String,
    /// `None`: it was gone already when the daemon came up.
    pub shim: Option<Arc<ShimProcess>>,
    /// Set if its shim has other containers, too; taken when it is deleted.
    seat: Mutex<Option<Seat>>,
    is_shared: bool,
    /// Set if its shim is not ours.
    pub foreign: Option<Foreign>,
    state: Mutex<TaskState>,
    turn: tokio::sync::Mutex<()>,
    busy_with: Mutex<&'static str>,
    /// All events that the shim will ever send were applied.
    pub drained: CancellationToken,
}

/// What a new task starts with.
pub struct NewTask {
    pub namespace: Namespace,
    pub id: String,
    pub bundle: Bundle,
    pub cgroups_path: String,
    pub shim: Option<Arc<ShimProcess>>,
    pub seat: Option<Seat>,
    pub control: Option<Connection>,
    pub init: Process,
}

impl Task {
    pub fn new(new: NewTask) -> Arc<Self> {
        Self::make(new, None, CancellationToken::new())
    }

    /// A task whose shim is not ours; `ended` is cancelled when it is deleted.
    pub fn of_foreign(new: NewTask, foreign: Foreign, ended: CancellationToken) -> Arc<Self> {
        Self::make(new, Some(foreign), ended)
    }

    fn make(new: NewTask, foreign: Option<Foreign>, drained: CancellationToken) -> Arc<Self> {
        let state = TaskState {
            control: new.control,
            init: new.init,
            execs: BTreeMap::new(),
            sequence: 0,
            oom: false,
            delete_published: false,
            removed: false,
        };
        Arc::new(Self {
            namespace: new.namespace,
            id: new.id,
            bundle: new.bundle,
            cgroups_path: new.cgroups_path,
            shim: new.shim,
            is_shared: new.seat.is_some(),
            seat: Mutex::new(new.seat),
            foreign,
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::new(()),
            busy_with: Mutex::new("nothing"),
            drained,
        })
    }

    /// Its place in a shim that has others, too.
    pub fn seat(&self) -> MutexGuard<'_, Option<Seat>> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn place(&self) -> Place<'_> {
        let (namespace, id, cgroups_path) = (&self.namespace, &*self.id, &*self.cgroups_path);
        Place { namespace, id, cgroups_path, bundle: Some(&self.bundle) }
    }

    /// Whether its shim has other containers, too.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Held for a few instructions, never over an await.
    pub fn state(&self) -> MutexGuard<'_, TaskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no other verb that changes the task is under way.
    ///
    /// # Errors
    /// It did not end in time; the error says which verb it is. The task was deleted meanwhile.
    pub async fn turn(&self, verb: &'static str) -> Result<tokio::sync::MutexGuard<'_, ()>> {
        let Ok(turn) = tokio::time::timeout(limits::TURN, self.turn.lock()).await else {
            let holder = *self.busy_with.lock().unwrap_or_else(PoisonError::into_inner);
            return Err(Error::Timeout {
                what: format!("task \"{}\": {verb}: another request ({holder}) is not finished", self.id),
                seconds: limits::TURN.as_secs(),
            });
        };
        *self.busy_with.lock().unwrap_or_else(PoisonError::into_inner) = verb;
        if self.state().removed {
            return Err(Error::not_found("task", &self.id));
        }
        Ok(turn)
    }

    /// The connection for requests.
    ///
    /// # Errors
    /// The shim is gone, and every process with it; or it could not be reached yet.
    pub fn control(&self) -> Result<Connection> {
        let state = self.state();
        if state.removed {
            return Err(Error::not_found("task", &self.id));
        }
        match &state.control {
            Some(control) => Ok(control.clone()),
            None if state.init.status == Status::Stopped => Err(self.already_finished(ProcessId::Init)),
            None => Err(self.out_of_reach()),
        }
    }

    /// Its shim could not be reached since the daemon came up, and may live.
    pub fn out_of_reach(&self) -> Error {
        Error::unavailable(format!("task \"{}\"", self.id), "its shim cannot be reached yet")
    }

    pub fn already_finished(&self, process: ProcessId<'_>) -> Error {
        Error::AlreadyFinished { container: self.id.clone(), exec_id: process.exec_id().to_owned() }
    }

    /// One process as it is now.
    ///
    /// # Errors
    /// There is no such exec.
    pub fn info(&self, process: ProcessId<'_>) -> Result<ProcessInfo> {
        let state = self.state();
        let found = self.find(&state, process)?;
        Ok(ProcessInfo {
            container_id: self.id.clone(),
            exec_id: process.exec_id().to_owned(),
            pid: found.pid,
            status: found.status,
            stdio: found.stdio.clone(),
            exit: found.exit(),
        })
    }

    /// Follows the end of a process.
    ///
    /// # Errors
    /// There is no such exec.
    pub fn exit_of(&self, process: ProcessId<'_>) -> Result<watch::Receiver<Option<Exit>>> {
        let state = self.state();
        Ok(self.find(&state, process)?.exit.subscribe())
    }

    fn find<'s>(&self, state: &'s TaskState, process: ProcessId<'_>) -> Result<&'s Process> {
        match process {
            ProcessId::Init => Ok(&state.init),
            ProcessId::Exec(exec_id) => state
                .execs
                .get(exec_id)
                .ok_or_else(|| Error::not_found("exec", format!("{exec_id} of container {}", self.id))),
        }
    }

    /// Moves the states by an event of the shim. Whether it is news.
    pub fn apply(&self, event: &shim::Event) -> bool {
        let mut state = self.state();
        if event.sequence <= state.sequence {
            return false;
        }
        state.sequence = event.sequence;
        let value = event.event.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
        if let Err(error) = state.apply(&self.id, &event.topic, value) {
            tracing::warn!(container = self.id, topic = event.topic, %error, "an event of the shim is malformed");
        }
        true
    }
}

impl TaskState {
    /// Moves the states by an event of this topic and payload.
    ///
    /// # Errors
    /// The payload is not what the topic says.
    pub fn apply(&mut self, id: &str, topic: &str, value: &[u8]) -> Result<(), prost::DecodeError> {
        match topic {
            "/tasks/create" => self.init.created(ev::TaskCreate::decode(value)?.pid),
            "/tasks/start" => self.init.started(ev::TaskStart::decode(value)?.pid),
            "/tasks/exec-added" => {
                let added = ev::TaskExecAdded::decode(value)?;
                self.exec(added.exec_id);
            }
            "/tasks/exec-started" => {
                let started = ev::TaskExecStarted::decode(value)?;
                self.exec(started.exec_id).started(started.pid);
            }
            "/tasks/exit" => self.exited(id, &ev::TaskExit::decode(value)?),
            "/tasks/oom" => self.oom = true,
            "/tasks/paused" => self.init.paused(),
            "/tasks/resumed" => self.init.resumed(),
            "/tasks/delete" => {
                let deleted = ev::TaskDelete::decode(value)?;
                if deleted.id.is_empty() || deleted.id == id {
                    self.delete_published = true;
                } else {
                    self.execs.remove(&deleted.id);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn exited(&mut self, id: &str, event: &ev::TaskExit) {
        let exit = Exit {
            status: event.exit_status,
            at: wire::timestamp(event.exited_at.as_ref()),
            oom_killed: self.oom,
        };
        if event.id.is_empty() || event.id == id {
            self.init.exited(exit);
        } else if let Some(exec) = self.execs.get_mut(&event.id) {
            exec.exited(exit);
        }
    }

    /// The exec with this id, made if it is not known yet.
    pub fn exec(&mut self, exec_id: String) -> &mut Process {
        self.execs.entry(exec_id).or_insert_with(|| Process::new(0, Status::Created, TaskStdio::default()))
    }
}
