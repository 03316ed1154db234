//! A daemon of the test's own and clients for it. Containers are not started here, so no shim is needed.

#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use longshore_proto::containerd::services as wire;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Daemon {
    pub folder: tempfile::TempDir,
    child: Option<Child>,
    config: String,
}

impl Daemon {
    pub fn start() -> Self {
        Self::with_config("")
    }

    /// With further lines of configuration.
    pub fn with_config(config: &str) -> Self {
        Self::at(tempfile::tempdir().unwrap(), config)
    }

    /// On a tmpfs: for tests of many small writes, whose disk is not what they test.
    pub fn in_memory(config: &str) -> Self {
        Self::at(tempfile::tempdir_in("/dev/shm").unwrap(), config)
    }

    fn at(folder: tempfile::TempDir, config: &str) -> Self {
        let mut daemon = Self { folder, child: None, config: config.to_owned() };
        daemon.restart();
        daemon
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("l.sock")
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// A second daemon on the same folders, with other flags.
    pub fn command(&self) -> Command {
        let mut command = command(self.folder.path(), &self.config);
        command.args(["--root".as_ref(), self.root().as_os_str()]);
        command.args(["--state".as_ref(), self.folder.path().join("state").as_os_str()]);
        command.args(["--address".as_ref(), self.socket().as_os_str()]);
        command
    }

    pub fn restart(&mut self) {
        assert!(self.child.is_none());
        let log =
            std::fs::File::options().append(true).create(true).open(self.folder.path().join("log")).unwrap();
        self.child = Some(self.command().stderr(log).spawn().unwrap());
        let until = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "no socket; log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and whether it ended well.
    pub fn stop(&mut self) -> bool {
        let mut child = self.child.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.success();
            }
            assert!(Instant::now() < until, "does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub async fn clients(&self) -> Clients {
        Clients { channel: channel(&self.socket()).await, namespace: "test".into(), lease: String::new() }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

/// The daemon's program with a configuration file of its own.
pub fn command(folder: &Path, config: &str) -> Command {
    let path = folder.join("config.toml");
    let runtime = "[runtime]\npool_size = 0\nshim = \"/bin/true\"\n";
    std::fs::write(&path, format!("{config}\n{runtime}")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshored"));
    command.arg("--config").arg(path).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

pub async fn channel(socket: &Path) -> Channel {
    endpoint(socket).connect().await.unwrap()
}

pub fn endpoint(socket: &Path) -> Endpoint {
    Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap()
}

/// Clients of every service, in one namespace.
#[derive(Clone)]
pub struct Clients {
    pub channel: Channel,
    pub namespace: String,
    pub lease: String,
}

#[derive(Clone)]
pub struct Headers {
    namespace: String,
    lease: String,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (header, value) in [("containerd-namespace", &self.namespace), ("containerd-lease", &self.lease)]
        {
            if !value.is_empty() {
                request.metadata_mut().insert(header, value.parse().unwrap());
            }
        }
        Ok(request)
    }
}

pub type Service = InterceptedService<Channel, Headers>;

macro_rules! clients {
    ($($name:ident: $client:path),* $(,)?) => {
        impl Clients {
            $(pub fn $name(&self) -> $client {
                <$client>::new(InterceptedService::new(self.channel.clone(), self.headers()))
                    .max_decoding_message_size(16 << 20)
                    .max_encoding_message_size(16 << 20)
            })*
        }
    };
}

clients! {
    content: wire::content::v1::content_client::ContentClient<Service>,
    images: wire::images::v1::images_client::ImagesClient<Service>,
    containers: wire::containers::v1::containers_client::ContainersClient<Service>,
    leases: wire::leases::v1::leases_client::LeasesClient<Service>,
    namespaces: wire::namespaces::v1::namespaces_client::NamespacesClient<Service>,
    events: wire::events::v1::events_client::EventsClient<Service>,
    snapshots: wire::snapshots::v1::snapshots_client::SnapshotsClient<Service>,
    sandboxes: wire::sandbox::v1::store_client::StoreClient<Service>,
    introspection: wire::introspection::v1::introspection_client::IntrospectionClient<Service>,
    version: wire::version::v1::version_client::VersionClient<Service>,
}

impl Clients {
    fn headers(&self) -> Headers {
        Headers { namespace: self.namespace.clone(), lease: self.lease.clone() }
    }

    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self { namespace: namespace.into(), ..self.clone() }
    }

    pub fn with_lease(&self, lease: &str) -> Self {
        Self { lease: lease.into(), ..self.clone() }
    }

    /// Writes a blob in messages of 256 KiB and commits it; its digest.
    pub async fn put(&self, reference: &str, data: &[u8], labels: &[(&str, &str)]) -> Result<String, Status> {
        use wire::content::v1::{WriteAction, WriteContentRequest};
        let total = i64::try_from(data.len()).unwrap();
        let mut requests = vec![WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.into(),
            total,
            ..Default::default()
        }];
        for (index, chunk) in data.chunks(256 * 1024).enumerate() {
            requests.push(WriteContentRequest {
                action: WriteAction::Write.into(),
                offset: i64::try_from(index * 256 * 1024).unwrap(),
                data: chunk.to_vec(),
                ..Default::default()
            });
        }
        requests.push(WriteContentRequest {
            action: WriteAction::Commit.into(),
            offset: total,
            total,
            expected: digest(data),
            labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            ..Default::default()
        });
        let mut answers = self.content().write(tokio_stream::iter(requests)).await?.into_inner();
        let mut last = String::new();
        while let Some(answer) = answers.message().await? {
            last = answer.digest;
        }
        Ok(last)
    }

    pub async fn get(&self, digest: &str) -> Result<Vec<u8>, Status> {
        self.read(digest, 0, 0).await
    }

    pub async fn read(&self, digest: &str, offset: i64, size: i64) -> Result<Vec<u8>, Status> {
        let request = wire::content::v1::ReadContentRequest { digest: digest.into(), offset, size };
        let mut answers = self.content().read(request).await?.into_inner();
        let mut data = Vec::new();
        while let Some(answer) = answers.message().await? {
            assert_eq!(usize::try_from(answer.offset - offset).unwrap(), data.len());
            data.extend(answer.data);
        }
        Ok(data)
    }

    pub async fn digests(&self) -> Vec<String> {
        let request = wire::content::v1::ListContentRequest { filters: Vec::new() };
        let mut answers = self.content().list(request).await.unwrap().into_inner();
        let mut digests = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            digests.extend(answer.info.into_iter().map(|info| info.digest));
        }
        digests
    }

    pub async fn collect(&self) {
        let mut leases = self.in_namespace("collect").leases();
        let id = "collect".to_owned();
        leases
            .create(wire::leases::v1::CreateRequest { id: id.clone(), ..Default::default() })
            .await
            .unwrap();
        leases.delete(wire::leases::v1::DeleteRequest { id, sync: true }).await.unwrap();
    }
}

pub fn digest(data: &[u8]) -> String {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(data);
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

/// Bytes that do not repeat, different for each seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut data = Vec::with_capacity(length + 8);
    while data.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(length);
    data
}

#[track_caller]
pub fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> tonic::Code {
    match result {
        Ok(value) => panic!("succeeded: {value:?}"),
        Err(status) => status.code(),
    }
}
