//! Starting a container that exists.

use std::sync::Arc;

use jiff::Timestamp;
use longshore_proto::longshore::shim::v1 as shim;
use tracing::Instrument;

use super::config::Record;
use super::create::{Bundle, First, Purpose};
use super::registry::Entry;
use super::state::Status;
use super::{Engine, logs, volumes};
use crate::any::Any;
use crate::error::{Error, Result};
use crate::snapshots::Mount;
use crate::tasks::{AttachStream, AttachStreams, CreateTask, TaskStdio};

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub columns: u32,
    pub rows: u32,
}

/// Why a container that exists did not start, and what `docker run` would exit with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StartFailure {
    pub message: String,
    /// 125: a failure of the daemon's; 126: the program cannot be invoked; 127: it was not found.
    pub exit_code: u32,
}

/// Bytes at which a log that is never rotated would be.
const NEVER: u64 = u64::MAX;

/// How every failure of the runtime begins that is about the program.
const EXEC: &str = "exec";

impl From<&Error> for StartFailure {
    fn from(error: &Error) -> StartFailure {
        let (exit_code, message) = match error {
            Error::Shim { code: tonic::Code::InvalidArgument, message, .. } if message.starts_with(EXEC) => {
                (127, message.clone())
            }
            Error::Shim { code: tonic::Code::PermissionDenied, message, .. } if message.starts_with(EXEC) => {
                (126, message.clone())
            }
            other => (125, other.for_people()),
        };
        StartFailure { message, exit_code }
    }
}

/// Who starts a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Starter {
    /// Somebody who asked for it: counters of earlier restarts begin anew.
    User,
    /// Its policy, after the end of the run of this number.
    Policy { run: u64 },
    /// The daemon, which has just come up.
    Daemon,
}

/// A client's streams, and the number of the run that they belong to.
pub struct Joined {
    pub stream: AttachStream,
    pub run: u64,
}

/// What a client takes part in from the start.
#[derive(Clone, Copy, Debug)]
pub struct Join {
    pub streams: AttachStreams,
    pub console: Option<Size>,
}

impl Engine {
    /// Starts a container; one that runs already is left alone.
    pub async fn start(self: &Arc<Self>, text: &str) -> Result<(), Error> {
        let entry = self.find(text)?;
        self.start_entry(&entry, None, Starter::User).await?;
        Ok(())
    }

    /// Starts a container, and joins it before its first output. The stream is `None` if nothing was asked for
    /// or it ran already.
    pub(super) async fn start_entry(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        join: Option<Join>,
        by: Starter,
    ) -> Result<Option<Joined>> {
        let turn = entry.turn.clone().lock_owned().await;
        if !self.may_start(entry, by)? {
            return Ok(None);
        }
        let (engine, entry) = (self.clone(), entry.clone());
        // What was begun is carried through even if the client goes away.
        let work = async move {
            let _turn = turn;
            let (record, never_ran) = (entry.record(), entry.state().run == 0);
            let volumes = volumes::names(&record);
            let launched = async {
                let (mounts, joined) = tokio::join!(
                    engine.mounts_of(&entry, never_ran),
                    engine.join_networks(&entry.id, &record)
                );
                let ((mounts, first), joined) = (mounts?, joined?);
                entry.change(|record| {
                    record.state.endpoints = joined.endpoints().to_vec();
                    record.state.ports = joined.published().to_vec();
                });
                engine.mount_all(&volumes, &entry.id).await?;
                let bundle =
                    engine.bundle(&entry.id, &record, &mounts, (first, Purpose::Run), joined).await?;
                engine.launch(&entry, &record, bundle, join).await
            };
            let started = launched.await;
            if started.is_err() {
                engine.unmount_all(&volumes, &entry.id).await;
            }
            match &started {
                Ok(_) => {}
                Err(error) if by != Starter::User => {
                    // They were given back with what the container was to be started from.
                    entry.change(|record| {
                        record.state.endpoints.clear();
                        record.state.ports.clear();
                    });
                    engine.restart_failed(&entry, &StartFailure::from(error));
                }
                Err(error) => engine.note_failure(&entry, error).await,
            }
            started
        };
        self.carry("starting a container", work).await
    }

    /// Whether there is anything to start. The caller holds the container's turn.
    fn may_start(&self, entry: &Entry, by: Starter) -> Result<bool> {
        let state = entry.state();
        match by {
            Starter::User if matches!(state.status, Status::Running | Status::Restarting) => {
                return Ok(false);
            }
            Starter::User => {
                entry.transition(|state| state.check_start())?;
                entry.change(|record| record.state.start_asked());
            }
            Starter::Daemon if state.status != Status::Exited => return Ok(false),
            Starter::Daemon => {
                entry.change(|record| record.state.start_asked());
            }
            Starter::Policy { run } if state.status != Status::Restarting || state.run != run => {
                return Ok(false);
            }
            Starter::Policy { .. } if state.stop_asked => {
                entry.transition(|state| state.restart_given_up())?;
                self.save_state_soon(entry);
                return Ok(false);
            }
            Starter::Policy { .. } => {}
        }
        Ok(true)
    }

    /// Hands a bundle to a shim. The caller holds the container's turn.
    pub(super) async fn launch(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        record: &Record,
        bundle: Bundle,
        join: Option<Join>,
    ) -> Result<Option<Joined>> {
        self.mount_volumes(&entry.id, record).await?;
        let started = self.launch_task(entry, record, bundle, join).await;
        if started.is_err() {
            self.unmount_volumes(&entry.id, record).await;
        }
        started
    }

    async fn launch_task(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        record: &Record,
        bundle: Bundle,
        join: Option<Join>,
    ) -> Result<Option<Joined>> {
        self.clear_task(&entry.id).await?;
        let task = CreateTask {
            spec: bundle.spec,
            rootfs: bundle.rootfs,
            stdio: self.stdio(&entry.id, record),
            options: Some(entry.read(|record| self.shim_options(&entry.id, record, join))),
            runtime: String::new(),
            checkpoint: None,
            join: None,
            group: None,
        };
        let streams = join.map(|join| join.streams);
        let started = self
            .tasks
            .create_attach_start(&self.namespace, &entry.id, task, streams)
            .instrument(tracing::debug_span!("run.task"))
            .await?;
        let state = entry.transition(|state| {
            state.started(started.pid, Timestamp::now())?;
            super::health::begin(state, &record.config.health);
            Ok(())
        })?;
        if let Some(sandbox) = bundle.sandbox {
            sandbox.keep();
        }
        self.joined(entry);
        self.save_state_soon(entry);
        if join.is_some() {
            self.happened(entry, "attach", &[]);
        }
        self.happened(entry, "start", &[]);
        if let Some(size) = join.and_then(|join| join.console) {
            self.resized(entry, size);
        }
        self.watch_health(entry);
        Ok(started.attach.map(|stream| Joined { stream, run: state.run }))
    }

    /// A task that a failure left behind would stand in the way.
    async fn clear_task(&self, id: &str) -> Result<()> {
        if self.tasks.get(&self.namespace, id, crate::tasks::ProcessId::Init).is_err() {
            return Ok(());
        }
        match self.tasks.delete(&self.namespace, id).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// The container's mounts; a snapshot that a power cut took is made again, empty as it was before any write
    /// to it was synced.
    pub(super) async fn mounts_of(&self, entry: &Entry, never_ran: bool) -> Result<(Vec<Mount>, First)> {
        let snapshotter = entry.read(|record| self.snapshotter_of(record))?;
        match snapshotter.mounts(&self.namespace, &entry.id).await {
            Ok(mounts) => Ok((mounts, if never_ran { First::Yes } else { First::No })),
            Err(error) if error.is_not_found() => {
                tracing::warn!(container = %entry.id, "the container's writable layer was lost; it starts with a new one");
                let (image, _) = self.find_image(&entry.read(|record| record.image_id.clone())).await?;
                let local =
                    self.open_image(&image, &entry.read(|record| record.config.platform.clone())).await?;
                let labels = [(super::image_mounts::OWNER.to_owned(), entry.id.clone())].into();
                let parent = local.chain_id.clone().unwrap_or_default();
                let mounts = snapshotter.prepare(&self.namespace, &entry.id, &parent, labels, None).await?;
                Ok((mounts, First::Yes))
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps why a container did not start.
    pub(super) async fn note_failure(&self, entry: &Entry, error: &Error) {
        self.drop_shm(&entry.id);
        let failure = StartFailure::from(error);
        entry.change(|record| {
            record.state.start_failed(failure.exit_code, &failure.message);
            // They were given back with what the container was to be started from.
            record.state.endpoints.clear();
            record.state.ports.clear();
        });
        self.save_state_soon(entry);
    }

    fn stdio(&self, id: &str, record: &Record) -> TaskStdio {
        let stdout = logs::driver::files(&record.config.log).map(|files| {
            let path = self.log_path(id);
            let max_size = files.max_size.unwrap_or(NEVER);
            let mut uri =
                format!("log://{}?max-size={max_size}&max-files={}", path.display(), files.max_files);
            if files.compressed {
                uri.push_str("&compress=true");
            }
            if let Some(buffer) = files.buffer {
                uri.push_str(&format!("&buffer={buffer}"));
            }
            uri
        });
        TaskStdio {
            stdin: String::new(),
            stdout: stdout.unwrap_or_default(),
            stderr: String::new(),
            terminal: record.config.tty,
        }
    }

    fn shim_options(&self, id: &str, record: &Record, join: Option<Join>) -> Any {
        let console = join.and_then(|join| join.console);
        let network = self.network_options(id, record);
        let options = shim::CreateOptions {
            console: console.map(|size| shim::WindowSize { columns: size.columns, rows: size.rows }),
            seccomp_cache: self.seccomp_cache().display().to_string(),
            open_stdin: record.config.open_stdin,
            // Not on a terminal: who detaches from it comes back to a shell that still reads.
            stdin_once: record.stdin_once && !record.config.tty,
            init: record.config.init.unwrap_or(self.config.engine.init),
            dns: network.dns,
            ports: network.ports,
            ..shim::CreateOptions::default()
        };
        Any::pack("longshore.shim.v1.CreateOptions", &options)
    }
}
