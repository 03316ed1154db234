//! containerd's API from a test: a channel to the daemon's socket, and containers made from a folder on the host.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use longshore_proto::containerd::services::containers::v1 as containers;
use longshore_proto::containerd::services::events::v1 as events;
use longshore_proto::containerd::services::sandbox::v1 as sandboxes;
use longshore_proto::containerd::services::snapshots::v1 as snapshots;
use longshore_proto::containerd::services::tasks::v1 as tasks;
use longshore_proto::containerd::types::Mount;
use prost_types::Any;
use serde_json::{Value, json};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// The namespace that these clients work in.
pub const NAMESPACE: &str = "test";

/// Adds the namespace's header.
#[derive(Clone)]
pub struct InNamespace;

impl Interceptor for InNamespace {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("containerd-namespace", AsciiMetadataValue::from_static(NAMESPACE));
        Ok(request)
    }
}

type Service = InterceptedService<Channel, InNamespace>;

/// Clients of one daemon; cloning is cheap.
#[derive(Clone)]
pub struct Api {
    pub tasks: tasks::tasks_client::TasksClient<Service>,
    pub containers: containers::containers_client::ContainersClient<Service>,
    pub events: events::events_client::EventsClient<Service>,
    pub snapshots: snapshots::snapshots_client::SnapshotsClient<Service>,
    pub sandbox_records: sandboxes::store_client::StoreClient<Service>,
    pub sandboxes: sandboxes::controller_client::ControllerClient<Service>,
}

impl Api {
    pub async fn connect(socket: &Path) -> Result<Api> {
        let url = format!("unix://{}", socket.display());
        let channel = Endpoint::from_shared(url)?.connect().await.context("connecting to the daemon")?;
        Ok(Api {
            tasks: tasks::tasks_client::TasksClient::with_interceptor(channel.clone(), InNamespace),
            containers: containers::containers_client::ContainersClient::with_interceptor(
                channel.clone(),
                InNamespace,
            ),
            events: events::events_client::EventsClient::with_interceptor(channel.clone(), InNamespace),
            snapshots: snapshots::snapshots_client::SnapshotsClient::with_interceptor(
                channel.clone(),
                InNamespace,
            ),
            sandbox_records: sandboxes::store_client::StoreClient::with_interceptor(
                channel.clone(),
                InNamespace,
            ),
            sandboxes: sandboxes::controller_client::ControllerClient::with_interceptor(channel, InNamespace),
        })
    }

    /// Stores a container with this spec.
    pub async fn container(&mut self, id: &str, spec: &Value) -> Result<()> {
        self.container_by(id, spec, "io.containerd.longshore.v1").await
    }

    /// Stores a container of this runtime.
    pub async fn container_by(&mut self, id: &str, spec: &Value, runtime: &str) -> Result<()> {
        let spec = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
            value: serde_json::to_vec(spec)?,
        };
        let runtime = containers::container::Runtime { name: runtime.into(), options: None };
        let container = containers::Container {
            id: id.into(),
            runtime: Some(runtime),
            spec: Some(spec),
            ..containers::Container::default()
        };
        let request = containers::CreateContainerRequest { container: Some(container) };
        self.containers.create(request).await.context("storing a container")?;
        Ok(())
    }

    /// Stores a container that belongs to a sandbox.
    pub async fn container_in(&mut self, id: &str, spec: &Value, sandbox: &str) -> Result<()> {
        self.container(id, spec).await?;
        let get = containers::GetContainerRequest { id: id.into() };
        let container = self.containers.get(get).await?.into_inner().container.context("a container")?;
        self.containers.delete(containers::DeleteContainerRequest { id: id.into() }).await?;
        let container = containers::Container { sandbox: sandbox.into(), ..container };
        let request = containers::CreateContainerRequest { container: Some(container) };
        self.containers.create(request).await.context("storing a container of a sandbox")?;
        Ok(())
    }

    pub async fn create(&mut self, id: &str) -> Result<u32, Status> {
        let request = tasks::CreateTaskRequest { container_id: id.into(), ..Default::default() };
        Ok(self.tasks.create(request).await?.into_inner().pid)
    }

    /// Prepares a snapshot; its mounts.
    pub async fn prepare(
        &mut self,
        snapshotter: &str,
        key: &str,
        parent: &str,
    ) -> Result<Vec<Mount>, Status> {
        let request = snapshots::PrepareSnapshotRequest {
            snapshotter: snapshotter.into(),
            key: key.into(),
            parent: parent.into(),
            labels: [("containerd.io/gc.root".to_owned(), "test".to_owned())].into(),
        };
        Ok(self.snapshots.prepare(request).await?.into_inner().mounts)
    }

    /// A committed snapshot `name` that holds what `folder` does.
    pub async fn base(&mut self, snapshotter: &str, name: &str, folder: &Path) -> Result<()> {
        let key = format!("{name}-active");
        let mounts = self.prepare(snapshotter, &key, "").await?;
        let target = PathBuf::from(&mounts.first().context("a mount")?.source);
        let copied =
            std::process::Command::new("cp").arg("-a").arg(folder.join(".")).arg(&target).status()?;
        anyhow::ensure!(copied.success(), "copying {} to {}", folder.display(), target.display());
        let request = snapshots::CommitSnapshotRequest {
            snapshotter: snapshotter.into(),
            name: name.into(),
            key,
            labels: [("containerd.io/gc.root".to_owned(), "test".to_owned())].into(),
            ..Default::default()
        };
        self.snapshots.commit(request).await?;
        Ok(())
    }

    pub async fn start(&mut self, id: &str) -> Result<u32, Status> {
        let request = tasks::StartRequest { container_id: id.into(), exec_id: String::new() };
        Ok(self.tasks.start(request).await?.into_inner().pid)
    }

    /// Its exit code, once it has one.
    pub async fn wait(&mut self, id: &str) -> Result<u32, Status> {
        let request = tasks::WaitRequest { container_id: id.into(), exec_id: String::new() };
        Ok(self.tasks.wait(request).await?.into_inner().exit_status)
    }

    pub async fn kill(&mut self, id: &str, signal: u32) -> Result<(), Status> {
        let request = tasks::KillRequest { container_id: id.into(), signal, ..Default::default() };
        self.tasks.kill(request).await.map(drop)
    }

    /// Deletes a task; its exit code.
    pub async fn delete(&mut self, id: &str) -> Result<u32, Status> {
        let request = tasks::DeleteTaskRequest { container_id: id.into() };
        Ok(self.tasks.delete(request).await?.into_inner().exit_status)
    }

    /// A task as the daemon sees it.
    pub async fn get(&mut self, id: &str) -> Result<longshore_proto::containerd::v1::types::Process, Status> {
        let request = tasks::GetRequest { container_id: id.into(), exec_id: String::new() };
        let answer = self.tasks.get(request).await?.into_inner();
        answer.process.ok_or_else(|| Status::internal("no process in the answer"))
    }
}

/// A root file system: a folder with the host's busybox.
pub fn rootfs(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("rootfs");
    for name in ["bin", "proc", "sys", "dev", "tmp", "etc"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().find(|path| Path::new(path).exists());
    std::fs::copy(busybox.context("busybox-static is not installed")?, root.join("bin/busybox"))?;
    for name in ["sh", "sleep", "echo", "true", "cat", "kill"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name))?;
    }
    Ok(root)
}

/// A runtime spec that runs these words.
pub fn spec(root: &Path, cgroups_path: &str, words: &[&str]) -> Value {
    let namespaces: Vec<Value> =
        ["pid", "mount", "ipc", "uts", "network"].iter().map(|kind| json!({ "type": kind })).collect();
    let capabilities = json!(["CAP_KILL", "CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"]);
    json!({
        "ociVersion": "1.1.0",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": words,
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "noNewPrivileges": true
        },
        "root": { "path": root, "readonly": true },
        "hostname": "test",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] }
        ],
        "linux": { "cgroupsPath": cgroups_path, "namespaces": namespaces }
    })
}
