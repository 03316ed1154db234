//! One more process in a running container.

use std::sync::Arc;

use super::Engine;
use super::config::{Record, Ulimit};
use super::conflict::Conflict;
use super::process::FirstProcess;
use super::registry::Entry;
use super::spec::{self, add_groups, capabilities, env, live, user};
use super::start::{Join, StartFailure};
use super::state::{Refused, Status};
use crate::any::Any;
use crate::content::store::blocking;
use crate::error::{Error, Result};
use crate::tasks::{AttachStream, ExecTask, ProcessId, TaskStdio};

/// The type URL of a process specification.
const PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// What a shell says of a program that it cannot invoke.
const CANNOT_INVOKE: u32 = 126;
/// And of one that it does not find.
const NOT_FOUND: u32 = 127;

/// What to run.
#[derive(Clone, Debug)]
pub struct Exec {
    pub args: Vec<String>,
    pub env: Vec<String>,
    /// Empty: the container's.
    pub working_dir: String,
    /// Empty: the container's.
    pub user: String,
    pub tty: bool,
    pub privileged: bool,
    /// `None`: nobody takes part, and the output is dropped.
    pub join: Option<Join>,
}

/// A process that was added.
pub struct Executed {
    pub entry: Arc<Entry>,
    pub exec_id: String,
    pub started: Result<Running, StartFailure>,
}

pub struct Running {
    pub pid: u32,
    pub stream: Option<AttachStream>,
}

impl Engine {
    pub async fn exec(self: &Arc<Self>, text: &str, exec: Exec) -> Result<Executed> {
        let entry = self.find(text)?;
        if exec.args.is_empty() {
            return Err(Error::invalid("no exec command specified", "name a program"));
        }
        if exec.args.iter().chain(&exec.env).any(|word| word.contains('\0')) {
            return Err(Error::invalid("argument", "contains NUL"));
        }
        match entry.status() {
            Status::Running => {}
            Status::Paused => return Err(Conflict::ExecPaused { id: text.to_owned() }.into()),
            Status::Restarting => {
                return Err(Conflict::State { id: entry.id.clone(), why: Refused::Restarting }.into());
            }
            _ => return Err(Conflict::State { id: entry.id.clone(), why: Refused::NotRunning }.into()),
        }
        let exec_id = super::names::new_id();
        let command = exec.args.join(" ");
        let (record, pid, id) = (entry.record(), entry.state().pid, entry.id.clone());
        let (tty, join) = (exec.tty, exec.join);
        if exec.args.first().is_some_and(String::is_empty) {
            let message = "exec: \"\": executable file not found in $PATH".to_owned();
            let failure = StartFailure { message, exit_code: NOT_FOUND };
            return Ok(Executed { entry, exec_id, started: Err(failure) });
        }
        let default_ulimits = self.default_ulimits.clone();
        let process = match blocking(move || process(&record, (pid, &id), &exec, &default_ulimits)).await {
            Ok(process) => process,
            // It cannot be invoked as it was asked for: by a user or in a folder that is not there.
            Err(error @ Error::InvalidArgument { .. }) => {
                let failure = StartFailure { message: error.for_people(), exit_code: CANNOT_INVOKE };
                return Ok(Executed { entry, exec_id, started: Err(failure) });
            }
            Err(error) => return Err(error),
        };
        self.happened(&entry, format!("exec_create: {command}"), &[("execID", exec_id.clone())]);
        let task = ExecTask {
            process: Any::new(PROCESS_URL, process),
            stdio: TaskStdio { terminal: tty, ..TaskStdio::default() },
        };
        let streams = join.map(|join| join.streams);
        let started = self.tasks.exec_attach_start(&self.namespace, &entry.id, &exec_id, task, streams).await;
        let started = match started {
            Ok(started) => {
                self.happened(&entry, format!("exec_start: {command}"), &[("execID", exec_id.clone())]);
                self.reap_exec(&entry, &exec_id);
                Ok(Running { pid: started.pid, stream: started.attach })
            }
            Err(error @ Error::Shim { .. }) => Err(StartFailure::from(&error)),
            Err(error) => return Err(error),
        };
        Ok(Executed { entry, exec_id, started })
    }

    /// After a start of the daemon: the execs that an earlier one began.
    pub(super) fn reap_execs(self: &Arc<Self>, entry: &Arc<Entry>) {
        for exec_id in self.tasks.kept_execs(&self.namespace, &entry.id) {
            self.reap_exec(entry, &exec_id);
        }
    }

    /// Deletes the process when it has ended, whether or not a client is still there.
    fn reap_exec(self: &Arc<Self>, entry: &Arc<Entry>, exec_id: &str) {
        let (engine, entry, exec_id) = (self.clone(), entry.clone(), exec_id.to_owned());
        tokio::spawn(async move {
            let exit = engine.tasks.wait(&engine.namespace, &entry.id, ProcessId::Exec(&exec_id)).await;
            if let Ok(exit) = exit {
                let more = [("execID", exec_id.clone()), ("exitCode", exit.status.to_string())];
                engine.happened(&entry, "exec_die", &more);
            }
            match engine.tasks.delete_process(&engine.namespace, &entry.id, &exec_id).await {
                // The whole container may be gone by now.
                Err(error) if !error.is_not_found() => {
                    tracing::debug!(container = %entry.id, %error, "an ended exec could not be deleted");
                }
                _ => {}
            }
        });
    }
}

/// What the container's own process started with, but for the terminal, which is this process' own.
fn environment(record: &Record, tty: bool) -> Vec<String> {
    let own = record.process_env.iter().cloned();
    let asked = record.config.env.iter().any(|entry| entry.starts_with("TERM="));
    let mut all: Vec<String> = own.filter(|entry| asked || !entry.starts_with("TERM=")).collect();
    if tty && !all.iter().any(|entry| entry.starts_with("TERM=")) {
        let place =
            all.iter().position(|entry| entry.starts_with("HOSTNAME=")).map_or(all.len(), |at| at + 1);
        all.insert(place, "TERM=xterm".to_owned());
    }
    all
}

fn process(
    record: &Record,
    (pid, id): (u32, &str),
    exec: &Exec,
    default_ulimits: &[Ulimit],
) -> Result<Vec<u8>> {
    let who = if exec.user.is_empty() { &record.user } else { &exec.user };
    let root = FirstProcess::of(pid, id)?.root()?;
    let file = |path| live::open_file(&root, path);
    let mut identity = user::resolve(who, file("/etc/passwd")?, file("/etc/group")?)?;
    let environment = env::with_home(env::merge(&environment(record, exec.tty), &exec.env), &identity.home);
    let config = &record.config;
    let security = spec::security::Security::parse(config)?;
    if exec.user.is_empty() {
        add_groups(&mut identity, config, || file("/etc/group"))?;
    }
    let bounding =
        capabilities::resolve(&config.cap_add, &config.cap_drop, config.privileged || exec.privileged)?;
    let cwd = if exec.working_dir.is_empty() { &record.process_cwd } else { &exec.working_dir };
    if !cwd.starts_with('/') {
        return Err(Error::invalid("Cwd must be an absolute path", cwd.clone()));
    }
    let mut process = spec::process(&spec::ProcessInput {
        args: &exec.args,
        env: environment,
        cwd,
        tty: exec.tty,
        identity: &identity,
        bounding: &bounding,
        rlimits: spec::ulimits::rlimits(&config.ulimits, default_ulimits)?,
        no_new_privileges: security.no_new_privileges && !exec.privileged,
        apparmor: if exec.privileged { "" } else { &security.apparmor },
        oom_score_adj: config.oom_score_adj,
    })?;
    if let Some(size) = exec.join.and_then(|join| join.console) {
        let console = oci_spec::runtime::BoxBuilder::default()
            .height(u64::from(size.rows))
            .width(u64::from(size.columns))
            .build()
            .map_err(Error::oci)?;
        process.set_console_size(Some(console));
    }
    serde_json::to_vec(&process).map_err(|source| Error::Record {
        table: "exec",
        key: record.name.clone(),
        source: source.into(),
    })
}
