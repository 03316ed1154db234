//! One command of another program that is to be run: how it is started, how it is ended, and what its end means.
//!
//! What always holds: it dies with this process and when its time is up, with its helpers; what is kept of its words is bounded; the
//! files that were made for it go with it.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::{files, limits, sys};

/// What is left to be done of a step that a container was asked for.
pub enum Step {
    Done,
    Run(Box<Order>),
    /// What may take long, for a thread; it leaves no process behind.
    Beside(Work),
}

/// What a thread does.
pub type Work = Box<dyn FnOnce() -> Result<()> + Send>;

/// What a command leaves behind when it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    Nothing,
    /// A process that becomes this process's child, or is one and begins to run.
    Process,
}

/// Which stream of a command is heard here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hears {
    /// Its stderr, for the error if it fails.
    Stderr,
    /// Its stdout, for what was asked.
    Stdout,
    /// None: they are those of the container's process.
    Nothing,
}

/// A file that a command needs, and nobody after it.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A command that is to be run.
pub struct Order {
    pub command: Command,
    pub verb: &'static str,
    pub limit: Duration,
    pub leaves: Leaves,
    pub hears: Hears,
    /// What a failure means.
    pub judge: fn(Error) -> Result<()>,
    /// As in the options, for errors.
    pub runtime: String,
    /// Where it writes what it has to say.
    pub log: Option<Scratch>,
    /// What else goes with it.
    pub files: Vec<Scratch>,
}

impl Order {
    /// Starts it.
    pub fn spawn(mut self) -> Result<Running> {
        self.spawn_child().map_err(|source| {
            let why = format!("exec: {:?}: {source}", self.runtime);
            let error = Error::Command { runtime: self.runtime.clone(), verb: self.verb, why };
            // A judge cannot make a success of what was never run.
            (self.judge)(error).err().unwrap_or(Error::Finished)
        })
    }

    fn spawn_child(&mut self) -> std::io::Result<Running> {
        let said = match self.hears {
            Hears::Nothing => None,
            hears => {
                let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
                rustix::io::ioctl_fionbio(&reader, true)?;
                match hears {
                    Hears::Stdout => self.command.stdout(writer),
                    _ => self.command.stderr(writer),
                };
                Some(reader)
            }
        };
        self.command.process_group(0);
        sys::die_with_this_process(&mut self.command);
        sys::limit_files(&mut self.command, files::inherited().and_then(|limit| limit.current));
        let child = self.command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        // The other ends of its stdio are not ours to keep.
        self.command = Command::new("");
        Ok(Running {
            pid,
            said,
            text: Vec::new(),
            is_late: false,
            verb: self.verb,
            limit: self.limit,
            leaves: self.leaves,
            judge: self.judge,
            runtime: std::mem::take(&mut self.runtime),
            log: self.log.take(),
            _files: std::mem::take(&mut self.files),
        })
    }

    /// Runs it to its end, while nothing else is done: for a process without a loop. Gives back what it said.
    pub fn run(self) -> Result<Vec<u8>> {
        let mut running = self.spawn()?;
        let status = running.wait_alone();
        let text = running.text.clone();
        running.verdict(status).map(|()| text)
    }
}

/// A command that runs.
pub struct Running {
    pid: Pid,
    said: Option<OwnedFd>,
    text: Vec<u8>,
    /// Whether its time was up.
    is_late: bool,
    verb: &'static str,
    limit: Duration,
    leaves: Leaves,
    judge: fn(Error) -> Result<()>,
    runtime: String,
    log: Option<Scratch>,
    _files: Vec<Scratch>,
}

/// Whether more may be heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    More,
    All,
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    pub fn limit(&self) -> Duration {
        self.limit
    }

    pub fn leaves(&self) -> Leaves {
        self.leaves
    }

    /// Where it is heard.
    pub fn said(&self) -> Option<BorrowedFd<'_>> {
        self.said.as_ref().map(AsFd::as_fd)
    }

    /// Reads what it says; what is too much is left out.
    pub fn hear(&mut self, scratch: &mut [u8]) -> Heard {
        let Some(said) = &self.said else { return Heard::All };
        let mut total = 0;
        while total < limits::TURN {
            match rustix::io::read(said, &mut *scratch) {
                Ok(count @ 1..) => {
                    let room = limits::RUNTIME_SAID.saturating_sub(self.text.len()).min(count);
                    self.text.extend_from_slice(scratch.get(..room).unwrap_or_default());
                    total += count;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Heard::More,
                Ok(_) | Err(_) => return Heard::All,
            }
        }
        Heard::More
    }

    /// Its time is up: it and its helpers are killed. Whether it had been killed before.
    pub fn kill(&mut self) -> bool {
        // Not reaped yet, so the number is still its.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        let _ = rustix::process::kill_process(self.pid, Signal::KILL);
        std::mem::replace(&mut self.is_late, true)
    }

    /// Waits for it alone; `None` if it does not even die.
    fn wait_alone(&mut self) -> Option<WaitStatus> {
        let pidfd = rustix::process::pidfd_open(self.pid, PidfdFlags::empty()).ok()?;
        let mut scratch = [0; 4096];
        for limit in [self.limit, limits::RUNTIME_END] {
            let deadline = Instant::now() + limit;
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                let left = Timespec {
                    tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                    tv_nsec: i64::from(left.subsec_nanos()),
                };
                let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
                fds.extend(self.said.as_ref().map(|said| PollFd::new(said, PollFlags::IN)));
                match poll(&mut fds, Some(&left)) {
                    Ok(0) => break,
                    Err(_) => {}
                    Ok(_) => {
                        if let Ok(Some((_, status))) =
                            rustix::process::waitpid(Some(self.pid), WaitOptions::NOHANG)
                        {
                            self.hear(&mut scratch);
                            return Some(status);
                        }
                        if self.hear(&mut scratch) == Heard::All {
                            self.said = None;
                        }
                    }
                }
            }
            self.kill();
        }
        None
    }

    /// What its end means; `None`: it is killed, and does not end all the same.
    pub fn verdict(self, status: Option<WaitStatus>) -> Result<()> {
        let status = status.map(|status| ExitStatus::from_raw(status.as_raw()));
        if status.is_some_and(|status| status.success()) {
            return Ok(());
        }
        let why = match status {
            Some(status) if !self.is_late => {
                let logged = self.log.as_ref().and_then(|log| last_words(log.path()));
                let said = String::from_utf8_lossy(&self.text).trim().to_owned();
                let said = Some(said).filter(|text| !text.is_empty());
                logged.or(said).unwrap_or_else(|| status.to_string())
            }
            _ => format!("took longer than {} s and was killed", self.limit.as_secs()),
        };
        (self.judge)(Error::Command { runtime: self.runtime.clone(), verb: self.verb, why })
    }
}

/// For commands whose failure is a failure.
pub fn as_it_is(error: Error) -> Result<()> {
    Err(error)
}

/// Whether criu works on this host; what it says otherwise is [`Error::NotBuilt`].
pub fn criu_check() -> Order {
    let mut command = Command::new("criu");
    command.arg("check").stdin(Stdio::null()).stdout(Stdio::null());
    Order {
        command,
        verb: "check",
        limit: limits::RUNTIME_COMMAND,
        leaves: Leaves::Nothing,
        hears: Hears::Stderr,
        judge: |error| {
            let Error::Command { why, .. } = error else { return Err(error) };
            let told: Vec<&str> = why.lines().map(str::trim).filter(|line| line.contains("Error")).collect();
            let told = if told.is_empty() { why.trim().to_owned() } else { told.join("; ") };
            let why = format!("criu check says: {told}");
            Err(Error::NotBuilt { what: "checkpointing on this host", why })
        },
        runtime: "criu".to_owned(),
        log: None,
        files: Vec::new(),
    }
}

/// The last error in a runtime's log, which has a JSON object on each line.
fn last_words(log: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(log).ok()?.take(limits::RUNTIME_TEXT).read_to_string(&mut text).ok()?;
    let entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut errors = entries.filter(|entry| entry["level"] == "error" || entry["level"] == "fatal");
    errors.next_back()?["msg"].as_str().map(|message| message.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(script: &str) -> Order {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null());
        Order { command, runtime: "sh".into(), judge: as_it_is, verb: "create", ..criu_check() }
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed_with_its_helpers() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 61 & echo $! > {}; wait", file.display());
        let order = Order { limit: Duration::from_millis(500), ..order(&script) };
        let error = order.run().unwrap_err().to_string();
        assert!(error.contains("took longer"), "{error}");
        let helper: i32 = fs::read_to_string(file).unwrap().trim().parse().unwrap();
        // It is somebody else's zombie at most.
        std::thread::sleep(Duration::from_millis(50));
        let stat = fs::read_to_string(format!("/proc/{helper}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z"), "{stat}");
    }

    #[test]
    fn what_a_command_says_is_told_within_bounds() {
        let error = order("echo no such thing >&2; exit 3").run().unwrap_err().to_string();
        assert!(error.ends_with("no such thing"), "{error}");
        let error = order("head -c 1000000 /dev/zero >&2; exit 3").run().unwrap_err().to_string();
        assert!(error.len() < limits::RUNTIME_SAID + 100, "{}", error.len());
        let error = order("exit 3").run().unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        order("exit 0").run().unwrap();
    }
}
