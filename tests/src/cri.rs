//! A kubelet's part of the Container Runtime Interface, against a daemon of a test.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use longshore_proto::containerd::services::containers::v1::containers_client::ContainersClient;
use longshore_proto::containerd::services::sandbox::v1::store_client::StoreClient;
use longshore_proto::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use longshore_proto::containerd::services::snapshots::v1::{Kind, ListSnapshotsRequest};
use longshore_proto::runtime::v1 as wire;
use longshore_proto::runtime::v1::image_service_client::ImageServiceClient;
use longshore_proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::Fixture;
use crate::daemon::Settings;

/// Clients of one daemon; cloning is cheap.
#[derive(Clone)]
pub struct Cri {
    pub runtime: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
}

/// Configuration of a pod that no other test has.
pub fn pod(name: &str) -> wire::PodSandboxConfig {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let uid = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let metadata =
        wire::PodSandboxMetadata { name: name.to_owned(), uid, namespace: "test".to_owned(), attempt: 0 };
    let security =
        wire::LinuxSandboxSecurityContext { namespace_options: Some(own_processes()), ..Default::default() };
    let linux = wire::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() };
    wire::PodSandboxConfig {
        metadata: Some(metadata),
        hostname: name.to_owned(),
        linux: Some(linux),
        ..Default::default()
    }
}

/// As a kubelet says it of most pods: containers do not see each other's processes.
fn own_processes() -> wire::NamespaceOption {
    wire::NamespaceOption { pid: wire::NamespaceMode::Container.into(), ..Default::default() }
}

/// Configuration of a container that runs a line of shell.
pub fn container(name: &str, image: &str, line: &str) -> wire::ContainerConfig {
    let security = wire::LinuxContainerSecurityContext {
        namespace_options: Some(own_processes()),
        ..Default::default()
    };
    let linux = wire::LinuxContainerConfig { security_context: Some(security), ..Default::default() };
    wire::ContainerConfig {
        linux: Some(linux),
        metadata: Some(wire::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(wire::ImageSpec { image: image.to_owned(), ..Default::default() }),
        command: ["sh", "-c", line].map(str::to_owned).to_vec(),
        log_path: format!("{name}.log"),
        ..Default::default()
    }
}

impl Cri {
    /// # Errors
    /// Nobody answers at the socket.
    pub async fn connect(socket: &Path) -> Result<Cri> {
        let url = format!("unix://{}", socket.display());
        let channel = Endpoint::from_shared(url)?.connect().await.context("connecting to the daemon")?;
        Ok(Cri {
            // As a kubelet's.
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(16 << 20),
            images: ImageServiceClient::new(channel),
        })
    }

    /// Pulls an image; its id.
    pub async fn pull(&self, image: &str) -> Result<String, Status> {
        let image = Some(wire::ImageSpec { image: image.to_owned(), ..Default::default() });
        let request = wire::PullImageRequest { image, ..Default::default() };
        Ok(self.images.clone().pull_image(request).await?.into_inner().image_ref)
    }

    pub async fn run_pod(&self, config: &wire::PodSandboxConfig) -> Result<String, Status> {
        let request =
            wire::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        Ok(self.runtime.clone().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    pub async fn stop_pod(&self, id: &str) -> Result<(), Status> {
        let request = wire::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime.clone().stop_pod_sandbox(request).await.map(drop)
    }

    pub async fn remove_pod(&self, id: &str) -> Result<(), Status> {
        let request = wire::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime.clone().remove_pod_sandbox(request).await.map(drop)
    }

    pub async fn pod_status(&self, id: &str) -> Result<wire::PodSandboxStatusResponse, Status> {
        let request = wire::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        Ok(self.runtime.clone().pod_sandbox_status(request).await?.into_inner())
    }

    pub async fn create(
        &self,
        pod: &str,
        config: &wire::ContainerConfig,
        pod_config: &wire::PodSandboxConfig,
    ) -> Result<String, Status> {
        let request = wire::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(pod_config.clone()),
        };
        Ok(self.runtime.clone().create_container(request).await?.into_inner().container_id)
    }

    pub async fn start(&self, id: &str) -> Result<(), Status> {
        let request = wire::StartContainerRequest { container_id: id.to_owned() };
        self.runtime.clone().start_container(request).await.map(drop)
    }

    pub async fn stop(&self, id: &str, timeout: i64) -> Result<(), Status> {
        let request = wire::StopContainerRequest { container_id: id.to_owned(), timeout };
        self.runtime.clone().stop_container(request).await.map(drop)
    }

    pub async fn remove(&self, id: &str) -> Result<(), Status> {
        let request = wire::RemoveContainerRequest { container_id: id.to_owned() };
        self.runtime.clone().remove_container(request).await.map(drop)
    }

    pub async fn status(&self, id: &str) -> Result<wire::ContainerStatus, Status> {
        let request = wire::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.runtime.clone().container_status(request).await?.into_inner();
        answer.status.ok_or_else(|| Status::internal("no status"))
    }

    /// The status of a container once it has ended.
    pub async fn ended(&self, id: &str) -> wire::ContainerStatus {
        let deadline = Instant::now() + crate::daemon::PATIENCE;
        loop {
            let status = self.status(id).await.expect("a status");
            if status.state() == wire::ContainerState::ContainerExited {
                return status;
            }
            assert!(Instant::now() < deadline, "container {id} has not ended: {status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn exec_sync(
        &self,
        id: &str,
        line: &str,
        timeout: i64,
    ) -> Result<wire::ExecSyncResponse, Status> {
        let cmd = ["sh", "-c", line].map(str::to_owned).to_vec();
        let request = wire::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        Ok(self.runtime.clone().exec_sync(request).await?.into_inner())
    }
}

/// containerd's clients, in the namespace of pods.
#[derive(Clone)]
pub struct InPods;

impl Interceptor for InPods {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("containerd-namespace", AsciiMetadataValue::from_static("k8s.io"));
        Ok(request)
    }
}

/// What a daemon keeps of pods, as containerd's clients see it.
pub struct Records {
    pub containers: ContainersClient<InterceptedService<Channel, InPods>>,
    pub sandboxes: StoreClient<InterceptedService<Channel, InPods>>,
    snapshots: SnapshotsClient<InterceptedService<Channel, InPods>>,
}

impl Records {
    /// # Errors
    /// Nobody answers at the socket.
    pub async fn connect(socket: &Path) -> Result<Records> {
        let url = format!("unix://{}", socket.display());
        let channel = Endpoint::from_shared(url)?.connect().await.context("connecting to the daemon")?;
        Ok(Records {
            containers: ContainersClient::with_interceptor(channel.clone(), InPods),
            sandboxes: StoreClient::with_interceptor(channel.clone(), InPods),
            snapshots: SnapshotsClient::with_interceptor(channel, InPods),
        })
    }

    /// Names of the snapshots that are no layers of images.
    pub async fn snapshots(&mut self) -> Result<Vec<String>> {
        let request = ListSnapshotsRequest { snapshotter: "overlayfs".to_owned(), ..Default::default() };
        let mut pages = self.snapshots.list(request).await?.into_inner();
        let mut names = Vec::new();
        while let Some(page) = pages.message().await? {
            let of_containers = page.info.into_iter().filter(|info| info.kind() != Kind::Committed);
            names.extend(of_containers.map(|info| info.name));
        }
        Ok(names)
    }
}

/// A daemon with an image and a folder for logs.
pub struct World {
    pub f: Fixture,
    pub cri: Cri,
    /// Its id.
    pub image: String,
    pub logs: tempfile::TempDir,
}

impl World {
    /// # Panics
    /// The daemon does not start, or has no image.
    pub async fn new(settings: Settings) -> World {
        let f = Fixture::with(settings).expect("a registry and a daemon");
        let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
        let image = cri.pull(&f.busybox).await.expect("pulled");
        let logs = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
        World { f, cri, image, logs }
    }

    /// Of the logs of pods.
    pub fn folder(&self) -> PathBuf {
        self.logs.path().join("pod")
    }

    /// A pod that logs to the folder.
    pub fn pod(&self, name: &str) -> wire::PodSandboxConfig {
        wire::PodSandboxConfig { log_directory: self.folder().display().to_string(), ..pod(name) }
    }

    /// A container that runs a line of shell.
    pub fn container(&self, name: &str, line: &str) -> wire::ContainerConfig {
        let mut config = container(name, &self.image, line);
        config.log_path = format!("{name}/0.log");
        config
    }

    /// What such a container has said.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder().join(name).join("0.log")).unwrap_or_default()
    }

    /// # Errors
    /// The daemon refuses it.
    pub async fn reopen(&self, id: &str) -> Result<(), tonic::Status> {
        let request = wire::ReopenContainerLogRequest { container_id: id.to_owned() };
        self.cri.runtime.clone().reopen_container_log(request).await.map(drop)
    }

    /// Kills the daemon, and starts it again.
    ///
    /// # Panics
    /// It does not start.
    pub async fn restart(&mut self) {
        self.f.daemon.kill();
        self.f.daemon.launch().expect("it starts again");
        self.cri = Cri::connect(&self.f.daemon.socket()).await.expect("a connection");
    }

    /// Whether nothing is left of any pod.
    pub fn pods_folder_is_empty(&self) -> bool {
        std::fs::read_dir(self.f.daemon.state().join("pods")).map_or(0, Iterator::count) == 0
    }
}
