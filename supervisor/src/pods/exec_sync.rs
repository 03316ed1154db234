//! One more process in a running container, and what it said by its end.
//!
//! What always holds: the call ends a fixed moment after its deadline at the latest, whatever container and shim do, and a fixed moment
//! after the process has ended, whoever holds its output or goes on filling it; a process whose call is over is killed, with what it
//! started in its session.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Pods;
use super::container::Container;
use super::exec::Exec;
use crate::engine::names::new_id;
use crate::engine::signals;
use crate::error::{Error, Result};
use crate::tasks::{AttachOutput, AttachReceiver, AttachStreams, KillScope, ProcessId};

/// What the ids of these processes begin with: those of an earlier daemon are told by it.
pub(super) const PREFIX: &str = "sync-";

/// Bytes of output that are kept, both streams together: with what is around them they fit into one message, which is 16 MiB
/// long at most for every client. More are read and dropped.
const MAX_OUTPUT: usize = (16 << 20) - 4096;

/// How long nothing may come of the output once the process has ended, and how long it is read then at most: a child of its own may
/// have kept the stream, and may fill it. All that the process itself wrote is on its way when it is known to have ended.
const QUIET: Duration = Duration::from_millis(250);
const LATEST: Duration = Duration::from_secs(1);

/// How long a killed process may take to end before its session is looked at.
const KILLED: Duration = Duration::from_secs(5);

/// How long a call whose time is over waits until its process is gone.
const GONE: Duration = Duration::from_secs(1);

/// How often a session is looked through for processes: what is killed may just have started others.
const ROUNDS: usize = 8;

/// What a process said, and how it ended.
#[derive(Clone, Debug, Default)]
pub struct Said {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: u32,
}

impl Said {
    /// Keeps output as far as there is room.
    fn keep(&mut self, output: AttachOutput) {
        let room = MAX_OUTPUT.saturating_sub(self.stdout.len() + self.stderr.len());
        let (kept, bytes) = match output {
            AttachOutput::Stdout(bytes) => (&mut self.stdout, bytes),
            AttachOutput::Stderr(bytes) => (&mut self.stderr, bytes),
            AttachOutput::Attached | AttachOutput::Exited(_) => return,
        };
        kept.extend_from_slice(bytes.get(..room).unwrap_or(&bytes));
    }
}

impl Pods {
    /// Runs a process and returns what it said. `timeout`, from now on: it is killed then, and the call fails; zero: none. Dropped, the
    /// call kills it, too.
    ///
    /// # Errors
    /// The container does not run; the program cannot be executed; the time is over.
    pub async fn exec_sync(self: &Arc<Self>, id: &str, args: Vec<String>, timeout: Duration) -> Result<Said> {
        // One beyond what a clock can say is none.
        let deadline = if timeout.is_zero() { None } else { Instant::now().checked_add(timeout) };
        let container = self.running(id)?;
        let exec_id = format!("{PREFIX}{}", new_id());
        let exec = Exec { args, ..Exec::default() };
        let late = || Error::Timeout {
            what: format!("command {:?} in container {}", exec.args.join(" "), container.id),
            seconds: timeout.as_secs(),
        };
        let streams = AttachStreams { stdin: false, stdout: true, stderr: true };
        let stream = tokio::select! {
            begun = self.begin(&container, &exec_id, &exec, streams) => begun?,
            () = at(deadline) => return Err(late()),
        };
        let mut running =
            Running { pods: self.clone(), container: container.id.clone(), exec_id: Some(exec_id.clone()) };
        let mut said = Said::default();
        let code = self.collect(&container, &exec_id, stream.output, deadline, &mut said).await?;
        running.exec_id = None;
        let Some(code) = code else {
            // Who is told that it was too late finds it gone, unless it does not let itself be killed.
            let _ = tokio::time::timeout(GONE, self.end_exec(container.id.clone(), exec_id)).await;
            return Err(late());
        };
        said.exit_code = code;
        Ok(said)
    }

    /// Reads what the process says until it has ended; its exit code, or none when its time is over.
    async fn collect(
        &self,
        container: &Container,
        exec_id: &str,
        mut output: AttachReceiver,
        deadline: Option<Instant>,
        said: &mut Said,
    ) -> Result<Option<u32>> {
        let exit = self.tasks.wait(&self.namespace, &container.id, ProcessId::Exec(exec_id));
        tokio::pin!(exit);
        let mut ended: Option<(u32, Instant)> = None;
        let mut until = deadline;
        let mut is_open = true;
        let mut deleted = None;
        loop {
            tokio::select! {
                biased;
                exit = &mut exit, if ended.is_none() && deleted.is_none() => match exit {
                    Ok(exit) => {
                        let now = Instant::now();
                        ended = Some((exit.status, now + LATEST));
                        until = Some(now + QUIET);
                    }
                    // It had ended, and was deleted, before it was asked for: the stream says how.
                    Err(error) if error.is_not_found() && is_open => deleted = Some(error),
                    Err(error) => return Err(error),
                },
                next = output.recv(), if is_open && !is_over(ended) => match (next, ended) {
                    (Some(Ok(AttachOutput::Exited(exit))), _) => return Ok(Some(exit.status)),
                    (Some(Ok(output)), _) => {
                        said.keep(output);
                        if let Some((_, latest)) = ended {
                            until = Some(latest.min(Instant::now() + QUIET));
                        }
                    }
                    (Some(Err(_)) | None, Some((code, _))) => return Ok(Some(code)),
                    (Some(Err(error)), None) => return Err(error),
                    (None, None) => match deleted {
                        Some(error) => return Err(error),
                        None => is_open = false,
                    },
                },
                () = at(until) => return Ok(ended.map(|(code, _)| code)),
            }
            // Output that never pauses is no reason to miss the deadline.
            if ended.is_none() && deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(None);
            }
        }
    }

    /// Kills a process that nobody waits for any more, and what it started in its session.
    /// It is done whether or not what is returned is waited for.
    pub(super) fn end_exec(self: &Arc<Self>, id: String, exec_id: String) -> JoinHandle<()> {
        let pods = self.clone();
        self.background.spawn(async move {
            let process = ProcessId::Exec(&exec_id);
            let session = pods.tasks.get(&pods.namespace, &id, process).map(|info| info.pid);
            let kill = signals::KILL.unsigned_abs();
            match pods.tasks.kill(&pods.namespace, &id, process, kill, KillScope::One).await {
                Ok(()) => {
                    let ended = pods.tasks.wait(&pods.namespace, &id, process);
                    let _ = tokio::time::timeout(KILLED, ended).await;
                }
                Err(error) => tracing::debug!(container = %id, %error, "an exec that was to be killed"),
            }
            if let Some(session) = session.ok().and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 1)
            {
                pods.end_session(&id, session).await;
            }
        })
    }

    /// Kills all processes of a session within a container. Its number is nobody else's while there are any.
    async fn end_session(&self, id: &str, session: i32) {
        for _ in 0..ROUNDS {
            let Ok(pids) = self.tasks.pids(&self.namespace, id).await else { return };
            let pids: HashSet<i32> = pids.iter().filter_map(|found| i32::try_from(found.pid).ok()).collect();
            let killed = pids.into_iter().filter(|pid| kill_in_session(*pid, session)).count();
            if killed == 0 {
                return;
            }
        }
    }
}

fn is_over(ended: Option<(u32, Instant)>) -> bool {
    ended.is_some_and(|(_, latest)| latest <= Instant::now())
}

/// Ends at a moment, or never.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Kills a process if it is of a session; whether it was.
fn kill_in_session(pid: i32, session: i32) -> bool {
    let Some(number) = Pid::from_raw(pid) else { return false };
    let Ok(handle) = rustix::process::pidfd_open(number, PidfdFlags::empty()) else { return false };
    // Asked with the handle open: had the number gone to another process meanwhile, the signal would reach nobody.
    session_of(pid) == Some(session) && rustix::process::pidfd_send_signal(&handle, Signal::KILL).is_ok()
}

/// The session of a process that has not ended.
fn session_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so count from its end.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let session = fields.nth(2)?.parse().ok()?;
    (state != "Z").then_some(session)
}

/// A process whose end is waited for; dropped before that, it is killed.
struct Running {
    pods: Arc<Pods>,
    container: String,
    exec_id: Option<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(exec_id) = self.exec_id.take()
            && tokio::runtime::Handle::try_current().is_ok()
        {
            self.pods.end_exec(std::mem::take(&mut self.container), exec_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_fits_one_message() {
        let mut said = Said::default();
        for _ in 0..3 {
            said.keep(AttachOutput::Stdout(vec![b'o'; 4 << 20].into()));
            said.keep(AttachOutput::Stderr(vec![b'e'; 4 << 20].into()));
        }
        assert_eq!(said.stdout.len() + said.stderr.len(), MAX_OUTPUT);
        assert!(said.stderr.len() > 7 << 20);
    }

    #[test]
    fn a_process_is_killed_in_its_own_session_only() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let own = session_of(pid).unwrap();
        assert!(!kill_in_session(pid, own + 1));
        assert!(kill_in_session(pid, own));
        while session_of(pid).is_some() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
