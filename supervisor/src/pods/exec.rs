//! One more process in a running container of a pod.

use std::sync::Arc;

use oci_spec::runtime::{BoxBuilder, Spec};

use super::Pods;
use super::container::Container;
use super::record::State;
use crate::any::Any;
use crate::engine::names::new_id;
use crate::error::{Error, Result};
use crate::tasks::{AttachStream, AttachStreams, ExecTask, ProcessId, TaskStdio};

/// The type URL of a process specification.
const PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Exec {
    pub args: Vec<String>,
    pub tty: bool,
    /// Columns and rows of the terminal.
    pub size: Option<(u32, u32)>,
}

impl Pods {
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

    /// Starts a process. Dropped before it has answered, it ends what it began.
    pub(super) async fn begin(
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
    pub(super) fn delete_when_ended(self: &Arc<Self>, id: String, exec_id: String) {
        let pods = self.clone();
        tokio::spawn(async move {
            // An error means that the whole container is gone.
            if pods.tasks.wait(&pods.namespace, &id, ProcessId::Exec(&exec_id)).await.is_ok() {
                // Who still takes its last output gets all of it: the deletion waits for that.
                let deleted = pods.tasks.delete_process(&pods.namespace, &id, &exec_id).await;
                if let Err(error) = deleted
                    && !error.is_not_found()
                {
                    tracing::debug!(container = %id, %error, "an ended exec could not be deleted");
                }
            }
        });
    }

    /// After a start of the daemon: what an earlier one began in a container that runs. Nobody waits for what a synchronous exec says
    /// any more.
    pub(super) fn take_over_execs(self: &Arc<Self>, id: &str) {
        for exec_id in self.tasks.kept_execs(&self.namespace, id) {
            self.delete_when_ended(id.to_owned(), exec_id.clone());
            if exec_id.starts_with(super::exec_sync::PREFIX) {
                self.end_exec(id.to_owned(), exec_id);
            }
        }
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
