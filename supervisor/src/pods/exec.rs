//! One more process in a running container of a pod.

use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::{BoxBuilder, Spec};

use super::Pods;
use super::container::Container;
use super::record::State;
use crate::any::Any;
use crate::engine::names::new_id;
use crate::engine::signals;
use crate::error::{Error, Result};
use crate::tasks::{
    AttachOutput, AttachReceiver, AttachStream, AttachStreams, ExecTask, KillScope, ProcessId, TaskStdio,
};

/// The type URL of a process specification.
const PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// Bytes of output that are kept of a synchronous exec, both streams together: with what is around them they fit into one
/// message, which is 16 MiB long at most for every client. More are read and dropped.
const MAX_OUTPUT: usize = (16 << 20) - 4096;

/// How long output may still come when the process has ended: a child of its own may have kept the stream.
const LATE: Duration = Duration::from_millis(250);

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Exec {
    pub args: Vec<String>,
    pub tty: bool,
    /// Columns and rows of the terminal.
    pub size: Option<(u32, u32)>,
}

/// What a process said, and how it ended.
#[derive(Clone, Debug, Default)]
pub struct Said {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: u32,
}

impl Pods {
    /// Runs a process and returns what it said. `timeout`: it is killed then, and the call fails; zero: none.
    pub async fn exec_sync(self: &Arc<Self>, id: &str, args: Vec<String>, timeout: Duration) -> Result<Said> {
        let container = self.running(id)?;
        let exec_id = new_id();
        let streams = AttachStreams { stdin: false, stdout: true, stderr: true };
        let exec = Exec { args, ..Exec::default() };
        let stream = self.begin(&container, &exec_id, &exec, streams).await?;
        let mut said = Said::default();
        let collect = self.collect(&container, &exec_id, stream.output, &mut said);
        let outcome = if timeout.is_zero() {
            Some(collect.await)
        } else {
            tokio::time::timeout(timeout, collect).await.ok()
        };
        let Some(outcome) = outcome else {
            let process = ProcessId::Exec(&exec_id);
            let kill = signals::KILL.unsigned_abs();
            let killed = self.tasks.kill(&self.namespace, &container.id, process, kill, KillScope::One).await;
            if let Err(error) = killed {
                tracing::debug!(container = %container.id, %error, "an exec that took too long ended by itself");
            }
            return Err(Error::Timeout {
                what: format!("command {:?} in container {}", exec.args.join(" "), container.id),
                seconds: timeout.as_secs(),
            });
        };
        said.exit_code = outcome?;
        Ok(said)
    }

    /// Reads what the process says until it has ended.
    async fn collect(
        &self,
        container: &Container,
        exec_id: &str,
        mut output: AttachReceiver,
        said: &mut Said,
    ) -> Result<u32> {
        let mut room = MAX_OUTPUT;
        let mut keep = |kept: &mut Vec<u8>, bytes: &[u8]| {
            let bytes = bytes.get(..room).unwrap_or(bytes);
            kept.extend_from_slice(bytes);
            room -= bytes.len();
        };
        let exit = self.tasks.wait(&self.namespace, &container.id, ProcessId::Exec(exec_id));
        tokio::pin!(exit);
        let mut ended: Option<u32> = None;
        loop {
            let next = async {
                match ended {
                    None => Some(output.recv().await),
                    Some(_) => tokio::time::timeout(LATE, output.recv()).await.ok(),
                }
            };
            tokio::select! {
                biased;
                next = next => match (next, ended) {
                    (Some(Some(Ok(AttachOutput::Stdout(bytes)))), _) => keep(&mut said.stdout, &bytes),
                    (Some(Some(Ok(AttachOutput::Stderr(bytes)))), _) => keep(&mut said.stderr, &bytes),
                    (Some(Some(Ok(AttachOutput::Exited(exit)))), _) => return Ok(exit.status),
                    (Some(Some(Ok(AttachOutput::Attached))), _) => {}
                    (Some(Some(Err(error))), None) => return Err(error),
                    (Some(Some(Err(_)) | None) | None, Some(code)) => return Ok(code),
                    (Some(None) | None, None) => return exit.await.map(|exit| exit.status),
                },
                exit = &mut exit, if ended.is_none() => ended = Some(exit?.status),
            }
        }
    }

    /// Runs a process that a client takes part in.
    pub async fn exec(
        self: &Arc<Self>,
        id: &str,
        exec: &Exec,
        streams: AttachStreams,
    ) -> Result<AttachStream> {
        let container = self.running(id)?;
        self.begin(&container, &new_id(), exec, streams).await
    }

    /// Joins the first process of a container. The second part: whether its stdin ends with the client's.
    pub async fn attach(&self, id: &str, streams: AttachStreams) -> Result<(AttachStream, bool)> {
        let container = self.running(id)?;
        let (opened, once) = container.read(|record| (record.config.stdin, record.config.stdin_once));
        let streams = AttachStreams { stdin: streams.stdin && opened, ..streams };
        let stream = self.tasks.attach(&self.namespace, &container.id, ProcessId::Init, streams).await?;
        Ok((stream, once))
    }

    /// A container that runs.
    pub fn running(&self, id: &str) -> Result<Arc<Container>> {
        let container = self.container(id)?;
        match container.state() {
            State::Running => Ok(container),
            _ => Err(Error::precondition(format!("container {}", container.id), "it does not run")),
        }
    }

    async fn begin(
        self: &Arc<Self>,
        container: &Arc<Container>,
        exec_id: &str,
        exec: &Exec,
        streams: AttachStreams,
    ) -> Result<AttachStream> {
        let process = process(container, exec)?;
        let task = ExecTask {
            process: Any::new(PROCESS_URL, process),
            stdio: TaskStdio { terminal: exec.tty, ..TaskStdio::default() },
        };
        let started = self
            .tasks
            .exec_attach_start(&self.namespace, &container.id, exec_id, task, Some(streams))
            .await?;
        self.delete_when_ended(container.id.clone(), exec_id.to_owned());
        started.attach.ok_or(Error::Lost { what: "the streams of a new process" })
    }

    /// Whether or not a client is still there.
    fn delete_when_ended(self: &Arc<Self>, id: String, exec_id: String) {
        let pods = self.clone();
        tokio::spawn(async move {
            // An error means that the whole container is gone.
            if pods.tasks.wait(&pods.namespace, &id, ProcessId::Exec(&exec_id)).await.is_ok() {
                // Whoever reads its last output is given the time for it.
                tokio::time::sleep(LATE * 2).await;
                let deleted = pods.tasks.delete_process(&pods.namespace, &id, &exec_id).await;
                if let Err(error) = deleted
                    && !error.is_not_found()
                {
                    tracing::debug!(container = %id, %error, "an ended exec could not be deleted");
                }
            }
        });
    }
}

/// As the container's own, with other words.
fn process(container: &Container, exec: &Exec) -> Result<Vec<u8>> {
    if exec.args.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("exec", "no command was named"));
    }
    if exec.args.iter().any(|word| word.contains('\0')) {
        return Err(Error::invalid("argument", "contains NUL"));
    }
    let unreadable = |source: serde_json::Error| Error::Record {
        table: "spec",
        key: container.id.clone(),
        source: source.into(),
    };
    let spec: Spec = serde_json::from_slice(&container.spec).map_err(unreadable)?;
    let lost = || Error::Damaged {
        what: format!("spec of container {}", container.id),
        why: "it has no process".into(),
    };
    let mut process = spec.process().clone().ok_or_else(lost)?;
    process.set_args(Some(exec.args.clone()));
    process.set_terminal(Some(exec.tty));
    process.set_console_size(None);
    if exec.tty {
        let mut env = process.env().clone().unwrap_or_default();
        if !env.iter().any(|entry| entry.starts_with("TERM=")) {
            env.push("TERM=xterm".to_owned());
            process.set_env(Some(env));
        }
        if let Some((columns, rows)) = exec.size {
            let size = BoxBuilder::default().width(columns).height(rows).build().map_err(Error::oci)?;
            process.set_console_size(Some(size));
        }
    }
    serde_json::to_vec(&process).map_err(unreadable)
}
