//! Making a task with a foreign shim: bundle, shim, connection, Create.
//!
//! What always holds: until the task is handed over the creation undoes itself, whether it failed or its caller went away: no
//! shim, mount, cgroup or bundle remains, and only then is the id free again.

#![forbid(unsafe_code)]

use std::sync::Arc;

use longshore_proto::containerd::task::v3 as task_api;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::super::bundle::{Bundle, CreateRecord};
use super::super::client::{Connection, Dialect, Failure};
use super::super::create::Launch;
use super::super::process::ShimProcess;
use super::super::runtimes::ForeignRuntime;
use super::super::task::{NewTask, Process};
use super::super::types::{CreateTask, Join, ProcessId, Status};
use super::super::{Inner, Slot, Started, Task, delete_request, limits, orphan, wire};
use super::answer::{self, Answer, Form};
use super::command::Subject;
use super::{Foreign, ForeignRecord, TaskApi, bundle, delete, follow, log};
use crate::error::{Error, Result};
use crate::namespaces::Namespace;

/// Makes a task, up to where `launch` says. Goes on to its end or its undoing even if the caller does not wait.
pub async fn launch(
    manager: &Arc<Inner>,
    namespace: &Namespace,
    id: &str,
    what: CreateTask,
    runtime: ForeignRuntime,
    launch: Launch,
) -> Result<Started> {
    if matches!(launch, Launch::Started(Some(_))) {
        let what = format!("attaching to a container of the shim {}", runtime.name);
        return Err(Error::Unimplemented { what });
    }
    manager.reserve(namespace, id)?;
    manager.departed.forget(namespace, id);
    let mut making = Making {
        manager: manager.clone(),
        namespace: namespace.clone(),
        id: id.to_owned(),
        cgroups_path: orphan::cgroups_path(&what.spec),
        ended: CancellationToken::new(),
        bundle: None,
        record: ForeignRecord::new(&runtime),
        runtime,
        task: None,
    };
    let (mut sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        let made = match making.prepare(&what).await {
            Err(error) => Err(error),
            Ok(()) => tokio::select! {
                made = making.make(&what, launch) => made,
                () = sender.closed() => Err(Error::Canceled { what: format!("creating task \"{}\"", making.id) }),
            },
        };
        match made {
            Ok(pid) => {
                making.hand_over();
                if sender.send(Ok(pid)).is_err() {
                    making.undo().await;
                }
            }
            Err(error) => {
                making.undo().await;
                let _ = sender.send(Err(error));
            }
        }
    });
    let pid = receiver.await.unwrap_or(Err(Error::Lost { what: "the creation of a task" }))?;
    Ok(Started { pid, attach: None })
}

/// A task in the making, and how far it got.
struct Making {
    manager: Arc<Inner>,
    namespace: Namespace,
    id: String,
    cgroups_path: String,
    runtime: ForeignRuntime,
    record: ForeignRecord,
    /// Ends what runs beside the task.
    ended: CancellationToken,
    bundle: Option<Bundle>,
    task: Option<Arc<Task>>,
}

impl Making {
    fn create_record(&self, what: &CreateTask) -> CreateRecord {
        let path = self.manager.bundle_path(&self.namespace, &self.id);
        CreateRecord {
            request: Some(wire::create_request(&self.id, &path.to_string_lossy(), what)),
            cgroups_path: self.cgroups_path.clone(),
            foreign: Some(self.record.clone()),
            ..CreateRecord::default()
        }
    }

    /// Makes the bundle. Short, and not to be cut off: it is made on another thread.
    async fn prepare(&mut self, what: &CreateTask) -> Result<()> {
        let (manager, namespace, id) = (self.manager.clone(), self.namespace.clone(), self.id.clone());
        let (spec, record) = (what.spec.clone(), self.create_record(what));
        let made = tokio::task::spawn_blocking(move || {
            bundle::create(&manager.state, &manager.root, &namespace, &id, &spec, &record)
        });
        self.bundle = Some(made.await.unwrap_or(Err(Error::Lost { what: "the making of a bundle" }))?);
        Ok(())
    }

    async fn make(&mut self, what: &CreateTask, launch: Launch) -> Result<u32> {
        let mut record = self.create_record(what);
        let task = self.shim(what, &mut record).await?;
        // Its events may come before the answer.
        self.manager.replace(&self.namespace, &self.id, Slot::Making(task.clone()));
        let pid = self.create(&task, &mut record).await?;
        task.state().init.created(pid);
        identify(&task).await;
        match launch {
            Launch::Created => {
                task.bundle.acknowledge()?;
                Ok(pid)
            }
            Launch::Started(_) => {
                let request = task_api::StartRequest { id: self.id.clone(), exec_id: String::new() };
                let answer: task_api::StartResponse =
                    task.ask("start", "Start", &request, limits::START).await?;
                task.state().init.started(answer.pid);
                Ok(answer.pid)
            }
        }
    }

    /// Starts the shim, or joins one, and connects to it: a task without a container yet.
    async fn shim(&mut self, what: &CreateTask, record: &mut CreateRecord) -> Result<Arc<Task>> {
        let Some(bundle) = self.bundle.clone() else {
            return Err(Error::Lost { what: "the bundle of a new task" });
        };
        log::drain(&bundle, &self.id, self.ended.clone())
            .map_err(|error| Error::io("opening the log in", bundle.path(), error))?;

        let answer = match &what.join {
            Some(join) => self.join(join)?,
            None => {
                bundle.name_shim(&self.runtime.binary)?;
                let subject = Subject { namespace: &self.namespace, id: &self.id, bundle: bundle.path() };
                self.manager.commands.start(&self.runtime, subject, what.options.as_ref()).await?
            }
        };
        self.record.joined = what.join.is_some();
        self.record.address = answer.address.as_str().to_owned();
        self.record.api = answer.api.number();
        record.foreign = Some(self.record.clone());
        bundle.set_record(record)?;

        let control = self.connect(&answer.address, answer.api).await?;
        let new = NewTask {
            namespace: self.namespace.clone(),
            id: self.id.clone(),
            bundle: bundle.clone(),
            cgroups_path: self.cgroups_path.clone(),
            shim: None,
            seat: None,
            control: Some(control),
            init: Process::new(0, Status::Unknown, what.stdio.clone()),
        };
        let foreign = Foreign::new(self.runtime.clone(), answer.address, self.record.membership());
        let task = Task::of_foreign(new, foreign, self.ended.clone());
        self.task = Some(task.clone());
        Ok(task)
    }

    /// The shim that the caller named.
    fn join(&self, join: &Join) -> Result<Answer> {
        let refuse = |why: String| Error::invalid(format!("shim of task \"{}\"", self.id), why);
        let (protocol, address) = join.address.split_once('+').unwrap_or(("ttrpc", &join.address));
        let version = i32::try_from(join.api).unwrap_or(i32::MAX);
        answer::check(version, address, protocol, Form::Older).map_err(|refused| refuse(refused.to_string()))
    }

    async fn connect(&self, address: &super::Address, api: TaskApi) -> Result<Connection> {
        let fail = |error| {
            wire::failure(&self.id, "connect to its shim", &Failure::Closed(format!("{error}").into()))
        };
        let socket = follow::connect(address).await.map_err(|error: std::io::Error| fail(error))?;
        let dialect = Dialect { task: api.service(), namespace: Some(self.namespace.as_str().into()) };
        Connection::speaking(socket, dialect).map_err(fail)
    }

    /// A shim that was started by an older binary may be found by a newer one, which answers for it with the newer API.
    async fn create(&self, task: &Task, record: &mut CreateRecord) -> Result<u32> {
        let request = &record.request.clone().unwrap_or_default();
        let created: Result<task_api::CreateTaskResponse> =
            task.ask("create", "Create", request, limits::CREATE).await;
        match created {
            Err(error)
                if error.code() == tonic::Code::Unimplemented && self.record.api == TaskApi::V3.number() =>
            {
                let Some(foreign) = &task.foreign else { return Err(error) };
                let control = self.connect(&foreign.address, TaskApi::V2).await?;
                task.state().control = Some(control);
                let again: Result<task_api::CreateTaskResponse> =
                    task.ask("create", "Create", request, limits::CREATE).await;
                let created = again?;
                if let Some(foreign) = &mut record.foreign {
                    foreign.api = TaskApi::V2.number();
                }
                task.bundle.set_record(record)?;
                Ok(created.pid)
            }
            created => Ok(created?.pid),
        }
    }

    /// The task exists from here on.
    fn hand_over(&self) {
        if let Some(task) = &self.task {
            self.manager.insert(task.clone());
            follow::follow(&self.manager, task.clone());
        }
    }

    /// Removes everything and frees the id.
    async fn undo(&self) {
        if let Some(task) = &self.task {
            task.state().removed = true;
            if task.info(ProcessId::Init).is_ok_and(|info| info.pid != 0) {
                let request = delete_request(&self.id, ProcessId::Init);
                kill(task).await;
                let deleted: Result<task_api::DeleteResponse> =
                    ask_removed(task, "Delete", &request, limits::DELETE).await;
                if let Err(error) = deleted {
                    tracing::debug!(container = self.id, %error, "a shim does not delete what failed");
                }
            }
            delete::leave(&self.manager, task).await;
        }
        self.ended.cancel();
        if let Some(bundle) = &self.bundle {
            if self.task.is_none() {
                delete::clean_up_unstarted(&self.manager, &self.runtime, &self.namespace, &self.id, bundle)
                    .await;
            }
            let bundle = bundle.clone();
            let _ = tokio::task::spawn_blocking(move || bundle::remove(&bundle)).await;
        }
        self.manager.release(&self.namespace, &self.id);
    }
}

/// Kills a container that was started and of which nobody knows.
async fn kill(task: &Task) {
    let request = task_api::KillRequest {
        id: task.id.clone(),
        signal: libc::SIGKILL.unsigned_abs(),
        all: true,
        ..task_api::KillRequest::default()
    };
    let exit = task.exit_of(ProcessId::Init);
    let killed: Result<()> = ask_removed(task, "Kill", &request, limits::REQUEST).await;
    if killed.is_ok()
        && let Ok(mut exit) = exit
    {
        let _ = tokio::time::timeout(limits::EVENT_GRACE, exit.wait_for(Option::is_some)).await;
    }
}

/// A request about a task that is being removed already.
async fn ask_removed<R: prost::Message, A: prost::Message + Default>(
    task: &Task,
    method: &'static str,
    request: &R,
    limit: std::time::Duration,
) -> Result<A> {
    let control = task.state().control.clone().ok_or_else(|| task.out_of_reach())?;
    control
        .unary(control.task_service(), method, request, limit)
        .await
        .map_err(|failure| wire::failure(&task.id, "undo", &failure))
}

/// Learns which process the shim is, and holds on to it: it is the shim for certain if it answers once more afterwards.
pub async fn identify(task: &Task) {
    let Some(foreign) = &task.foreign else { return };
    let request = task_api::ConnectRequest { id: task.id.clone() };
    let connect = || async {
        let answer: Result<task_api::ConnectResponse> =
            task.ask("connect", "Connect", &request, limits::REQUEST).await;
        answer.map(|answer| answer.shim_pid).ok().filter(|pid| *pid > 1)
    };
    let Some(pid) = connect().await else { return };
    let Some(process) = i32::try_from(pid).ok().and_then(|pid| ShimProcess::open(pid).ok()) else { return };
    if connect().await == Some(pid) {
        foreign.set_process(process);
        if let Err(error) = std::fs::write(task.bundle.path().join("shim.pid"), pid.to_string()) {
            tracing::debug!(container = task.id, %error, "cannot note the process of a shim");
        }
    }
}
