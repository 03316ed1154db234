//! The Containers service.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use longshore_proto::longshore::engine::v1 as wire;
use longshore_proto::longshore::engine::v1::containers_server::Containers;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{self, Told};
use super::files;
use super::session::{self, Ended, Out, StdinEnd, Target, Wire};
use super::{Answer, STREAM_BUFFER, Stream, empty, status};
use crate::engine::Engine;
use crate::engine::attach::Begin;
use crate::engine::create::Progress;
use crate::engine::exec::Exec;
use crate::engine::list::ListRequest;
use crate::engine::logs::{self, Cursor, Piece, Query, Streams};
use crate::engine::registry::Entry;
use crate::engine::remove::{Anonymous, Running};
use crate::engine::run::Run;
use crate::engine::start::Joined;
use crate::engine::stats::Before;
use crate::engine::stop::Stop;
use crate::engine::wait::Until;

/// Between two samples of one stream of statistics.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Between the two samples that one answer is made from.
const SHORT_INTERVAL: Duration = Duration::from_millis(300);

/// The service.
#[derive(Clone)]
pub struct ContainersService {
    engine: Arc<Engine>,
}

impl ContainersService {
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

/// Runs `work` in the background with the client's end; its error ends the stream.
fn answer<T, F, W>(work: F) -> Answer<Stream<T>>
where
    T: Send + 'static,
    F: FnOnce(Out<T>) -> W,
    W: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (out, receiver) = mpsc::channel(STREAM_BUFFER);
    let work = work(out.clone());
    tokio::spawn(async move {
        if let Err(status) = work.await {
            // The client may be gone; nobody else asked.
            let _ = out.send(Err(status)).await;
        }
    });
    Ok(Response::new(Stream::new(receiver)))
}

/// Sends a message; `None` when the client is gone.
async fn send<T>(out: &Out<T>, message: T) -> Option<()> {
    out.send(Ok(message)).await.ok()
}

/// Does `work` while its progress goes to the client, and drops it when the client goes away.
async fn with_progress<T, R>(
    out: &Out<T>,
    wrap: fn(Told) -> T,
    work: impl Future<Output = crate::error::Result<R>>,
    mut progress: mpsc::Receiver<Progress>,
) -> Option<Result<R, Status>> {
    let forward = async {
        while let Some(event) = progress.recv().await {
            if send(out, wrap(convert::progress(event))).await.is_none() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        done = work => Some(done.map_err(status)),
        () = forward => None,
        () = out.closed() => None,
    }
}

#[tonic::async_trait]
impl Containers for ContainersService {
    type CreateStream = Stream<wire::CreateEvent>;
    type RunStream = Stream<wire::RunOutput>;
    type AttachStream = Stream<wire::AttachOutput>;
    type ExecStream = Stream<wire::ExecOutput>;
    type StatsStream = Stream<wire::StatsResponse>;
    type LogsStream = Stream<wire::LogsResponse>;
    type CopyFromStream = Stream<wire::CopyFromResponse>;
    type ExportStream = Stream<wire::ExportResponse>;

    async fn create(&self, request: Request<wire::CreateRequest>) -> Answer<Self::CreateStream> {
        use wire::create_event::What;
        let (engine, request) = (self.engine.clone(), convert::create(Some(request.into_inner()))?);
        answer(|out| async move {
            let wrap = |told: Told| wire::CreateEvent {
                what: Some(match told {
                    Told::ImageMissing(reference) => What::ImageMissing(reference),
                    Told::Pull(progress) => What::Pull(progress),
                }),
            };
            let (sender, progress) = mpsc::channel(STREAM_BUFFER);
            let Some(created) =
                with_progress(&out, wrap, Box::pin(engine.create(request, sender)), progress).await
            else {
                return Ok(());
            };
            let created = convert::created(&created?);
            send(&out, wire::CreateEvent { what: Some(What::Created(created)) }).await;
            Ok(())
        })
    }

    async fn run(&self, request: Request<Streaming<wire::RunInput>>) -> Answer<Self::RunStream> {
        let engine = self.engine.clone();
        let inputs = request.into_inner();
        answer(|out| run(engine, inputs, out))
    }

    async fn start(&self, request: Request<wire::StartRequest>) -> Answer<()> {
        self.engine.start(&request.into_inner().container).await.map_err(status)?;
        empty()
    }

    async fn attach(&self, request: Request<Streaming<wire::AttachInput>>) -> Answer<Self::AttachStream> {
        let engine = self.engine.clone();
        let inputs = request.into_inner();
        answer(|out| attach(engine, inputs, out))
    }

    async fn exec(&self, request: Request<Streaming<wire::ExecInput>>) -> Answer<Self::ExecStream> {
        let engine = self.engine.clone();
        let inputs = request.into_inner();
        answer(|out| exec(engine, inputs, out))
    }

    async fn stop(&self, request: Request<wire::StopRequest>) -> Answer<()> {
        let request = request.into_inner();
        let how = Stop { signal: request.signal, timeout: request.timeout };
        self.engine.stop(&request.container, how).await.map_err(status)?;
        empty()
    }

    async fn kill(&self, request: Request<wire::KillRequest>) -> Answer<()> {
        let request = request.into_inner();
        self.engine.kill(&request.container, &request.signal).await.map_err(status)?;
        empty()
    }

    async fn restart(&self, request: Request<wire::StopRequest>) -> Answer<()> {
        let request = request.into_inner();
        let how = Stop { signal: request.signal, timeout: request.timeout };
        self.engine.restart(&request.container, how).await.map_err(status)?;
        empty()
    }

    async fn pause(&self, request: Request<wire::ContainerRequest>) -> Answer<()> {
        self.engine.pause(&request.into_inner().container).await.map_err(status)?;
        empty()
    }

    async fn unpause(&self, request: Request<wire::ContainerRequest>) -> Answer<()> {
        self.engine.unpause(&request.into_inner().container).await.map_err(status)?;
        empty()
    }

    async fn wait(&self, request: Request<wire::WaitRequest>) -> Answer<wire::WaitResponse> {
        let request = request.into_inner();
        let until = if request.removed { Until::Removed } else { Until::Stopped };
        let exit = self.engine.wait(&request.container, until).await.map_err(status)?;
        Ok(Response::new(wire::WaitResponse { exited: Some(convert::exited(exit)) }))
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Answer<wire::ListResponse> {
        let request = request.into_inner();
        let request = ListRequest {
            all: request.all,
            filters: request.filters,
            last: request.last as usize,
            size: request.size,
        };
        let found = self.engine.list(&request).await.map_err(status)?;
        Ok(Response::new(wire::ListResponse {
            containers: found.into_iter().map(convert::summary).collect(),
        }))
    }

    async fn inspect(&self, request: Request<wire::ContainerRequest>) -> Answer<wire::InspectResponse> {
        let found = self.engine.inspect(&request.into_inner().container).map_err(status)?;
        let exit_code = found.exit_code();
        let (record, state) = (found.record, found.summary);
        Ok(Response::new(wire::InspectResponse {
            snapshot_key: state.id.clone(),
            summary: Some(convert::summary(state)),
            config: Some(convert::config_to_wire(record.config)),
            pid: record.state.pid,
            exit_code,
            oom_killed: record.state.oom_killed,
            started_at: convert::maybe_timestamp(record.state.started_at),
            finished_at: convert::maybe_timestamp(record.state.finished_at),
            error: record.state.error,
            process_args: record.process_args,
            log_path: found.log_path,
            snapshotter: found.snapshotter,
            runtime: found.runtime,
            entrypoint_words: u32::try_from(record.entrypoint_words).unwrap_or(u32::MAX),
            user: record.user,
            volumes: found.volumes,
            masked_paths: found.masked_paths,
            readonly_paths: found.readonly_paths,
            restart_count: record.state.restart_count,
            bundle: found.bundle,
            process_env: found.process_env,
            process_cwd: record.process_cwd,
            sandbox: match (record.state.pid, record.state.status.is_live()) {
                (0, _) | (_, false) => String::new(),
                (pid, true) => format!("/proc/{pid}/ns/net"),
            },
            networks: found.networks.into_iter().map(convert::attachment).collect(),
            mount_points: found.mounts.into_iter().map(convert::mount_point).collect(),
            health: record.state.health.map(|health| convert::health(*health)),
            files: found.files,
            exec_ids: found.execs,
            apparmor_profile: found.apparmor,
            exposed_ports: record.exposed,
        }))
    }

    async fn remove(&self, request: Request<wire::RemoveRequest>) -> Answer<()> {
        let request = request.into_inner();
        let running = if request.force { Running::Kill } else { Running::Refuse };
        let anonymous = if request.volumes { Anonymous::Removed } else { Anonymous::Kept };
        self.engine.remove(&request.container, running, anonymous).await.map_err(status)?;
        empty()
    }

    async fn update(&self, request: Request<wire::UpdateRequest>) -> Answer<wire::UpdateResponse> {
        let (container, update) = convert::update(request.into_inner())?;
        let updated = self.engine.update(&container, update).await.map_err(status)?;
        Ok(Response::new(wire::UpdateResponse {
            warnings: updated.warnings,
            at_next_start: updated.at_next_start,
        }))
    }

    async fn rename(&self, request: Request<wire::RenameRequest>) -> Answer<()> {
        let request = request.into_inner();
        self.engine.rename(&request.container, &request.new_name).await.map_err(status)?;
        empty()
    }

    async fn top(&self, request: Request<wire::TopRequest>) -> Answer<wire::TopResponse> {
        let request = request.into_inner();
        let table = self.engine.top(&request.container, &request.ps_args).await.map_err(status)?;
        let processes = table.rows.into_iter().map(|cells| wire::TopRow { cells }).collect();
        Ok(Response::new(wire::TopResponse { titles: table.titles, processes }))
    }

    async fn stats(&self, request: Request<wire::StatsRequest>) -> Answer<Self::StatsStream> {
        let (engine, request) = (self.engine.clone(), request.into_inner());
        // Unknown names are refused before anything is streamed.
        engine.stats_targets(&request.containers, request.all).map_err(status)?;
        answer(|out| stats(engine, request, out))
    }

    async fn logs(&self, request: Request<wire::LogsRequest>) -> Answer<Self::LogsStream> {
        let request = request.into_inner();
        let entry = self.engine.find(&request.container).map_err(status)?;
        let streams = match (request.stdout, request.stderr) {
            (true, false) => Streams::Stdout,
            (false, true) => Streams::Stderr,
            _ => Streams::Both,
        };
        let query = Query {
            tail: request.tail,
            since: convert::from_timestamp(request.since)?,
            until: convert::from_timestamp(request.until)?,
            streams,
            after: Cursor::parse(&request.after).map_err(status)?,
        };
        let mut lines = self.engine.logs(&entry, query, request.follow).map_err(status)?;
        let mut details = entry.read(|record| logs::driver::details(record, &entry.id));
        answer(|out| async move {
            while let Some(piece) = lines.recv().await {
                let Piece { entries, cursor } = piece.map_err(status)?;
                let response = wire::LogsResponse {
                    entries: entries.into_iter().map(log_entry).collect(),
                    cursor: cursor.map(Cursor::bytes).unwrap_or_default(),
                    details: std::mem::take(&mut details),
                };
                if send(&out, response).await.is_none() {
                    break;
                }
            }
            Ok(())
        })
    }

    async fn stat_path(&self, request: Request<wire::StatPathRequest>) -> Answer<wire::PathStat> {
        files::stat(&self.engine, request.into_inner()).await
    }

    async fn copy_from(&self, request: Request<wire::StatPathRequest>) -> Answer<Self::CopyFromStream> {
        let (engine, request) = (self.engine.clone(), request.into_inner());
        answer(|out| files::copy_from(engine, request, out))
    }

    async fn copy_to(&self, request: Request<Streaming<wire::CopyToRequest>>) -> Answer<()> {
        files::copy_to(&self.engine, request.into_inner()).await
    }

    async fn diff(&self, request: Request<wire::ContainerRequest>) -> Answer<wire::DiffResponse> {
        files::diff(&self.engine, request.into_inner()).await
    }

    async fn export(&self, request: Request<wire::ContainerRequest>) -> Answer<Self::ExportStream> {
        let (engine, request) = (self.engine.clone(), request.into_inner());
        answer(|out| files::export(engine, request, out))
    }

    async fn commit(&self, request: Request<wire::CommitRequest>) -> Answer<wire::CommitResponse> {
        files::commit(&self.engine, request.into_inner()).await
    }

    async fn prune(&self, request: Request<wire::PruneRequest>) -> Answer<wire::PruneResponse> {
        let pruned = self.engine.prune(&request.into_inner().filters).await.map_err(status)?;
        Ok(Response::new(wire::PruneResponse { removed: pruned.removed, reclaimed_bytes: pruned.reclaimed }))
    }
}

fn log_entry(entry: logs::Line) -> wire::LogEntry {
    wire::LogEntry {
        time: Some(convert::timestamp(entry.time)),
        stderr: entry.stderr,
        line: entry.line.into(),
    }
}

async fn first<T>(inputs: &mut Streaming<T>) -> Result<Option<T>, Status> {
    inputs.next().await.transpose()
}

fn missing_start() -> Status {
    Status::invalid_argument("the first message of the stream must be `start`")
}

async fn run(
    engine: Arc<Engine>,
    mut inputs: Streaming<wire::RunInput>,
    out: Out<wire::RunOutput>,
) -> Result<(), Status> {
    use wire::run_output::What;
    let message = |what| wire::RunOutput { what: Some(what) };
    let Some(wire::run_input::What::Start(start)) = first(&mut inputs).await?.and_then(|m| m.what) else {
        return Err(missing_start());
    };
    let request = convert::create(start.create)?;
    let join = convert::join(start.stdin, start.stdout, start.stderr, start.console);
    let wrap = |told: Told| wire::RunOutput {
        what: Some(match told {
            Told::ImageMissing(reference) => What::ImageMissing(reference),
            Told::Pull(progress) => What::Pull(progress),
        }),
    };
    let (sender, progress) = mpsc::channel(STREAM_BUFFER);
    let Some(run) = with_progress(&out, wrap, Box::pin(engine.run(request, join, sender)), progress).await
    else {
        return Ok(());
    };
    let Run { created, started } = run?;
    send(&out, message(What::Created(convert::created(&created)))).await;
    let stream = match started {
        Ok(stream) => stream,
        Err(failure) => {
            send(&out, message(What::StartFailed(convert::start_failure(failure)))).await;
            return Ok(());
        }
    };
    send(&out, message(What::Started(()))).await;
    let Some(Joined { stream, run }) = stream else { return Ok(()) };
    let wire = Wire {
        input: |input: wire::RunInput| match input.what {
            Some(wire::run_input::What::Stdio(stdio)) => Some(stdio),
            _ => None,
        },
        output: |stdio| wire::RunOutput { what: Some(What::Stdio(stdio)) },
    };
    let stdin = stdin_end(&created.entry);
    let target = Target { engine: &engine, entry: &created.entry, exec_id: "", stdin };
    let ended = session::carry(&target, stream, &mut inputs, &out, &wire).await;
    if let Some(exited) = container_end(&engine, &created.entry, run, ended).await {
        send(&out, message(What::Exited(exited))).await;
    }
    Ok(())
}

fn stdin_end(entry: &Entry) -> StdinEnd {
    if entry.read(|record| record.stdin_once) { StdinEnd::Closes } else { StdinEnd::Stays }
}

/// What an attached client is told at the end; `None` if it left before.
async fn container_end(
    engine: &Arc<Engine>,
    entry: &Arc<Entry>,
    run: u64,
    ended: Ended,
) -> Option<wire::Exited> {
    match ended {
        Ended::Detached => None,
        Ended::Exited(exit) => {
            engine.run_ended(entry, Some((run, exit.into()))).await;
            Some(convert::exited(exit.into()))
        }
        Ended::Lost => Some(convert::exited(engine.wait_entry(entry, Until::Stopped).await)),
    }
}

async fn attach(
    engine: Arc<Engine>,
    mut inputs: Streaming<wire::AttachInput>,
    out: Out<wire::AttachOutput>,
) -> Result<(), Status> {
    use wire::attach_output::What;
    let message = |what| wire::AttachOutput { what: Some(what) };
    let Some(wire::attach_input::What::Start(start)) = first(&mut inputs).await?.and_then(|m| m.what) else {
        return Err(missing_start());
    };
    let Some(join) = convert::join(start.stdin, start.stdout, start.stderr, start.console) else {
        return Err(Status::invalid_argument("attaching to no stream makes no sense"));
    };
    let begin = if start.start { Begin::Start } else { Begin::Running };
    let attached = engine.attach(&start.container, join, begin).await.map_err(status)?;
    let Joined { stream, run } = match attached.stream {
        Ok(joined) => joined,
        Err(failure) => {
            send(&out, message(What::StartFailed(convert::start_failure(failure)))).await;
            return Ok(());
        }
    };
    let told = wire::Attached { id: attached.entry.id.clone(), tty: attached.tty };
    send(&out, message(What::Attached(told))).await;
    let wire = Wire {
        input: |input: wire::AttachInput| match input.what {
            Some(wire::attach_input::What::Stdio(stdio)) => Some(stdio),
            _ => None,
        },
        output: |stdio| wire::AttachOutput { what: Some(What::Stdio(stdio)) },
    };
    let stdin = stdin_end(&attached.entry);
    let target = Target { engine: &engine, entry: &attached.entry, exec_id: "", stdin };
    let ended = session::carry(&target, stream, &mut inputs, &out, &wire).await;
    if let Some(exited) = container_end(&engine, &attached.entry, run, ended).await {
        send(&out, message(What::Exited(exited))).await;
    }
    Ok(())
}

async fn exec(
    engine: Arc<Engine>,
    mut inputs: Streaming<wire::ExecInput>,
    out: Out<wire::ExecOutput>,
) -> Result<(), Status> {
    use wire::exec_output::What;
    let message = |what| wire::ExecOutput { what: Some(what) };
    let Some(wire::exec_input::What::Start(start)) = first(&mut inputs).await?.and_then(|m| m.what) else {
        return Err(missing_start());
    };
    let join = if start.detach { None } else { convert::join(start.stdin, true, true, start.console) };
    let exec = Exec {
        args: start.args,
        env: start.env,
        working_dir: start.working_dir,
        user: start.user,
        tty: start.tty,
        privileged: start.privileged,
        join,
    };
    let executed = engine.exec(&start.container, exec).await.map_err(status)?;
    let running = match executed.started {
        Ok(running) => running,
        Err(failure) => {
            send(&out, message(What::StartFailed(convert::start_failure(failure)))).await;
            return Ok(());
        }
    };
    let told = wire::ExecStarted { exec_id: executed.exec_id.clone(), pid: running.pid };
    send(&out, message(What::Started(told))).await;
    let Some(stream) = running.stream else { return Ok(()) };
    let wire = Wire {
        input: |input: wire::ExecInput| match input.what {
            Some(wire::exec_input::What::Stdio(stdio)) => Some(stdio),
            _ => None,
        },
        output: |stdio| wire::ExecOutput { what: Some(What::Stdio(stdio)) },
    };
    let (entry, exec_id) = (&executed.entry, executed.exec_id.as_str());
    let target = Target { engine: &engine, entry, exec_id, stdin: StdinEnd::Closes };
    match session::carry(&target, stream, &mut inputs, &out, &wire).await {
        Ended::Exited(exit) => {
            send(&out, message(What::Exited(convert::exited(exit.into())))).await;
            Ok(())
        }
        Ended::Detached => Ok(()),
        Ended::Lost => Err(Status::unavailable("the container went away while the process ran")),
    }
}

async fn stats(
    engine: Arc<Engine>,
    request: wire::StatsRequest,
    out: Out<wire::StatsResponse>,
) -> Result<(), Status> {
    let mut before = Before::default();
    let mut first = true;
    loop {
        let targets = match engine.stats_targets(&request.containers, request.all) {
            Ok(targets) => targets,
            // One of them was removed while it was watched.
            Err(error) if error.is_not_found() && !first => return Ok(()),
            Err(error) => return Err(status(error)),
        };
        let (samples, seen) = engine.sample(targets, before).await.map_err(status)?;
        before = seen;
        // The first sample knows no rates; a client that wants one answer waits for the second.
        if !first || request.stream {
            let containers = samples.into_iter().map(sample).collect();
            if send(&out, wire::StatsResponse { containers }).await.is_none() || !request.stream {
                return Ok(());
            }
        }
        tokio::select! {
            () = tokio::time::sleep(if request.stream { SAMPLE_INTERVAL } else { SHORT_INTERVAL }) => {}
            () = out.closed() => return Ok(()),
        }
        first = false;
    }
}

fn sample(sample: crate::engine::stats::Sample) -> wire::ContainerStats {
    wire::ContainerStats {
        id: sample.id,
        name: sample.name,
        cpu_percent: sample.cpu_percent,
        cpu_nanos: sample.cpu_nanos,
        memory_bytes: sample.memory_bytes,
        memory_limit_bytes: sample.memory_limit,
        net_rx_bytes: sample.net_rx,
        net_tx_bytes: sample.net_tx,
        block_read_bytes: sample.block_read,
        block_write_bytes: sample.block_write,
        pids: sample.pids,
    }
}
