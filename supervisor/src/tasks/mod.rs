//! Tasks: the shims of this daemon, the verbs that they carry out, their events, and finding them again at start.
//!
//! What always holds:
//! - The daemon holds no container's life: a task is its shim and its bundle, and what is here can be made anew from them.
//! - A request waits on its own shim only, and not for ever; the error says which step was not answered.
//! - Verbs that change a task are carried out one after another per task; no lock covers more than one task, and none but
//!   a task's own turn is held over an await.
//! - A caller that goes away leaves nothing half made: a creation or an exec undoes itself, a deletion goes on.

#![deny(unsafe_code)]

mod attach;
mod bundle;
mod client;
mod create;
mod delete;
mod exec;
mod foreign;
mod group;
mod limits;
mod monitor;
mod orphan;
mod pool;
mod process;
mod recover;
mod runtimes;
pub mod sandbox;
mod shim_log;
#[allow(unsafe_code)]
mod sys;
mod task;
mod types;
mod verbs;
mod wire;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longshore_proto::containerd::task::v3 as shim_task;
use longshore_proto::containerd::types::RuntimeInfo;

pub use attach::{AttachReceiver, AttachSender, AttachStream};
pub use foreign::command::Addresses;
pub use recover::Recovered;
pub use runtimes::{Runtime, Runtimes};
pub use types::{
    AttachInput, AttachOutput, AttachStreams, CreateTask, Deleted, ExecTask, Exit, Join, ProcessId,
    ProcessInfo, RootfsMount, Status, TaskStdio,
};
pub use verbs::KillScope;

use crate::any::Any;
use crate::error::{Error, Result};
use crate::events::EventBus;
use crate::namespaces::Namespace;
use create::Launch;
use pool::ShimPool;
use task::Task;

/// How the task layer is set up.
#[derive(Clone, Debug)]
pub struct TaskOptions {
    /// The daemon's state folder; bundles are in `tasks/` below it.
    pub state: PathBuf,
    /// The shim's binary; unset: beside the daemon, then on PATH.
    pub shim: Option<PathBuf>,
    /// Shims that wait for containers.
    pub pool: usize,
    /// The daemon's root folder; working folders of other shims are in `work/` below it.
    pub root: PathBuf,
    pub runtimes: Runtimes,
    /// What other shims are told of the daemon's sockets.
    pub addresses: Addresses,
}

/// A process that was started.
pub struct Started {
    pub pid: u32,
    /// Set if streams were asked for.
    pub attach: Option<AttachStream>,
}

/// The daemon's tasks.
pub struct TaskManager {
    inner: Arc<Inner>,
}

struct Inner {
    state: PathBuf,
    pool: Arc<ShimPool>,
    events: Arc<EventBus>,
    slots: Mutex<Slots>,
    root: PathBuf,
    runtimes: Runtimes,
    commands: foreign::command::Commands,
    departed: foreign::Departed,
    groups: group::Groups,
}

type Slots = HashMap<Namespace, HashMap<String, Slot>>;

/// What a container id is taken by.
enum Slot {
    /// A task in the making, or being undone.
    Reserved,
    /// The same, with a foreign shim whose events come already.
    Making(Arc<Task>),
    Task(Arc<Task>),
}

impl TaskManager {
    /// Sets up the pool; tasks that exist already are found by [`TaskManager::recover`]. Needs a tokio runtime.
    ///
    /// # Errors
    /// The shim's binary cannot be found or read.
    pub fn new(options: TaskOptions, events: Arc<EventBus>) -> Result<Arc<Self>> {
        let pool = ShimPool::new(options.shim.as_deref(), options.pool, &options.state)?;
        bundle::link_tasks_folder(&options.state);
        let inner = Inner {
            state: options.state,
            pool,
            events,
            slots: Mutex::default(),
            root: options.root,
            runtimes: options.runtimes,
            commands: foreign::command::Commands::new(options.addresses),
            departed: foreign::Departed::default(),
            groups: group::Groups::default(),
        };
        Ok(Arc::new(Self { inner: Arc::new(inner) }))
    }

    /// Makes a task whose init waits at its gate; its pid. Undone if it fails or the caller goes away.
    ///
    /// # Errors
    /// AlreadyExists; whatever the shim says about the spec; no answer in time.
    pub async fn create(&self, namespace: &Namespace, id: &str, task: CreateTask) -> Result<u32> {
        Ok(self.inner.launch(namespace, id, task, Launch::Created).await?.pid)
    }

    /// Makes a task, joins its stdio and starts it, all with one message to a waiting shim. Undone if it fails or the
    /// caller goes away.
    ///
    /// # Errors
    /// As [`TaskManager::create`], and those of [`TaskManager::start`].
    pub async fn create_attach_start(
        &self,
        namespace: &Namespace,
        id: &str,
        task: CreateTask,
        attach: Option<AttachStreams>,
    ) -> Result<Started> {
        self.inner.launch(namespace, id, task, Launch::Started(attach)).await
    }

    /// Who runs a container that names this runtime.
    ///
    /// # Errors
    /// There is no shim for it.
    pub fn runtime(&self, name: &str) -> Result<Runtime> {
        self.inner.runtimes.find(name)
    }

    /// What the shim of this runtime says of itself and, given its options, of what it drives.
    ///
    /// # Errors
    /// There is no shim for it; it cannot be run, or does not know the question.
    pub async fn runtime_info(&self, name: &str, options: Option<&Any>) -> Result<RuntimeInfo> {
        let runtime = match self.inner.runtimes.find(name)? {
            Runtime::Own => self.inner.pool.by_protocol(),
            Runtime::Foreign(runtime) => runtime,
        };
        self.inner.commands.info(&runtime, options).await
    }

    /// A process as it is now; never waits.
    ///
    /// # Errors
    /// NotFound.
    pub fn get(&self, namespace: &Namespace, id: &str, process: ProcessId<'_>) -> Result<ProcessInfo> {
        self.inner.task(namespace, id)?.info(process)
    }

    /// The first process of every task of a namespace; never waits.
    pub fn list(&self, namespace: &Namespace) -> Vec<ProcessInfo> {
        let tasks = self.inner.tasks(namespace);
        let mut list: Vec<_> = tasks.iter().filter_map(|task| task.info(ProcessId::Init).ok()).collect();
        list.sort_by(|a, b| a.container_id.cmp(&b.container_id));
        list
    }

    /// Ids of the processes that were added to a task and have not ended; never waits.
    pub fn execs(&self, namespace: &Namespace, id: &str) -> Vec<String> {
        let Ok(task) = self.inner.task(namespace, id) else { return Vec::new() };
        let state = task.state();
        let live = state.execs.iter().filter(|(_, process)| process.exit().is_none());
        live.map(|(exec_id, _)| exec_id.clone()).collect()
    }

    /// As [`TaskManager::execs`], with those that have ended and were not deleted.
    pub fn kept_execs(&self, namespace: &Namespace, id: &str) -> Vec<String> {
        let task = self.inner.task(namespace, id);
        task.map(|task| task.state().execs.keys().cloned().collect()).unwrap_or_default()
    }

    /// Whether a task is where the next one of this group would be.
    pub fn is_in(&self, namespace: &Namespace, id: &str, group: &str) -> bool {
        let task = self.inner.task(namespace, id);
        task.is_ok_and(|task| task.seat().as_ref().is_some_and(|seat| seat.is_of(namespace, group)))
    }

    /// Every task of every namespace, by its container's id.
    pub fn all(&self) -> std::collections::HashSet<(Namespace, String)> {
        let slots = self.inner.slots();
        let tasks = slots.iter().flat_map(|(namespace, tasks)| tasks.keys().map(move |id| (namespace, id)));
        tasks.map(|(namespace, id)| (namespace.clone(), id.clone())).collect()
    }

    /// Finds the tasks that were there before this daemon. Called once, before requests are served.
    ///
    /// # Errors
    /// The folder of bundles cannot be read.
    pub async fn recover(&self) -> Result<Recovered> {
        recover::all(&self.inner).await
    }
}

impl Inner {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn task(&self, namespace: &Namespace, id: &str) -> Result<Arc<Task>> {
        match self.slots().get(namespace).and_then(|tasks| tasks.get(id)) {
            Some(Slot::Task(task)) => Ok(task.clone()),
            Some(Slot::Reserved | Slot::Making(_)) | None => Err(Error::not_found("task", id)),
        }
    }

    fn tasks(&self, namespace: &Namespace) -> Vec<Arc<Task>> {
        let slots = self.slots();
        let tasks = slots.get(namespace).into_iter().flat_map(HashMap::values);
        tasks
            .filter_map(|slot| match slot {
                Slot::Task(task) => Some(task.clone()),
                Slot::Reserved | Slot::Making(_) => None,
            })
            .collect()
    }

    fn bundle_path(&self, namespace: &Namespace, id: &str) -> PathBuf {
        bundle::tasks_folder(&self.state).join(namespace.as_str()).join(id)
    }
}

/// The request by which a shim deletes a process.
fn delete_request(id: &str, process: ProcessId<'_>) -> shim_task::DeleteRequest {
    shim_task::DeleteRequest { id: id.to_owned(), exec_id: process.exec_id().to_owned() }
}

/// Carries something through to its end even if the caller goes away.
async fn carried_through<T: Send + 'static>(
    what: &'static str,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await.unwrap_or(Err(Error::Lost { what }))
}
