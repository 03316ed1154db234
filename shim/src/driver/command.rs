//! A container of another OCI runtime, such as runc or crun: which commands its steps are.
//!
//! What always holds: nothing here runs a command or waits; the shim reaps the container's processes (they come to it when the
//! runtime's command has exited); its cgroups are the other runtime's, and only read here.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use longshore_runtime::Stdio;
use longshore_runtime::cgroups::CgroupPaths;
use oci_spec::runtime::{LinuxResources, Process as ProcessSpec};
use rustix::process::{Pid, PidfdFlags};

use super::checkpoint::Restore;
use super::console::Console;
use super::oci::Oci;
use super::order::{Hears, Leaves, Order, Scratch, Step};
use crate::bundle;
use crate::error::{Error, Result};

/// What a container is made from.
pub struct Making {
    pub id: String,
    pub stdio: Stdio,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    /// The folder of a checkpoint, and of the one before it; empty: none.
    pub checkpoint: String,
    pub criu_work: String,
}

/// The verb that waits for no other.
pub const KILL: &str = "kill";

/// The container.
pub struct Command {
    oci: Oci,
    id: String,
    pid: i32,
    cgroups: Option<CgroupPaths>,
    oom: Option<OwnedFd>,
    /// What is left to be done by `start` instead of opening a gate.
    restore: Option<Box<Restore>>,
    /// Where a restored container's terminal comes from.
    console: Option<Console>,
}

/// A process that was added.
pub struct ExecByCommand {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub terminal: Option<OwnedFd>,
}

/// What is needed to take over a container that is being made.
pub struct Creation {
    pub container: Command,
    console: Option<Console>,
}

/// What is needed to take over a process that is being added.
pub struct Addition {
    console: Option<Console>,
    pid_file: Scratch,
}

impl Creation {
    /// The command has worked: the container, and its terminal.
    pub fn finish(&mut self) -> Result<Option<OwnedFd>> {
        let terminal = self.console.take().map(Console::receive).transpose()?;
        // One that is to be restored has no process yet.
        if self.container.restore.is_none() {
            self.container.adopt()?;
        }
        Ok(terminal)
    }
}

impl Addition {
    /// The command has worked: the process, which runs.
    pub fn finish(self) -> Result<ExecByCommand> {
        let terminal = self.console.map(Console::receive).transpose();
        let pid = read_pid(self.pid_file.path())?;
        let pidfd = open_pidfd(pid)?;
        match terminal {
            Ok(terminal) => Ok(ExecByCommand { pid, pidfd, terminal }),
            Err(error) => {
                let _ = signal(&pidfd, libc::SIGKILL);
                Err(error)
            }
        }
    }

    /// The command has failed: ends the process that it may have made all the same.
    pub fn abandon(self) {
        if let Ok(pidfd) = read_pid(self.pid_file.path()).and_then(open_pidfd) {
            let _ = signal(&pidfd, libc::SIGKILL);
        }
    }
}

impl Command {
    /// How the container is made, or, with nothing to run yet, restored.
    pub fn create(oci: Oci, making: Making) -> Result<(Creation, Step)> {
        let id = making.id.clone();
        let mut made = Self { oci, id, pid: 0, cgroups: None, oom: None, restore: None, console: None };
        if !making.checkpoint.is_empty() {
            made.restore = Some(Box::new(Restore::prepare(making)));
            made.oci.record()?;
            return Ok((Creation { container: made, console: None }, Step::Done));
        }
        let mut order = made.oci.order("create");
        order.leaves = Leaves::Process;
        order.command.arg("--bundle").arg(made.oci.bundle());
        made.add_common(&mut order, making.no_pivot, making.no_new_keyring);
        let console = give_stdio(&mut order, making.stdio, &made.oci)?;
        order.command.arg(&made.id);
        made.oci.record()?;
        Ok((Creation { container: made, console }, Step::Run(Box::new(order))))
    }

    pub(super) fn add_common(&self, order: &mut Order, no_pivot: bool, no_new_keyring: bool) {
        order.command.arg("--pid-file").arg(self.oci.bundle().join(bundle::INIT_PID));
        if no_pivot {
            order.command.arg("--no-pivot");
        }
        if no_new_keyring {
            order.command.arg("--no-new-keyring");
        }
    }

    /// Finds the first process, which the runtime has left to us, unless it is known.
    pub fn adopt(&mut self) -> Result<()> {
        if self.pid == 0 {
            self.pid = read_pid(&self.oci.bundle().join(bundle::INIT_PID))?;
            self.cgroups = CgroupPaths::of_process(self.pid).ok();
            self.oom = self.cgroups.as_ref().and_then(CgroupPaths::oom_fd);
        }
        Ok(())
    }

    /// The terminal of a container that was restored just now.
    pub fn late_terminal(&mut self) -> Result<Option<OwnedFd>> {
        self.console.take().map(Console::receive).transpose()
    }

    pub(super) fn oci(&self) -> &Oci {
        &self.oci
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    pub fn start(&mut self) -> Result<Step> {
        let mut order = match self.restore.take() {
            Some(restore) => {
                let (order, console) = restore.order(self)?;
                self.console = console;
                order
            }
            None => self.verb("start"),
        };
        order.leaves = Leaves::Process;
        Ok(Step::Run(Box::new(order)))
    }

    /// A verb that takes the container's id alone.
    pub fn verb(&self, verb: &'static str) -> Order {
        let mut order = self.oci.order(verb);
        order.command.arg(&self.id);
        order
    }

    pub fn kill(&self, signal: i32) -> Order {
        self.kill_by(&[self.id.clone(), signal.to_string()])
    }

    pub fn kill_all(&self, signal: i32) -> Order {
        self.kill_by(&["--all".to_owned(), self.id.clone(), signal.to_string()])
    }

    fn kill_by(&self, args: &[String]) -> Order {
        let mut order = self.oci.order(KILL);
        order.command.args(args);
        order.judge = |error| match error {
            Error::Command { why, .. }
                if ["not running", "already finished", "No such process", "does not exist"]
                    .iter()
                    .any(|words| why.contains(words)) =>
            {
                Err(Error::Finished)
            }
            other => Err(other),
        };
        order
    }

    pub fn update(&self, resources: &LinuxResources) -> Result<Order> {
        let file = Scratch::new(self.oci.scratch("resources", "json"));
        write_json(file.path(), resources)?;
        let mut order = self.oci.order("update");
        order.command.arg("--resources").arg(file.path()).arg(&self.id);
        order.files.push(file);
        Ok(order)
    }

    pub fn cgroups(&self) -> Result<&CgroupPaths> {
        self.cgroups.as_ref().ok_or(Error::Finished)
    }

    pub fn oom_fd(&self) -> Option<BorrowedFd<'_>> {
        self.oom.as_ref().map(AsFd::as_fd)
    }

    /// How a process is added, which runs at once.
    pub fn exec(&self, process: &ProcessSpec, stdio: Stdio) -> Result<(Addition, Order)> {
        let spec = Scratch::new(self.oci.scratch("exec", "json"));
        let pid_file = Scratch::new(self.oci.scratch("exec", "pid"));
        write_json(spec.path(), process)?;
        let mut order = self.oci.order("exec");
        order.leaves = Leaves::Process;
        order
            .command
            .arg("--process")
            .arg(spec.path())
            .arg("--pid-file")
            .arg(pid_file.path())
            .arg("--detach");
        let console = give_stdio(&mut order, stdio, &self.oci)?;
        order.command.arg(&self.id);
        order.files.push(spec);
        Ok((Addition { console, pid_file }, order))
    }

    pub fn delete(&self) -> Step {
        // A container that was never restored is not known to the runtime.
        match &self.restore {
            Some(_) => Step::Done,
            None => Step::Run(Box::new(self.oci.delete(&self.id))),
        }
    }

    /// Forgets the container once it is deleted.
    pub fn forget(&self) {
        self.oci.forget();
    }
}

/// Gives a command the process's stdio, or the socket for its terminal.
pub fn give_stdio(order: &mut Order, stdio: Stdio, oci: &Oci) -> Result<Option<Console>> {
    match stdio {
        Stdio::Fds { stdin, stdout, stderr } => {
            order.command.stdin(stdin).stdout(stdout).stderr(stderr);
            order.hears = Hears::Nothing;
            Ok(None)
        }
        Stdio::Terminal => {
            let console = Console::open(oci.bundle(), oci.scratch("pty", "sock"))?;
            order.command.arg("--console-socket").arg(console.name());
            Ok(Some(console))
        }
    }
}

/// Signals one process; [`Error::Finished`] if it has ended.
pub fn signal(pidfd: &OwnedFd, signal: i32) -> Result<()> {
    match crate::sys::send_signal(pidfd, signal) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(Error::Finished),
        other => other.map_err(|source| Error::System { doing: "signal a process", source }),
    }
}

fn open_pidfd(pid: i32) -> Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(Error::Finished)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(Error::system("open a process"))
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_vec(value)
        .map_err(|source| Error::Json { what: "write for the OCI runtime", source })?;
    fs::write(path, text).map_err(|source| Error::Io { doing: "write", path: path.into(), source })
}

fn read_pid(path: &Path) -> Result<i32> {
    let text = fs::read_to_string(path).map_err(|source| Error::Io {
        doing: "read the OCI runtime's pid file",
        path: path.into(),
        source,
    })?;
    text.trim().parse().ok().filter(|pid| *pid > 0).ok_or_else(|| Error::Io {
        doing: "read the OCI runtime's pid file",
        path: path.into(),
        source: std::io::Error::other(format!("{text:?} is no process id")),
    })
}
