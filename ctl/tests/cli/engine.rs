//! An engine without containers: the first argument of a container names what its process does.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore_proto::longshore::engine::v1::containers_server::{Containers, ContainersServer};
use longshore_proto::longshore::engine::v1::images_server::{Images, ImagesServer};
use longshore_proto::longshore::engine::v1::system_server::{System, SystemServer};
use longshore_proto::longshore::engine::v1::*;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

pub const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What the tests look at afterwards.
pub struct State {
    pub calls: Mutex<Vec<String>>,
    pub created: Mutex<Vec<CreateRequest>>,
    kills: broadcast::Sender<String>,
}

pub struct Engine {
    folder: TempDir,
    runtime: Option<Runtime>,
    pub state: Arc<State>,
}

impl Engine {
    pub fn start() -> Engine {
        Engine::at("e.sock")
    }

    /// With its socket at this path below its folder.
    pub fn at(socket: &str) -> Engine {
        let folder = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let state = Arc::new(State {
            calls: Mutex::default(),
            created: Mutex::default(),
            kills: broadcast::channel(64).0,
        });
        let path = folder.path().join(socket);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let fake = Fake(state.clone());
        let _inside = runtime.enter();
        let listener = listen(&path);
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(ContainersServer::new(fake.clone()))
                .add_service(ImagesServer::new(fake.clone()))
                .add_service(SystemServer::new(fake))
                .serve_with_incoming(UnixListenerStream::new(listener)),
        );
        drop(_inside);
        std::fs::write(folder.path().join("socket"), path.as_os_str().as_encoded_bytes()).unwrap();
        Engine { folder, runtime: Some(runtime), state }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn socket(&self) -> PathBuf {
        PathBuf::from(std::fs::read_to_string(self.folder.path().join("socket")).unwrap())
    }

    /// As kill -9 would: every connection breaks.
    pub fn die(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    pub fn calls(&self) -> Vec<String> {
        self.state.calls.lock().unwrap().clone()
    }

    pub fn wait_for_call(&self, call: &str) {
        for _ in 0..1000 {
            if self.calls().iter().any(|made| made == call) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no call {call}: {:?}", self.calls());
    }

    pub fn config(&self) -> ContainerConfig {
        self.state.created.lock().unwrap().last().unwrap().config.clone().unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Binds also where the path is too long for an address.
fn listen(path: &Path) -> UnixListener {
    use std::os::fd::AsRawFd;
    let folder = std::fs::File::open(path.parent().unwrap()).unwrap();
    let short =
        format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), path.file_name().unwrap().to_str().unwrap());
    UnixListener::bind(short).unwrap()
}

#[derive(Clone)]
struct Fake(Arc<State>);

type Reply<T> = Result<Response<T>, Status>;

/// The other end of a client's Run, Attach or Exec.
struct Process<O> {
    out: mpsc::Sender<Result<O, Status>>,
    stdin: mpsc::Receiver<StdioInput>,
    kills: broadcast::Receiver<String>,
    state: Arc<State>,
    wrap: fn(Said) -> O,
}

enum Said {
    Stdio(StdioOutput),
    Exited(Exited),
    Failed(StartFailure),
}

impl<O> Process<O> {
    async fn stdout(&self, bytes: impl Into<Vec<u8>>) {
        let what = Some(stdio_output::What::Stdout(bytes.into()));
        drop(self.out.send(Ok((self.wrap)(Said::Stdio(StdioOutput { what })))).await);
    }

    async fn stderr(&self, bytes: impl Into<Vec<u8>>) {
        let what = Some(stdio_output::What::Stderr(bytes.into()));
        drop(self.out.send(Ok((self.wrap)(Said::Stdio(StdioOutput { what })))).await);
    }

    async fn exit(&self, exit_code: u32) {
        let exited = Exited { exit_code, ..Exited::default() };
        drop(self.out.send(Ok((self.wrap)(Said::Exited(exited)))).await);
    }

    /// Does what `words` say.
    async fn run(mut self, words: &[String]) {
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u32>().ok()).unwrap_or(0);
        match words.first().map_or("", String::as_str) {
            "exit" => self.exit(number(1)).await,
            "both" => {
                self.stdout("to stdout\n").await;
                self.stderr("to stderr\n").await;
                self.exit(0).await;
            }
            "cat" => self.cat().await,
            "flood" => {
                for _ in 0..number(1) {
                    self.stdout(vec![b'x'; 65_536]).await;
                }
                self.exit(0).await;
            }
            "missing-command" => {
                let message = "exec: \"missing-command\": executable file not found in $PATH".to_string();
                drop(
                    self.out
                        .send(Ok((self.wrap)(Said::Failed(StartFailure { message, exit_code: 127 }))))
                        .await,
                );
            }
            "sleep" => loop {
                tokio::select! {
                    kill = self.kills.recv() => match kill.unwrap().as_str() {
                        "2" => self.stdout("interrupted\n").await,
                        signal => return self.exit(128 + signal.parse::<u32>().unwrap()).await,
                    },
                    input = self.stdin.recv() => match input {
                        Some(StdioInput { resize: Some(size), .. }) => {
                            self.state.calls.lock().unwrap().push(format!("resize {}x{}", size.columns, size.rows));
                        }
                        Some(input) => self.stdout(input.stdin).await,
                        None => std::future::pending().await,
                    },
                }
            },
            // The stream just ends.
            _ => {}
        }
    }

    async fn cat(&mut self) {
        while let Some(input) = self.stdin.recv().await {
            if !input.stdin.is_empty() {
                self.stdout(input.stdin).await;
            }
            if input.close_stdin {
                return self.exit(0).await;
            }
        }
        self.state.calls.lock().unwrap().push("detached".into());
    }
}

/// Hands a request stream's stdio on.
fn stdio<I: Send + 'static>(
    mut input: Streaming<I>,
    unwrap: fn(I) -> Option<StdioInput>,
) -> mpsc::Receiver<StdioInput> {
    let (to, from) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok(Some(message)) = input.message().await {
            if let Some(stdio) = unwrap(message)
                && to.send(stdio).await.is_err()
            {
                break;
            }
        }
    });
    from
}

impl Fake {
    fn note(&self, call: impl Into<String>) {
        self.0.calls.lock().unwrap().push(call.into());
    }

    fn found(&self, container: &str) -> Result<(), Status> {
        match container {
            "nosuch" => Err(Status::not_found("No such container: nosuch")),
            _ => Ok(()),
        }
    }

    fn done(&self, verb: &str, container: &str) -> Reply<()> {
        self.found(container)?;
        self.note(format!("{verb} {container}"));
        Ok(Response::new(()))
    }
}

fn created() -> Created {
    Created { id: ID.into(), name: "bold_ritchie".into(), warnings: vec![] }
}

pub fn summary(name: &str) -> ContainerSummary {
    ContainerSummary {
        id: ID.into(),
        name: name.into(),
        image: "busybox".into(),
        image_id: format!("sha256:{ID}"),
        command: "sh -c 'sleep 1000; exit 7'".into(),
        created_at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 }),
        status: longshore_proto::longshore::engine::v1::Status::Running.into(),
        status_text: "Up 3 minutes".into(),
        labels: HashMap::from([("b".into(), "2".into()), ("a".into(), "1".into())]),
        network: "none".into(),
        size_rw: 12,
        size_root_fs: 4_260_000,
        ..ContainerSummary::default()
    }
}

/// The messages of a pull of two layers.
fn pull_messages() -> Vec<PullProgress> {
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let layer = |digit: &str, status: LayerStatus, current| {
        pull_progress::What::Layer(LayerProgress {
            digest: digest(digit),
            status: status.into(),
            current,
            total: 100,
        })
    };
    [
        pull_progress::What::Resolving("docker.io/library/hello-world:latest".into()),
        pull_progress::What::Plan(PullPlan {
            familiar_name: "hello-world".into(),
            tag: "latest".into(),
            layers: vec![
                LayerPlan { digest: digest("a"), size: 100 },
                LayerPlan { digest: digest("b"), size: 100 },
            ],
        }),
        layer("a", LayerStatus::Pulling, 0),
        layer("b", LayerStatus::Exists, 0),
        layer("a", LayerStatus::Downloading, 50),
        layer("a", LayerStatus::Downloading, 100),
        layer("a", LayerStatus::Downloaded, 100),
        layer("a", LayerStatus::Extracting, 10),
        layer("a", LayerStatus::Complete, 100),
        pull_progress::What::Done(PullDone {
            digest: digest("d"),
            canonical_reference: "docker.io/library/hello-world:latest".into(),
            was_up_to_date: false,
        }),
    ]
    .into_iter()
    .map(|what| PullProgress { what: Some(what) })
    .collect()
}

/// The messages of a pull of an image that is there already.
fn known_image_messages() -> Vec<PullProgress> {
    let mut messages = pull_messages();
    let layer = |status: LayerStatus| {
        let digest = format!("sha256:{}", "a".repeat(64));
        PullProgress {
            what: Some(pull_progress::What::Layer(LayerProgress {
                digest,
                status: status.into(),
                current: 0,
                total: 100,
            })),
        }
    };
    let mut done = messages.pop().unwrap();
    if let Some(pull_progress::What::Done(done)) = &mut done.what {
        done.was_up_to_date = true;
    }
    messages.truncate(2);
    messages.extend([
        layer(LayerStatus::Pulling),
        layer(LayerStatus::Exists),
        layer(LayerStatus::Downloaded),
        done,
    ]);
    messages
}

fn run_output(said: Said) -> RunOutput {
    let what = match said {
        Said::Stdio(stdio) => run_output::What::Stdio(stdio),
        Said::Exited(exited) => run_output::What::Exited(exited),
        Said::Failed(failure) => run_output::What::StartFailed(failure),
    };
    RunOutput { what: Some(what) }
}

fn attach_output(said: Said) -> AttachOutput {
    let what = match said {
        Said::Stdio(stdio) => attach_output::What::Stdio(stdio),
        Said::Exited(exited) => attach_output::What::Exited(exited),
        Said::Failed(failure) => attach_output::What::StartFailed(failure),
    };
    AttachOutput { what: Some(what) }
}

fn exec_output(said: Said) -> ExecOutput {
    let what = match said {
        Said::Stdio(stdio) => exec_output::What::Stdio(stdio),
        Said::Exited(exited) => exec_output::What::Exited(exited),
        Said::Failed(failure) => exec_output::What::StartFailed(failure),
    };
    ExecOutput { what: Some(what) }
}

/// What is wrong with a request, if its image or name says so.
fn refusal(request: &CreateRequest) -> Option<Status> {
    match (request.config.as_ref().map_or("", |config| config.image.as_str()), request.name.as_str()) {
        ("invalid::image", _) => Some(Status::invalid_argument("invalid reference format")),
        (_, "taken") => Some(Status::already_exists(
            "Conflict. The container name \"/taken\" is already in use by container \"0123\". You have to remove (or rename) that container to be able to reuse that name.",
        )),
        _ => None,
    }
}

#[tonic::async_trait]
impl Containers for Fake {
    type CreateStream = ReceiverStream<Result<CreateEvent, Status>>;
    type RunStream = ReceiverStream<Result<RunOutput, Status>>;
    type AttachStream = ReceiverStream<Result<AttachOutput, Status>>;
    type ExecStream = ReceiverStream<Result<ExecOutput, Status>>;
    type StatsStream = ReceiverStream<Result<StatsResponse, Status>>;
    type LogsStream = ReceiverStream<Result<LogsResponse, Status>>;
    type CopyFromStream = ReceiverStream<Result<CopyFromResponse, Status>>;
    type ExportStream = ReceiverStream<Result<ExportResponse, Status>>;

    async fn stat_path(&self, _: Request<StatPathRequest>) -> Reply<PathStat> {
        Err(Status::unimplemented("stat_path"))
    }

    async fn copy_from(&self, _: Request<StatPathRequest>) -> Reply<Self::CopyFromStream> {
        Err(Status::unimplemented("copy_from"))
    }

    async fn copy_to(&self, _: Request<Streaming<CopyToRequest>>) -> Reply<()> {
        Err(Status::unimplemented("copy_to"))
    }

    async fn diff(&self, _: Request<ContainerRequest>) -> Reply<DiffResponse> {
        Err(Status::unimplemented("diff"))
    }

    async fn export(&self, _: Request<ContainerRequest>) -> Reply<Self::ExportStream> {
        Err(Status::unimplemented("export"))
    }

    async fn commit(&self, _: Request<CommitRequest>) -> Reply<CommitResponse> {
        Err(Status::unimplemented("commit"))
    }

    async fn create(&self, request: Request<CreateRequest>) -> Reply<Self::CreateStream> {
        let request = request.into_inner();
        if let Some(status) = refusal(&request) {
            return Err(status);
        }
        self.0.created.lock().unwrap().push(request);
        let (out, stream) = mpsc::channel(1);
        out.send(Ok(CreateEvent { what: Some(create_event::What::Created(created())) })).await.unwrap();
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn run(&self, request: Request<Streaming<RunInput>>) -> Reply<Self::RunStream> {
        let mut input = request.into_inner();
        let Some(RunInput { what: Some(run_input::What::Start(start)) }) = input.message().await? else {
            return Err(Status::invalid_argument("no start"));
        };
        let create = start.create.clone().unwrap();
        if let Some(status) = refusal(&create) {
            return Err(status);
        }
        self.0.created.lock().unwrap().push(create.clone());
        if let Some(size) = start.console {
            self.note(format!("console {}x{}", size.columns, size.rows));
        }
        let config = create.config.unwrap();
        let (out, stream) = mpsc::channel(1);
        let process = Process {
            out: out.clone(),
            stdin: stdio(input, |input| match input.what {
                Some(run_input::What::Stdio(stdio)) => Some(stdio),
                _ => None,
            }),
            kills: self.0.kills.subscribe(),
            state: self.0.clone(),
            wrap: run_output,
        };
        let fake = self.clone();
        tokio::spawn(async move {
            let say = async |what| drop(out.send(Ok(RunOutput { what: Some(what) })).await);
            if config.image == "never-answers" {
                fake.note("asked");
                return std::future::pending().await;
            }
            if config.image == "hello-world" {
                say(run_output::What::ImageMissing("docker.io/library/hello-world:latest".into())).await;
                for message in pull_messages() {
                    say(run_output::What::Pull(message)).await;
                }
            }
            say(run_output::What::Created(created())).await;
            say(run_output::What::Started(())).await;
            if start.stdin || start.stdout || start.stderr {
                fake.note("started");
                process.run(&config.args).await;
                if config.auto_remove {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    fake.note("removed");
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn attach(&self, request: Request<Streaming<AttachInput>>) -> Reply<Self::AttachStream> {
        let mut input = request.into_inner();
        let Some(AttachInput { what: Some(attach_input::What::Start(start)) }) = input.message().await?
        else {
            return Err(Status::invalid_argument("no start"));
        };
        self.note(format!("attach start={}", start.start));
        let (out, stream) = mpsc::channel(1);
        let process = Process {
            out,
            stdin: stdio(input, |input| match input.what {
                Some(attach_input::What::Stdio(stdio)) => Some(stdio),
                _ => None,
            }),
            kills: self.0.kills.subscribe(),
            state: self.0.clone(),
            wrap: attach_output,
        };
        tokio::spawn(async move {
            let attached = attach_output::What::Attached(Attached { id: ID.into(), tty: false });
            drop(process.out.send(Ok(AttachOutput { what: Some(attached) })).await);
            process.run(&["cat".into()]).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn exec(&self, request: Request<Streaming<ExecInput>>) -> Reply<Self::ExecStream> {
        let mut input = request.into_inner();
        let Some(ExecInput { what: Some(exec_input::What::Start(start)) }) = input.message().await? else {
            return Err(Status::invalid_argument("no start"));
        };
        self.found(&start.container)?;
        self.note(format!("exec {} {:?} detach={}", start.container, start.args, start.detach));
        let (out, stream) = mpsc::channel(1);
        let process = Process {
            out,
            stdin: stdio(input, |input| match input.what {
                Some(exec_input::What::Stdio(stdio)) => Some(stdio),
                _ => None,
            }),
            kills: self.0.kills.subscribe(),
            state: self.0.clone(),
            wrap: exec_output,
        };
        tokio::spawn(async move {
            let started = exec_output::What::Started(ExecStarted { exec_id: "e".into(), pid: 7 });
            drop(process.out.send(Ok(ExecOutput { what: Some(started) })).await);
            if !start.detach {
                process.run(&start.args).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn start(&self, request: Request<StartRequest>) -> Reply<()> {
        self.done("start", &request.into_inner().container)
    }

    async fn stop(&self, request: Request<StopRequest>) -> Reply<()> {
        let request = request.into_inner();
        self.done(&format!("stop {:?} {:?}", request.signal, request.timeout), &request.container)
    }

    async fn kill(&self, request: Request<KillRequest>) -> Reply<()> {
        let request = request.into_inner();
        drop(self.0.kills.send(request.signal.clone()));
        self.done(&format!("kill {}", request.signal), &request.container)
    }

    async fn restart(&self, request: Request<StopRequest>) -> Reply<()> {
        self.done("restart", &request.into_inner().container)
    }

    async fn pause(&self, request: Request<ContainerRequest>) -> Reply<()> {
        self.done("pause", &request.into_inner().container)
    }

    async fn unpause(&self, request: Request<ContainerRequest>) -> Reply<()> {
        self.done("unpause", &request.into_inner().container)
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Reply<WaitResponse> {
        self.found(&request.into_inner().container)?;
        Ok(Response::new(WaitResponse { exited: Some(Exited { exit_code: 7, ..Exited::default() }) }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Reply<ListResponse> {
        let request = request.into_inner();
        self.note(format!("list all={} last={} {:?}", request.all, request.last, request.filters));
        Ok(Response::new(ListResponse { containers: vec![summary("bold_ritchie")] }))
    }

    async fn inspect(&self, request: Request<ContainerRequest>) -> Reply<InspectResponse> {
        let name = request.into_inner().container;
        if name == "nosuch" || name.contains("busybox") {
            return Err(Status::not_found(format!("No such container: {name}")));
        }
        let mut summary = summary("bold_ritchie");
        if name == "stopped" {
            summary.status = longshore_proto::longshore::engine::v1::Status::Exited.into();
        }
        let config =
            ContainerConfig { open_stdin: true, image: "busybox".into(), ..ContainerConfig::default() };
        let process_args = vec!["sh".into(), "-c".into(), "exit 7".into()];
        Ok(Response::new(InspectResponse {
            summary: Some(summary),
            config: Some(config),
            exit_code: Some(7),
            process_args,
            ..InspectResponse::default()
        }))
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Reply<()> {
        let request = request.into_inner();
        self.done(&format!("remove force={}", request.force), &request.container)
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Reply<UpdateResponse> {
        let request = request.into_inner();
        let limits = request.resources.unwrap_or_default();
        self.note(format!(
            "update {} memory={} pids={} publish={} unmount={} env={}",
            request.container,
            limits.memory,
            limits.pids,
            request.publish.len(),
            request.unmount.join(","),
            request.env.join(","),
        ));
        let at_next_start = !request.publish.is_empty();
        Ok(Response::new(UpdateResponse { warnings: Vec::new(), at_next_start }))
    }

    async fn rename(&self, request: Request<RenameRequest>) -> Reply<()> {
        self.done("rename", &request.into_inner().container)
    }

    async fn top(&self, request: Request<TopRequest>) -> Reply<TopResponse> {
        self.note(format!("top {:?}", request.into_inner().ps_args));
        let row = |cells: &[&str]| cells.iter().map(|cell| cell.to_string()).collect();
        Ok(Response::new(TopResponse {
            titles: row(&["UID", "PID", "CMD"]),
            processes: vec![TopRow { cells: row(&["root", "4242", "sleep 1000"]) }],
        }))
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Reply<Self::StatsStream> {
        let (out, stream) = mpsc::channel(1);
        let stats = ContainerStats {
            id: ID.into(),
            name: "bold_ritchie".into(),
            cpu_percent: 1.25,
            memory_bytes: 1 << 20,
            memory_limit_bytes: 4 << 20,
            net_rx_bytes: 1500,
            pids: 3,
            ..ContainerStats::default()
        };
        out.send(Ok(StatsResponse { containers: vec![stats] })).await.unwrap();
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Reply<Self::LogsStream> {
        let request = request.into_inner();
        self.found(&request.container)?;
        self.note(format!(
            "logs follow={} tail={:?} since={}",
            request.follow,
            request.tail,
            request.since.is_some()
        ));
        let entry = |nanos: i32, stderr: bool, line: &str| LogEntry {
            time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos }),
            stderr,
            line: line.into(),
        };
        let (out, stream) = mpsc::channel(8);
        let entries = vec![entry(1, false, "one\n"), entry(2, true, "two\n"), entry(3, false, "cut ")];
        out.send(Ok(LogsResponse { entries, ..LogsResponse::default() })).await.unwrap();
        out.send(Ok(LogsResponse { entries: vec![entry(4, false, "line\n")], ..LogsResponse::default() }))
            .await
            .unwrap();
        if request.follow {
            let fake = self.clone();
            tokio::spawn(async move {
                while out
                    .send(Ok(LogsResponse {
                        entries: vec![entry(5, false, "more\n")],
                        ..LogsResponse::default()
                    }))
                    .await
                    .is_ok()
                {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                fake.note("reader left");
            });
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn prune(&self, _: Request<PruneRequest>) -> Reply<PruneResponse> {
        self.note("prune");
        Ok(Response::new(PruneResponse { removed: vec![ID.into()], reclaimed_bytes: 12 }))
    }
}

#[tonic::async_trait]
impl Images for Fake {
    type PullStream = ReceiverStream<Result<PullProgress, Status>>;
    type PushStream = ReceiverStream<Result<PushProgress, Status>>;
    type SaveStream = ReceiverStream<Result<SaveResponse, Status>>;
    type LoadStream = ReceiverStream<Result<LoadResponse, Status>>;

    async fn pull(&self, request: Request<PullRequest>) -> Reply<Self::PullStream> {
        let request = request.into_inner();
        let user = request.auth.map(|auth| auth.username).unwrap_or_default();
        self.note(format!("pull {} platform={} user={user}", request.reference, request.platform));
        let (out, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            let fails = request.reference.contains("broken");
            let messages = match request.reference.as_str() {
                "known" => known_image_messages(),
                _ => pull_messages(),
            };
            for message in messages.into_iter().take(if fails { 4 } else { usize::MAX }) {
                drop(out.send(Ok(message)).await);
            }
            if fails {
                drop(out.send(Err(Status::unavailable("registry answered 500"))).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list(&self, request: Request<ListImagesRequest>) -> Reply<ListImagesResponse> {
        self.note(format!("images {:?}", request.into_inner().filters));
        let image = ImageSummary {
            id: format!("sha256:{ID}"),
            tags: vec!["busybox:latest".into(), "127.0.0.1:5000/busybox:1".into()],
            repo_digests: vec![format!("busybox@sha256:{ID}")],
            created_at: Some(prost_types::Timestamp { seconds: 1_000_000_000, nanos: 0 }),
            size: 4_260_000,
            ..ImageSummary::default()
        };
        let untagged = ImageSummary {
            tags: vec![],
            repo_digests: vec![],
            id: format!("sha256:{}", "9".repeat(64)),
            ..image.clone()
        };
        Ok(Response::new(ListImagesResponse { images: vec![image, untagged] }))
    }

    async fn inspect(&self, request: Request<ImageRequest>) -> Reply<InspectImageResponse> {
        let image = request.into_inner().image;
        if !image.contains("busybox") {
            return Err(Status::not_found(format!("No such image: {image}")));
        }
        Ok(Response::new(InspectImageResponse {
            summary: Some(ImageSummary { id: format!("sha256:{ID}"), ..ImageSummary::default() }),
            config_json: br#"{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"],"Env":["A=1"]}}"#
                .to_vec(),
            ..InspectImageResponse::default()
        }))
    }

    async fn tag(&self, request: Request<TagRequest>) -> Reply<()> {
        let request = request.into_inner();
        self.done("tag", &format!("{} {}", request.source, request.target))
    }

    async fn remove(&self, request: Request<RemoveImageRequest>) -> Reply<RemoveImageResponse> {
        let image = request.into_inner().image;
        if image == "nosuch" {
            return Err(Status::not_found("No such image: nosuch:latest"));
        }
        Ok(Response::new(RemoveImageResponse {
            untagged: vec![image],
            deleted: vec![format!("sha256:{ID}")],
        }))
    }

    async fn prune(&self, _: Request<PruneImagesRequest>) -> Reply<PruneImagesResponse> {
        Ok(Response::new(PruneImagesResponse::default()))
    }

    async fn push(&self, _: Request<PushRequest>) -> Reply<Self::PushStream> {
        Err(Status::unimplemented("push"))
    }

    async fn save(&self, _: Request<SaveRequest>) -> Reply<Self::SaveStream> {
        Err(Status::not_found("No such image: nosuch"))
    }

    async fn import(&self, _: Request<Streaming<ImportRequest>>) -> Reply<ImportResponse> {
        Err(Status::unimplemented("import"))
    }

    async fn load(&self, _: Request<Streaming<LoadRequest>>) -> Reply<Self::LoadStream> {
        Err(Status::unimplemented("load"))
    }

    async fn history(&self, _: Request<ImageRequest>) -> Reply<HistoryResponse> {
        let created = Some(prost_types::Timestamp { seconds: 1_000_000_000, nanos: 0 });
        let newest = HistoryEntry {
            id: format!("sha256:{ID}"),
            created_at: created,
            created_by: "/bin/sh -c #(nop) COPY file:0123456789abcdef0123456789abcdef in /hello".into(),
            size: 4_260_000,
            ..HistoryEntry::default()
        };
        let older = HistoryEntry { comment: "by hand".into(), ..HistoryEntry::default() };
        Ok(Response::new(HistoryResponse { entries: vec![newest, older] }))
    }

    async fn login(&self, _: Request<LoginRequest>) -> Reply<LoginResponse> {
        Err(Status::unauthenticated("login attempt failed"))
    }
}

#[tonic::async_trait]
impl System for Fake {
    type EventsStream = ReceiverStream<Result<Event, Status>>;

    async fn version(&self, _: Request<VersionRequest>) -> Reply<VersionResponse> {
        Ok(Response::new(VersionResponse { version: "9.9".into(), ..VersionResponse::default() }))
    }

    async fn info(&self, _: Request<InfoRequest>) -> Reply<InfoResponse> {
        Ok(Response::new(InfoResponse {
            containers: 3,
            warnings: vec!["no swap".into()],
            ..InfoResponse::default()
        }))
    }

    async fn disk_usage(&self, _: Request<DiskUsageRequest>) -> Reply<DiskUsageResponse> {
        Ok(Response::new(DiskUsageResponse::default()))
    }

    async fn events(&self, _: Request<EventsRequest>) -> Reply<Self::EventsStream> {
        let (out, stream) = mpsc::channel(1);
        let event = Event {
            time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5 }),
            r#type: "container".into(),
            action: "start".into(),
            actor: ID.into(),
            attributes: HashMap::from([("name".into(), "x".into()), ("image".into(), "busybox".into())]),
        };
        out.send(Ok(event)).await.unwrap();
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
