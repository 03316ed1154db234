//! `containerd.services.tasks.v1.Tasks`: containerd's task API, translated to the task manager.
//!
//! What always holds: a task is made from its container's stored spec, by the shim of its container's runtime; a list never
//! waits on a shim, and one shim that does not answer costs a list of metrics its own entry only.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt;
use jiff::Timestamp;
use longshore_proto::containerd::runc::v1::{CheckpointOptions, Options as RuncOptions};
use longshore_proto::containerd::services::tasks::v1 as api;
use longshore_proto::containerd::types::Metric;
use longshore_proto::containerd::v1::types as wire;
use prost::Message;
use tonic::{Request, Response, Status};

use super::convert::{descriptor, from_descriptor};
use crate::any::Any;
use crate::checkpoints::Checkpoints;
use crate::containers::ContainerStore;
use crate::error::{Error, Result as CoreResult};
use crate::filters::{Adaptor, Filter};
use crate::labels::Labels;
use crate::mounts::{MountManager, Wanted, needs_activation};
use crate::namespaces::Namespace;
use crate::sandboxes::SandboxStore;
use crate::services::Services;
use crate::snapshots::Mount;
use crate::tasks::sandbox::Sandboxes;
use crate::tasks::{
    CreateTask, Deleted, ExecTask, Join, KillScope, ProcessId, ProcessInfo, RootfsMount, Runtime,
    Status as TaskStatus, TaskManager, TaskStdio,
};

const CHECKPOINT_OPTIONS: &str = "containerd.runc.v1.CheckpointOptions";
const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";
const OWN_OPTIONS: &str = "longshore.shim.v1.CreateOptions";

/// The annotation by which a runtime says which types of mounts, or prefixes as in `format/*`, it handles itself.
const ALLOWED_MOUNTS: &str = "containerd.io/runtime-allow-mounts";

/// How many shims are asked for metrics at one time.
const METRICS_AT_ONCE: usize = 16;

/// The service.
#[derive(Clone)]
pub struct TasksService {
    tasks: Arc<TaskManager>,
    containers: Arc<ContainerStore>,
    checkpoints: Arc<Checkpoints>,
    mounts: Arc<MountManager>,
    sandboxes: Arc<SandboxStore>,
    sandbox_shims: Arc<Sandboxes>,
}

impl TasksService {
    pub fn new(services: &Services) -> Self {
        let checkpoints = Arc::new(Checkpoints::new(services.content.clone(), &services.config.root));
        checkpoints.sweep(|namespace, id| services.tasks.get(namespace, id, ProcessId::Init).is_ok());
        Self {
            tasks: services.tasks.clone(),
            containers: services.containers.clone(),
            mounts: services.mounts.clone(),
            checkpoints,
            sandboxes: services.sandboxes.clone(),
            sandbox_shims: services.sandbox_shims.clone(),
        }
    }

    /// Makes those of the root's mounts that no runtime can make, under the container's id; what is left replaces them. They go with
    /// the task, or with the container.
    async fn activate(
        &self,
        namespace: &Namespace,
        id: &str,
        task: &mut CreateTask,
    ) -> CoreResult<Activated> {
        let mounts: Vec<Mount> = task.rootfs.iter().cloned().map(Mount::from).collect();
        if !needs_activation(&mounts, &[]) {
            return Ok(Activated::Nothing);
        }
        let labels = Labels::from([("containerd.io/gc.bref.container".to_owned(), id.to_owned())]);
        let allowed = match self.tasks.runtime_info(&task.runtime, task.options.as_ref()).await {
            Ok(info) => {
                info.annotations.get(ALLOWED_MOUNTS).map(String::as_str).unwrap_or_default().to_owned()
            }
            Err(error) => {
                tracing::debug!(%namespace, id, "the runtime does not say what it mounts itself: {error}");
                String::new()
            }
        };
        let allowed: Vec<String> =
            allowed.split(',').filter(|kind| !kind.is_empty()).map(str::to_owned).collect();
        if !needs_activation(&mounts, &allowed) {
            return Ok(Activated::Nothing);
        }
        let wanted = Wanted { mounts, labels, allowed, ..Wanted::default() };
        let (activation, activated) = match self.mounts.activate(namespace, id, wanted).await {
            Ok(activation) => (activation, Activated::Now),
            Err(Error::AlreadyExists { .. }) => (self.mounts.info(namespace, id)?, Activated::Before),
            Err(error) => return Err(error),
        };
        task.rootfs = activation.system.into_iter().map(RootfsMount::from).collect();
        Ok(activated)
    }

    async fn deactivate(&self, namespace: &Namespace, id: &str) {
        match self.mounts.deactivate(namespace, id).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => tracing::error!(%namespace, id, "cannot take a task's mounts down: {error}"),
        }
    }

    async fn create_task(
        &self,
        namespace: &Namespace,
        request: api::CreateTaskRequest,
    ) -> CoreResult<CreateTask> {
        let container = self.containers.get(namespace, &request.container_id)?;
        let join = self.join(namespace, &container.sandbox_id, &request)?;
        let runtime =
            if request.runtime_path.is_empty() { container.runtime.name } else { request.runtime_path };
        let given = request.options.map(Any::from).filter(|options| !options.value.is_empty());
        let options = given.or(container.runtime.options);
        let mut checkpoint = options.as_ref().map(checkpoint_path).transpose()?.flatten();
        if let (None, Some(image)) = (&checkpoint, request.checkpoint) {
            let image = from_descriptor(image)?;
            checkpoint = Some(self.checkpoints.unpack(namespace, &request.container_id, &image).await?);
        }
        let options = match self.tasks.runtime(&runtime)? {
            Runtime::Own => options.map(check_options).transpose()?.flatten(),
            Runtime::Foreign(_) => options,
        };
        let spec = container
            .spec
            .ok_or_else(|| Error::precondition(format!("container \"{}\"", container.id), "has no spec"))?;
        Ok(CreateTask {
            spec: spec.value,
            rootfs: request
                .rootfs
                .into_iter()
                .map(|mount| RootfsMount {
                    kind: mount.r#type,
                    source: mount.source,
                    target: mount.target,
                    options: mount.options,
                })
                .collect(),
            stdio: TaskStdio {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
            options,
            runtime,
            checkpoint,
            join,
            group: None,
        })
    }

    /// The shim that the task is created in, if that is not one of its own: the one that the client names, or the sandbox's.
    fn join(
        &self,
        namespace: &Namespace,
        sandbox: &str,
        request: &api::CreateTaskRequest,
    ) -> CoreResult<Option<Join>> {
        if !request.task_api_address.is_empty() {
            let address = request.task_api_address.clone();
            return Ok(Some(Join { address, api: request.task_api_version }));
        }
        if sandbox.is_empty() {
            return Ok(None);
        }
        // A sandbox that nobody recorded is one by name only: its first container is what the others find.
        match self.sandboxes.get(namespace, sandbox) {
            Ok(_) => self.sandbox_shims.join(namespace, sandbox),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Where the options of a checkpoint say that its images go, rather than into the content store.
fn image_path(options: &Any) -> CoreResult<Option<PathBuf>> {
    if !options.is(CHECKPOINT_OPTIONS) {
        let why = format!("are {}, not {CHECKPOINT_OPTIONS}", options.type_url);
        return Err(Error::invalid("checkpoint options", why));
    }
    let options = CheckpointOptions::decode(options.value.clone())
        .map_err(|error| Error::invalid("checkpoint options", error.to_string()))?;
    Ok(Some(PathBuf::from(options.image_path)).filter(|path| !path.as_os_str().is_empty()))
}

/// What became of a root's mounts before its task was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activated {
    Nothing,
    /// By this request.
    Now,
    /// For an earlier task of the container.
    Before,
}

/// Where runc's options say that the images of a checkpoint are to start from.
fn checkpoint_path(options: &Any) -> CoreResult<Option<PathBuf>> {
    if !options.is(RUNC_OPTIONS) {
        return Ok(None);
    }
    let runc = RuncOptions::decode(options.value.clone())
        .map_err(|error| Error::invalid("task options", error.to_string()))?;
    Ok(Some(PathBuf::from(runc.criu_image_path)).filter(|path| !path.as_os_str().is_empty()))
}

/// The options as our shim is given them; empty ones are none.
fn check_options(options: Any) -> CoreResult<Option<Any>> {
    if options.type_url.is_empty() && options.value.is_empty() {
        return Ok(None);
    }
    if options.is(OWN_OPTIONS) {
        return Ok(Some(Any::new(OWN_OPTIONS, options.value)));
    }
    if !options.is(RUNC_OPTIONS) {
        return Err(Error::invalid(
            format!("task options of type \"{}\"", options.type_url),
            format!("only {RUNC_OPTIONS} and {OWN_OPTIONS} are understood"),
        ));
    }
    RuncOptions::decode(options.value.clone())
        .map_err(|error| Error::invalid("task options", error.to_string()))?;
    Ok(Some(Any::new(RUNC_OPTIONS, options.value)))
}

fn wire_time(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}

fn wire_process(info: ProcessInfo) -> wire::Process {
    let status = match info.status {
        TaskStatus::Unknown => wire::Status::Unknown,
        TaskStatus::Created => wire::Status::Created,
        TaskStatus::Running => wire::Status::Running,
        TaskStatus::Paused => wire::Status::Paused,
        TaskStatus::Stopped => wire::Status::Stopped,
    };
    let id = if info.exec_id.is_empty() { info.container_id.clone() } else { info.exec_id };
    wire::Process {
        container_id: info.container_id,
        id,
        pid: info.pid,
        status: status.into(),
        stdin: info.stdio.stdin,
        stdout: info.stdio.stdout,
        stderr: info.stdio.stderr,
        terminal: info.stdio.terminal,
        exit_status: info.exit.map_or(0, |exit| exit.status),
        exited_at: info.exit.map(|exit| wire_time(exit.at)),
    }
}

fn wire_deleted(id: String, deleted: Deleted) -> api::DeleteResponse {
    api::DeleteResponse {
        id,
        pid: deleted.pid,
        exit_status: deleted.exit.status,
        exited_at: Some(wire_time(deleted.exit.at)),
    }
}

/// A task as filters see it.
struct Filtered<'a> {
    namespace: &'a Namespace,
    process: &'a ProcessInfo,
}

impl Adaptor for Filtered<'_> {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["id"] => Some(self.process.container_id.clone()),
            ["namespace"] => Some(self.namespace.to_string()),
            ["status"] => Some(format!("{:?}", self.process.status).to_lowercase()),
            _ => None,
        }
    }
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl api::tasks_server::Tasks for TasksService {
    async fn create(&self, request: Request<api::CreateTaskRequest>) -> Reply<api::CreateTaskResponse> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let container_id = request.container_id.clone();
        let mut task = self.create_task(&namespace, request).await?;
        let activated = self.activate(&namespace, &container_id, &mut task).await?;
        let created = self.tasks.create(&namespace, &container_id, task).await;
        if created.is_err() {
            self.checkpoints.forget(&namespace, &container_id);
            if activated == Activated::Now {
                self.deactivate(&namespace, &container_id).await;
            }
        }
        Ok(Response::new(api::CreateTaskResponse { container_id, pid: created? }))
    }

    async fn start(&self, request: Request<api::StartRequest>) -> Reply<api::StartResponse> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let process = ProcessId::from_exec_id(&request.exec_id);
        let pid = self.tasks.start(&namespace, &request.container_id, process).await?;
        Ok(Response::new(api::StartResponse { pid }))
    }

    async fn delete(&self, request: Request<api::DeleteTaskRequest>) -> Reply<api::DeleteResponse> {
        let namespace = super::namespace(&request)?;
        let id = request.into_inner().container_id;
        let deleted = self.tasks.delete(&namespace, &id).await?;
        self.checkpoints.forget(&namespace, &id);
        self.deactivate(&namespace, &id).await;
        Ok(Response::new(wire_deleted(id, deleted)))
    }

    async fn delete_process(
        &self,
        request: Request<api::DeleteProcessRequest>,
    ) -> Reply<api::DeleteResponse> {
        let namespace = super::namespace(&request)?;
        let api::DeleteProcessRequest { container_id, exec_id } = request.into_inner();
        let deleted = self.tasks.delete_process(&namespace, &container_id, &exec_id).await?;
        Ok(Response::new(wire_deleted(exec_id, deleted)))
    }

    async fn get(&self, request: Request<api::GetRequest>) -> Reply<api::GetResponse> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let process = ProcessId::from_exec_id(&request.exec_id);
        let info = self.tasks.get(&namespace, &request.container_id, process)?;
        Ok(Response::new(api::GetResponse { process: Some(wire_process(info)) }))
    }

    async fn list(&self, request: Request<api::ListTasksRequest>) -> Reply<api::ListTasksResponse> {
        let namespace = super::namespace(&request)?;
        let filter = request.into_inner().filter;
        let filters: Vec<String> = if filter.is_empty() { Vec::new() } else { vec![filter] };
        let filter = Filter::parse_all(&filters)?;
        let tasks = self.tasks.list(&namespace).into_iter();
        let tasks = tasks
            .filter(|process| filter.matches(&Filtered { namespace: &namespace, process }))
            .map(wire_process)
            .collect();
        Ok(Response::new(api::ListTasksResponse { tasks }))
    }

    async fn kill(&self, request: Request<api::KillRequest>) -> Reply<()> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let process = ProcessId::from_exec_id(&request.exec_id);
        let scope = if request.all { KillScope::All } else { KillScope::One };
        self.tasks.kill(&namespace, &request.container_id, process, request.signal, scope).await?;
        Ok(Response::new(()))
    }

    async fn exec(&self, request: Request<api::ExecProcessRequest>) -> Reply<()> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let process = request
            .spec
            .ok_or_else(|| Error::invalid(format!("exec \"{}\"", request.exec_id), "has no process spec"))?;
        let exec = ExecTask {
            process: process.into(),
            stdio: TaskStdio {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
        };
        self.tasks.exec(&namespace, &request.container_id, &request.exec_id, exec).await?;
        Ok(Response::new(()))
    }

    async fn resize_pty(&self, request: Request<api::ResizePtyRequest>) -> Reply<()> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let process = ProcessId::from_exec_id(&request.exec_id);
        let (columns, rows) = (request.width, request.height);
        self.tasks.resize(&namespace, &request.container_id, process, columns, rows).await?;
        Ok(Response::new(()))
    }

    async fn close_io(&self, request: Request<api::CloseIoRequest>) -> Reply<()> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let process = ProcessId::from_exec_id(&request.exec_id);
        if request.stdin {
            self.tasks.close_stdin(&namespace, &request.container_id, process).await?;
        }
        Ok(Response::new(()))
    }

    async fn pause(&self, request: Request<api::PauseTaskRequest>) -> Reply<()> {
        let namespace = super::namespace(&request)?;
        self.tasks.pause(&namespace, &request.into_inner().container_id).await?;
        Ok(Response::new(()))
    }

    async fn resume(&self, request: Request<api::ResumeTaskRequest>) -> Reply<()> {
        let namespace = super::namespace(&request)?;
        self.tasks.resume(&namespace, &request.into_inner().container_id).await?;
        Ok(Response::new(()))
    }

    async fn list_pids(&self, request: Request<api::ListPidsRequest>) -> Reply<api::ListPidsResponse> {
        let namespace = super::namespace(&request)?;
        let pids = self.tasks.pids(&namespace, &request.into_inner().container_id).await?;
        let processes = pids
            .into_iter()
            .map(|process| wire::ProcessInfo { pid: process.pid, info: process.info.map(Into::into) });
        Ok(Response::new(api::ListPidsResponse { processes: processes.collect() }))
    }

    async fn checkpoint(
        &self,
        request: Request<api::CheckpointTaskRequest>,
    ) -> Reply<api::CheckpointTaskResponse> {
        let (namespace, lease) = (super::namespace(&request)?, super::lease(&request)?);
        let request = request.into_inner();
        let options = request.options.map(Any::from);
        let named = options.as_ref().map(image_path).transpose()?.flatten();
        let id = request.container_id.as_str();
        let container = self.containers.get(&namespace, id)?;
        if let Some(folder) = named {
            self.tasks.checkpoint(&namespace, id, &folder, options).await?;
            return Ok(Response::new(api::CheckpointTaskResponse::default()));
        }
        let folder = self.checkpoints.folder()?;
        self.tasks.checkpoint(&namespace, id, folder.path(), options).await?;
        let made = self.checkpoints.keep(&namespace, lease, id, &folder, container.spec).await?;
        let descriptors = made.into_iter().map(descriptor).collect();
        Ok(Response::new(api::CheckpointTaskResponse { descriptors }))
    }

    async fn update(&self, request: Request<api::UpdateTaskRequest>) -> Reply<()> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let resources = request.resources.map(Any::from);
        self.tasks.update(&namespace, &request.container_id, resources, request.annotations).await?;
        Ok(Response::new(()))
    }

    async fn metrics(&self, request: Request<api::MetricsRequest>) -> Reply<api::MetricsResponse> {
        let namespace = super::namespace(&request)?;
        let filter = Filter::parse_all(&request.into_inner().filters)?;
        let ids: Vec<String> = self
            .tasks
            .list(&namespace)
            .into_iter()
            .filter(|process| filter.matches(&Filtered { namespace: &namespace, process }))
            .map(|process| process.container_id)
            .collect();
        let metrics = futures::stream::iter(ids)
            .map(|id| {
                let namespace = &namespace;
                async move {
                    match self.tasks.metrics(namespace, &id).await {
                        Ok(data) => Some(Metric {
                            timestamp: Some(wire_time(Timestamp::now())),
                            id,
                            data: Some(data.into()),
                        }),
                        Err(error) => {
                            tracing::debug!(container = id, %error, "no metrics");
                            None
                        }
                    }
                }
            })
            .buffered(METRICS_AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        Ok(Response::new(api::MetricsResponse { metrics }))
    }

    async fn wait(&self, request: Request<api::WaitRequest>) -> Reply<api::WaitResponse> {
        let namespace = super::namespace(&request)?;
        let request = request.into_inner();
        let process = ProcessId::from_exec_id(&request.exec_id);
        let exit = self.tasks.wait(&namespace, &request.container_id, process).await?;
        let exited_at = Some(wire_time(exit.at));
        Ok(Response::new(api::WaitResponse { exit_status: exit.status, exited_at }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_lose_their_prefix_and_foreign_ones_are_refused() {
        let runc = RuncOptions { binary_name: "/usr/sbin/runc".into(), ..RuncOptions::default() };
        let prefixed = Any::pack("type.googleapis.com/containerd.runc.v1.Options", &runc);
        assert_eq!(check_options(prefixed).unwrap().unwrap().type_url, RUNC_OPTIONS);
        assert_eq!(check_options(Any::default()).unwrap(), None);
        assert!(check_options(Any::new("runtimeoptions.v1.Options", "x")).is_err());
    }
}
