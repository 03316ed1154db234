//! Making a task: a waiting shim is handed a bundle, and everything it has to do is sent in one write. A task of a group goes to
//! the group's shim instead.
//!
//! What always holds: until [`Creation::finish`] the creation undoes itself, whether it failed or its caller went away:
//! no shim, process, cgroup or bundle remains, and only then is the id free again; other tasks of a group notice nothing.

#![forbid(unsafe_code)]

use std::sync::Arc;

use longshore_proto::containerd::task::v3 as task;
use longshore_proto::longshore::shim::v1 as shim;
use longshore_proto::ttrpc::Code;
use tokio::task::JoinHandle;

use super::attach::AttachStream;
use super::bundle::{Bundle, CreateRecord};
use super::client::{Connection, Failure, Incoming};
use super::group::{Place, Seat};
use super::pool::WaitingShim;
use super::process::ShimProcess;
use super::runtimes::Runtime;
use super::task::{NewTask, Process, Task};
use super::types::{AttachStreams, CreateTask, ProcessId, Status};
use super::{Inner, Slot, Started, delete, delete_request, foreign, limits, monitor, orphan, shim_log, wire};
use crate::error::{Error, Result};
use crate::namespaces::{Namespace, check_identifier};

/// How far a creation goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Launch {
    /// The container's init waits at its gate.
    Created,
    /// It runs, and the caller joined it before.
    Started(Option<AttachStreams>),
}

impl Inner {
    /// Makes a task, up to where `launch` says.
    pub(super) async fn launch(
        self: &Arc<Self>,
        namespace: &Namespace,
        id: &str,
        what: CreateTask,
        launch: Launch,
    ) -> Result<Started> {
        check_identifier("task", id)?;
        if what.spec.len() > limits::SPEC {
            return Err(Error::ResourceExhausted {
                what: format!("spec of task \"{id}\" ({} bytes)", what.spec.len()),
                limit: "bytes of an OCI spec",
                max: limits::SPEC as u64,
            });
        }
        match self.runtimes.find(&what.runtime)? {
            Runtime::Foreign(runtime) => {
                return foreign::launch(self, namespace, id, what, runtime, launch).await;
            }
            Runtime::Own if what.join.is_some() => {
                return foreign::launch(self, namespace, id, what, self.pool.by_protocol(), launch).await;
            }
            Runtime::Own => {}
        }
        let what = &what;
        let mut creation = Creation::reserve(self, namespace, id, orphan::cgroups_path(&what.spec))?;
        let mut home = self.home(namespace, what, false).await?;
        let mut retried = false;
        loop {
            let result = match home {
                Home::Own(shim) => creation.hand_over(shim, what, launch).await,
                Home::Shared(seat) => creation.sit_down(seat, what, launch).await,
            };
            match result {
                Ok(handed) => return creation.finish(what, handed, launch),
                // It died while it waited, as far as can be told: it has answered nothing.
                Err(step) if step.died_waiting && !retried => {
                    retried = true;
                    creation.discard().await;
                    home = self.home(namespace, what, true).await?;
                }
                Err(step) => {
                    creation.undo(step.at).await;
                    return Err(step.error);
                }
            }
        }
    }

    async fn home(self: &Arc<Self>, namespace: &Namespace, what: &CreateTask, again: bool) -> Result<Home> {
        match &what.group {
            Some(group) => Ok(Home::Shared(self.join(namespace, group).await?)),
            None if again => Ok(Home::Own(self.pool.fresh()?)),
            None => Ok(Home::Own(self.pool.take()?)),
        }
    }
}

/// The shim of a task in the making.
enum Home {
    Own(WaitingShim),
    Shared(Seat),
}

/// What a shim answered.
struct Handed {
    pid: u32,
    control: Connection,
    events: Incoming<shim::Event>,
    attach: Option<AttachStream>,
}

/// How far a shim got, which decides how it is taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    /// It may have made processes and cgroups and cannot be relied on.
    Anything,
    /// It refused to create, and cleaned up after itself.
    Nothing,
    /// It made the container, whose first process could not be started.
    Created,
}

/// A step that failed.
struct Step {
    error: Error,
    at: Reached,
    /// The shim was dead before it answered anything.
    died_waiting: bool,
}

impl Step {
    fn call<'a>(id: &'a str, name: &'static str, at: Reached) -> impl FnOnce(Failure) -> Self + 'a {
        move |failure| {
            // A shim whose own patience ended is still at it.
            let is_over = matches!(&failure, Failure::Refused(why) if why.code != Code::DeadlineExceeded);
            let at = if is_over { at } else { Reached::Anything };
            let died_waiting = name == ASSIGN && matches!(failure, Failure::Closed(_));
            Self { error: wire::failure(id, name, &failure), at, died_waiting }
        }
    }

    fn local(error: Error) -> Self {
        Self { error, at: Reached::Nothing, died_waiting: false }
    }
}

const ASSIGN: &str = "hand the bundle to the shim";

/// A task in the making.
struct Creation {
    manager: Arc<Inner>,
    namespace: Namespace,
    id: String,
    cgroups_path: String,
    parts: Option<Parts>,
}

#[derive(Default)]
struct Parts {
    /// None if it is shared.
    shim: Option<ShimProcess>,
    seat: Option<Seat>,
    bundle: Option<Bundle>,
    control: Option<Connection>,
}

impl Creation {
    /// Takes the id.
    fn reserve(manager: &Arc<Inner>, namespace: &Namespace, id: &str, cgroups_path: String) -> Result<Self> {
        manager.reserve(namespace, id)?;
        Ok(Self {
            manager: manager.clone(),
            namespace: namespace.clone(),
            id: id.to_owned(),
            cgroups_path,
            parts: Some(Parts::default()),
        })
    }

    fn parts(&mut self) -> &mut Parts {
        self.parts.get_or_insert_default()
    }

    /// Gives a shim its bundle, sends everything at once and waits for the answers.
    async fn hand_over(
        &mut self,
        shim: WaitingShim,
        what: &CreateTask,
        launch: Launch,
    ) -> Result<Handed, Step> {
        let (pid, started_at) = (shim.process.pid(), shim.started_at);
        self.parts().shim = Some(shim.process);
        let (bundle, request) = self.prepare(what, pid, started_at, "").map_err(Step::local)?;
        let path = bundle.path().to_string_lossy().into_owned();
        let control = Connection::new(shim.socket)
            .map_err(|e| Step::local(Error::io("registering the socket of the shim of", &path, e)))?;
        self.parts().control = Some(control.clone());
        let assign = shim::AssignRequest {
            namespace: self.namespace.as_str().to_owned(),
            id: self.id.clone(),
            bundle: path,
            shared: false,
        };
        self.ask(control, Some(&assign), &request, launch).await
    }

    /// As [`Creation::hand_over`], for a shim that has, or will have, other containers, too.
    async fn sit_down(&mut self, seat: Seat, what: &CreateTask, launch: Launch) -> Result<Handed, Step> {
        let seat = self.parts().seat.insert(seat);
        let (pid, started_at, group) = (seat.process().pid(), seat.started_at(), seat.group().to_owned());
        let folder = seat.folder().to_owned();
        let connected = seat.connect().await;
        if connected.is_err() {
            seat.close();
        }
        let control = connected.map_err(|error| Step {
            error: Error::io("connecting to the shim in", &folder, error),
            at: Reached::Nothing,
            died_waiting: true,
        })?;
        self.parts().control = Some(control.clone());
        let (bundle, request) = self.prepare(what, pid, started_at, &group).map_err(Step::local)?;
        bundle.link_shim(&folder).map_err(Step::local)?;
        self.ask(control, None, &request, launch).await
    }

    /// Makes the bundle, and says what the shim is asked for.
    fn prepare(
        &mut self,
        what: &CreateTask,
        shim_pid: i32,
        shim_started_at: u64,
        group: &str,
    ) -> Result<(Bundle, task::CreateTaskRequest)> {
        let path = self.manager.bundle_path(&self.namespace, &self.id);
        let request = wire::create_request(&self.id, &path.to_string_lossy(), what);
        let record = CreateRecord {
            request: Some(request.clone()),
            shim_pid,
            shim_started_at,
            cgroups_path: self.cgroups_path.clone(),
            foreign: None,
            group: group.to_owned(),
        };
        let state = &self.manager.state;
        let bundle = Bundle::create(state, &self.namespace, &self.id, &what.spec, &record)?;
        self.parts().bundle = Some(bundle.clone());
        bundle.name_shim(self.manager.pool.program())?;
        bundle.link_log(shim_log::NAME)?;
        Ok((bundle, request))
    }

    async fn ask(
        &self,
        control: Connection,
        assign: Option<&shim::AssignRequest>,
        request: &task::CreateTaskRequest,
        launch: Launch,
    ) -> Result<Handed, Step> {
        let start = task::StartRequest { id: self.id.clone(), exec_id: String::new() };
        let follow = shim::EventsRequest { after: 0, id: self.id.clone() };
        let patience = if request.checkpoint.is_empty() { limits::CREATE } else { limits::CHECKPOINT };
        let (assigned, created, events, attached, started) = control
            .pipeline(|p| {
                let limit = limits::CREATE;
                let assigned = assign
                    .map(|assign| p.unary::<_, shim::AssignResponse>(wire::SHIM, "Assign", assign, limit))
                    .transpose()?;
                let created =
                    p.unary::<_, task::CreateTaskResponse>(wire::TASK, "Create", request, patience)?;
                let events = p.server_stream(wire::SHIM, "Events", &follow)?;
                let (mut attached, mut started) = (None, None);
                if let Launch::Started(streams) = launch {
                    if let Some(streams) = streams {
                        let join = wire::attach_start(&self.id, "", streams);
                        attached = Some(p.duplex(wire::SHIM, "Attach", &join)?);
                    }
                    let limit = limits::START;
                    started = Some(p.unary::<_, task::StartResponse>(wire::TASK, "Start", &start, limit)?);
                }
                Ok((assigned, created, events, attached, started))
            })
            .map_err(Step::call(&self.id, ASSIGN, Reached::Anything))?;
        if let Some(assigned) = assigned {
            assigned.answer().await.map_err(Step::call(&self.id, ASSIGN, Reached::Nothing))?;
        }
        let created = created.answer().await.map_err(|failure| {
            // It was the first to be asked, if the shim had its folder before.
            let died_waiting = assign.is_none() && matches!(failure, Failure::Closed(_));
            Step { died_waiting, ..Step::call(&self.id, "create", Reached::Nothing)(failure) }
        });
        let mut pid = created?.pid;
        if let Some(started) = started {
            pid = started.answer().await.map_err(Step::call(&self.id, "start", Reached::Created))?.pid;
        }
        let attach = attached.map(|ends| AttachStream::new(&self.id, ends));
        Ok(Handed { pid, control, events, attach })
    }

    /// The task exists from here on.
    fn finish(mut self, what: &CreateTask, handed: Handed, launch: Launch) -> Result<Started> {
        let parts = self.parts.take().unwrap_or_default();
        let Some(bundle) = parts.bundle else { return Err(Error::Lost { what: "the bundle of a new task" }) };
        let status = match launch {
            Launch::Created => Status::Created,
            Launch::Started(_) => Status::Running,
        };
        let acknowledged = match launch {
            Launch::Created => bundle.acknowledge(),
            Launch::Started(_) => Ok(()),
        };
        let shared = parts.seat.as_ref().map(|seat| seat.process().clone());
        let task = Task::new(NewTask {
            namespace: self.namespace.clone(),
            id: self.id.clone(),
            bundle,
            cgroups_path: std::mem::take(&mut self.cgroups_path),
            shim: shared.or(parts.shim.map(Arc::new)),
            seat: parts.seat,
            control: Some(handed.control),
            init: Process::new(handed.pid, status, what.stdio.clone()),
        });
        self.manager.insert(task.clone());
        monitor::watch(&self.manager, task, handed.events);
        acknowledged.map(|()| Started { pid: handed.pid, attach: handed.attach })
    }

    /// Takes back what one shim was given, to give it to another.
    async fn discard(&mut self) {
        let parts = self.parts.replace(Parts::default()).unwrap_or_default();
        let (manager, namespace) = (self.manager.clone(), self.namespace.clone());
        let (id, cgroups_path) = (self.id.clone(), self.cgroups_path.clone());
        // Everything was sent at once: it may have begun, and what is left of that would be in the next one's way.
        let work = async move {
            parts.take_down(&manager, &namespace, &id, &cgroups_path, Reached::Anything).await;
        };
        // It goes on even if the caller does not wait.
        let _ = tokio::spawn(work).await;
    }

    /// Removes everything and frees the id; goes on even if the caller does not wait.
    async fn undo(mut self, reached: Reached) {
        if let Some(undoing) = self.begin_undo(reached) {
            let _ = undoing.await;
        }
    }

    fn begin_undo(&mut self, reached: Reached) -> Option<JoinHandle<()>> {
        let parts = self.parts.take()?;
        let (manager, namespace) = (self.manager.clone(), self.namespace.clone());
        let (id, cgroups_path) = (self.id.clone(), self.cgroups_path.clone());
        let undo = async move {
            parts.take_down(&manager, &namespace, &id, &cgroups_path, reached).await;
            manager.release(&namespace, &id);
        };
        // Without a runtime the daemon is ending; its next start cleans up.
        tokio::runtime::Handle::try_current().ok().map(|runtime| runtime.spawn(undo))
    }
}

impl Drop for Creation {
    fn drop(&mut self) {
        self.begin_undo(Reached::Anything);
    }
}

impl Parts {
    async fn take_down(
        self,
        manager: &Inner,
        namespace: &Namespace,
        id: &str,
        cgroups_path: &str,
        reached: Reached,
    ) {
        if let Some(seat) = self.seat {
            let place = Place { namespace, id, cgroups_path, bundle: self.bundle.as_ref() };
            return manager.stand_up(seat, self.control, place, reached != Reached::Nothing).await;
        }
        let mut clean = reached == Reached::Nothing;
        if let Some(control) = &self.control
            && reached != Reached::Anything
        {
            match leave(control, id, reached).await {
                Ok(()) => clean = true,
                Err(failure) => {
                    tracing::debug!(container = id, %failure, "a shim whose container failed does not clean up");
                }
            }
        }
        drop(self.control);
        if let Some(shim) = self.shim {
            let left = clean && shim.ended_within(limits::SHIM_EXIT).await;
            if !left && !shim.kill_and_wait(limits::SHIM_EXIT).await {
                tracing::error!(container = id, pid = shim.pid(), "a shim cannot be killed");
            }
            if !left {
                orphan::remove(manager, id, cgroups_path, self.bundle.as_ref()).await;
            }
        }
        if let Some(bundle) = self.bundle {
            bundle.remove();
        }
    }
}

/// Asks a shim to remove its container and to go.
async fn leave(control: &Connection, id: &str, reached: Reached) -> Result<(), Failure> {
    if reached == Reached::Created {
        let request = delete_request(id, ProcessId::Init);
        let deleted = control.unary(wire::TASK, "Delete", &request, limits::DELETE).await;
        deleted.map(|_: task::DeleteResponse| ())?;
    }
    delete::shut_down(control, id);
    Ok(())
}

impl Inner {
    pub(super) fn reserve(&self, namespace: &Namespace, id: &str) -> Result<()> {
        let mut slots = self.slots();
        let tasks = slots.entry(namespace.clone()).or_default();
        if tasks.contains_key(id) {
            return Err(Error::already_exists("task", id));
        }
        tasks.insert(id.to_owned(), Slot::Reserved);
        Ok(())
    }

    pub(super) fn insert(&self, task: Arc<Task>) {
        let (namespace, id) = (task.namespace.clone(), task.id.clone());
        self.replace(&namespace, &id, Slot::Task(task));
    }

    pub(super) fn replace(&self, namespace: &Namespace, id: &str, slot: Slot) {
        self.slots().entry(namespace.clone()).or_default().insert(id.to_owned(), slot);
    }

    pub(super) fn release(&self, namespace: &Namespace, id: &str) {
        let mut slots = self.slots();
        if let Some(tasks) = slots.get_mut(namespace) {
            tasks.remove(id);
            if tasks.is_empty() {
                slots.remove(namespace);
            }
        }
    }
}
