//! Running a shim's binary: `start`, `delete` and `-info`, as the shim v2 protocol has it.
//!
//! What always holds: a command ends within its time or is killed with its process group; what it prints is read up to a
//! bound and thrown away beyond; only so many run at one time; its descriptors kept open by a process that it left
//! behind hold up nobody.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use longshore_proto::containerd::runtime::bootstrap::v1::{BootstrapParams, Extension, LogLevel};
use longshore_proto::containerd::task::v3::DeleteResponse;
use longshore_proto::containerd::types::RuntimeInfo;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tonic::Code;

use super::super::limits;
use super::super::runtimes::ForeignRuntime;
use super::answer::{self, Answer, Form};
use crate::any::Any;
use crate::error::{Error, Result};
use crate::namespaces::Namespace;

/// The longest path of a folder for shims' sockets: 64 digits follow in an address of 107 bytes.
const SOCKET_FOLDER: usize = 40;

/// How a shim is told where we are.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// The gRPC socket.
    pub grpc: PathBuf,
    /// The socket that takes events.
    pub ttrpc: PathBuf,
    /// Where shims that ask put their sockets.
    pub sockets: PathBuf,
}

/// Runs shims' binaries.
pub struct Commands {
    addresses: Addresses,
    running: Semaphore,
    /// Binaries that do not read `BootstrapParams`, by what tells one file from another.
    older: Mutex<HashMap<Identity, ()>>,
}

/// A file as it was when it was run.
type Identity = (u64, u64, i64, u64);

/// Whom a command is for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub namespace: &'a Namespace,
    pub id: &'a str,
    pub bundle: &'a Path,
}

struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: String,
}

impl Commands {
    pub fn new(addresses: Addresses) -> Self {
        let running = Semaphore::new(limits::SHIM_COMMANDS);
        Self { addresses, running, older: Mutex::default() }
    }

    /// Starts a shim for a bundle, or finds the one that runs its group. `options` are the runtime's.
    ///
    /// A shim that does not read `BootstrapParams` either ignores them and answers in an older form, or fails; it is then
    /// asked once more with nothing but its options, and so from the start from then on.
    ///
    /// # Errors
    /// What it printed to stderr; no answer in time; an answer that is none.
    pub async fn start(
        &self,
        runtime: &ForeignRuntime,
        subject: Subject<'_>,
        options: Option<&Any>,
    ) -> Result<Answer> {
        let identity = identity(&runtime.binary);
        let older = identity.is_some_and(|identity| self.knows_older(&identity));
        if !older {
            let params = self.bootstrap(subject, options);
            match self.start_with(runtime, subject, &params.encode_to_vec()).await {
                Ok(answer) => {
                    if let (Form::Older, Some(identity)) = (answer.form, identity) {
                        self.note_older(identity);
                    }
                    return Ok(answer);
                }
                Err(error @ Error::Timeout { .. }) => return Err(error),
                Err(error) => {
                    tracing::debug!(
                        runtime = runtime.name, container = subject.id, %error,
                        "a shim does not start with bootstrap parameters; asking it as older ones are asked"
                    );
                }
            }
        }
        let stdin = options.map(|options| prost_types::Any::from(options.clone()).encode_to_vec());
        let answer = self.start_with(runtime, subject, &stdin.unwrap_or_default()).await?;
        if let Some(identity) = identity {
            self.note_older(identity);
        }
        Ok(answer)
    }

    async fn start_with(
        &self,
        runtime: &ForeignRuntime,
        subject: Subject<'_>,
        stdin: &[u8],
    ) -> Result<Answer> {
        const STEP: &str = "start its shim";
        let mut command = self.command(runtime, subject);
        command.arg("start");
        let output = self.run(command, stdin, limits::SHIM_START, STEP, subject.id).await?;
        if !output.status.success() {
            return Err(failed(subject.id, STEP, &runtime.binary, &output));
        }
        if !output.stderr.is_empty() {
            tracing::warn!(
                container = subject.id,
                runtime = runtime.name,
                "its shim says: {}",
                output.stderr
            );
        }
        answer::parse(&output.stdout).map_err(|refused| {
            let message = format!("{}: {refused}", runtime.binary.display());
            shim_error(subject.id, STEP, Code::Unavailable, message)
        })
    }

    /// Has a shim's binary clean up after a shim that is gone: how its container ended.
    ///
    /// # Errors
    /// As [`Commands::start`].
    pub async fn delete(&self, runtime: &ForeignRuntime, subject: Subject<'_>) -> Result<DeleteResponse> {
        const STEP: &str = "clean up after its shim";
        let mut command = self.command(runtime, subject);
        command.arg("-bundle").arg(subject.bundle).arg("delete");
        let output = self.run(command, &[], limits::SHIM_DELETE, STEP, subject.id).await?;
        if !output.status.success() {
            return Err(failed(subject.id, STEP, &runtime.binary, &output));
        }
        if !output.stderr.is_empty() {
            tracing::debug!(container = subject.id, "its shim's delete says: {}", output.stderr);
        }
        DeleteResponse::decode(output.stdout.as_slice()).map_err(|error| {
            shim_error(subject.id, STEP, Code::Internal, format!("{}: {error}", runtime.binary.display()))
        })
    }

    /// What a shim's binary says of itself and, given its options, of what it drives.
    ///
    /// # Errors
    /// As [`Commands::start`].
    pub async fn info(&self, runtime: &ForeignRuntime, options: Option<&Any>) -> Result<RuntimeInfo> {
        const STEP: &str = "ask its shim for information";
        let mut command = Command::new(&runtime.binary);
        command.arg("-info").envs(pairs(&runtime.env));
        let stdin = options.map(|options| prost_types::Any::from(options.clone()).encode_to_vec());
        let stdin = stdin.unwrap_or_default();
        let output = self.run(command, &stdin, limits::REQUEST, STEP, &runtime.name).await?;
        if !output.status.success() {
            return Err(failed(&runtime.name, STEP, &runtime.binary, &output));
        }
        RuntimeInfo::decode(output.stdout.as_slice()).map_err(|error| {
            shim_error(&runtime.name, STEP, Code::Internal, format!("{}: {error}", runtime.binary.display()))
        })
    }

    fn command(&self, runtime: &ForeignRuntime, subject: Subject<'_>) -> Command {
        let mut command = Command::new(&runtime.binary);
        let namespace = subject.namespace.as_str();
        command.arg("-namespace").arg(namespace).arg("-address").arg(&self.addresses.grpc);
        if let Ok(own) = std::env::current_exe() {
            command.arg("-publish-binary").arg(own);
        }
        command.arg("-id").arg(subject.id);
        if tracing::enabled!(tracing::Level::DEBUG) {
            command.arg("-debug");
        }
        command
            .current_dir(subject.bundle)
            .env("GOMAXPROCS", "2")
            .env("MAX_SHIM_VERSION", "2")
            .env("TTRPC_ADDRESS", &self.addresses.ttrpc)
            .env("GRPC_ADDRESS", &self.addresses.grpc)
            .env("NAMESPACE", namespace)
            .envs(pairs(&runtime.env));
        command
    }

    fn bootstrap(&self, subject: Subject<'_>, options: Option<&Any>) -> BootstrapParams {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let level = if tracing::enabled!(tracing::Level::TRACE) {
            LogLevel::Trace
        } else if tracing::enabled!(tracing::Level::DEBUG) {
            LogLevel::Debug
        } else {
            LogLevel::Info
        };
        let sockets = text(&self.addresses.sockets);
        BootstrapParams {
            instance_id: subject.id.to_owned(),
            namespace: subject.namespace.as_str().to_owned(),
            log_level: level.into(),
            containerd_version: env!("CARGO_PKG_VERSION").to_owned(),
            containerd_ttrpc_address: text(&self.addresses.ttrpc),
            containerd_grpc_address: text(&self.addresses.grpc),
            containerd_binary: std::env::current_exe().map(|own| text(&own)).unwrap_or_default(),
            extensions: options
                .map(|options| Extension { value: Some(options.clone().into()) })
                .into_iter()
                .collect(),
            socket_dir: (sockets.len() <= SOCKET_FOLDER).then_some(sockets),
        }
    }

    fn knows_older(&self, identity: &Identity) -> bool {
        self.older.lock().unwrap_or_else(PoisonError::into_inner).contains_key(identity)
    }

    fn note_older(&self, identity: Identity) {
        let mut older = self.older.lock().unwrap_or_else(PoisonError::into_inner);
        if older.len() >= limits::KNOWN_BINARIES {
            older.clear();
        }
        older.insert(identity, ());
    }

    /// Runs a command to its end.
    async fn run(
        &self,
        mut command: Command,
        stdin: &[u8],
        limit: Duration,
        step: &'static str,
        id: &str,
    ) -> Result<Output> {
        let timed_out =
            || Error::Timeout { what: format!("container {id}: {step}"), seconds: limit.as_secs() };
        let program = PathBuf::from(command.as_std().get_program());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let work = async {
            // Closed never: the semaphore lives as long as this.
            let _running = self.running.acquire().await;
            let mut child = GroupChild(command.spawn().map_err(|e| Error::io("running", &program, e))?);
            child.finish(stdin).await.map_err(|e| Error::io("running", &program, e))
        };
        tokio::time::timeout(limit, work).await.map_err(|_| timed_out())?
    }
}

/// A child whose process group is killed if it is dropped before it ended.
struct GroupChild(Child);

impl GroupChild {
    async fn finish(&mut self, stdin: &[u8]) -> io::Result<Output> {
        let (mut input, stdout, stderr) = (self.0.stdin.take(), self.0.stdout.take(), self.0.stderr.take());
        let feed = async {
            if let Some(input) = &mut input {
                // It may not want to read it.
                let _ = input.write_all(stdin).await;
            }
            drop(input.take());
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = {
            let reads = async {
                tokio::join!(
                    read_bounded(stdout, &mut out, limits::SHIM_OUTPUT),
                    read_bounded(stderr, &mut err, limits::SHIM_STDERR)
                )
            };
            tokio::pin!(reads);
            let wait = async { tokio::join!(feed, self.0.wait()).1 };
            tokio::pin!(wait);
            tokio::select! {
                _ = &mut reads => wait.await?,
                status = &mut wait => {
                    // A process that it left behind may keep the pipes open: what is in them is here already.
                    let _ = tokio::time::timeout(limits::SHIM_OUTPUT_AFTER_EXIT, reads).await;
                    status?
                }
            }
        };
        let stderr = String::from_utf8_lossy(&err).trim().to_owned();
        Ok(Output { status, stdout: out, stderr })
    }
}

impl Drop for GroupChild {
    fn drop(&mut self) {
        // Only a child that was not reaped has an id, so the group is still this one.
        if let Some(group) = self.0.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

async fn read_bounded(pipe: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>, max: usize) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let room = max.saturating_sub(into.len());
        into.extend_from_slice(&buffer[..read.min(room)]);
    }
}

fn pairs(env: &[String]) -> impl Iterator<Item = (&str, &str)> {
    env.iter().filter_map(|pair| pair.split_once('='))
}

fn identity(binary: &Path) -> Option<Identity> {
    let metadata = std::fs::metadata(binary).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.mtime(), metadata.size()))
}

pub fn shim_error(container: &str, step: &'static str, code: Code, message: String) -> Error {
    Error::Shim { container: container.to_owned(), step, code, message }
}

fn failed(container: &str, step: &'static str, binary: &Path, output: &Output) -> Error {
    // It may have said why on either.
    let printed = String::from_utf8_lossy(&output.stdout);
    let said = if output.stderr.is_empty() { printed.trim() } else { output.stderr.as_str() };
    let status = output.status;
    shim_error(container, step, Code::Unknown, format!("{}: {said} ({status})", binary.display()))
}
