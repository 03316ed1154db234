//! A container of another OCI runtime, such as runc or crun.
//!
//! What always holds: the shim reaps its processes (they come to it when the runtime's command has exited); its cgroups
//! are the other runtime's, and only read here.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process;

use longshore_runtime::Stdio;
use longshore_runtime::cgroups::CgroupPaths;
use oci_spec::runtime::{LinuxResources, Process as ProcessSpec};
use rustix::process::{Pid, PidfdFlags};

use super::checkpoint::Restore;
use super::console::{self, Console};
use super::oci::Oci;
use crate::error::{Error, Result};
use crate::{bundle, limits};

/// What a container is made from.
pub struct Making {
    pub id: String,
    pub stdio: Stdio,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    /// The folder of a checkpoint, and of the one before it; empty: none.
    pub checkpoint: String,
    pub parent_checkpoint: String,
    pub criu_work: String,
}

/// The container.
pub struct Command {
    oci: Oci,
    id: String,
    pid: i32,
    cgroups: Option<CgroupPaths>,
    oom: Option<OwnedFd>,
    /// What is left to be done by `start` instead of opening a gate.
    restore: Option<Box<Restore>>,
}

/// A process that was added.
pub struct ExecByCommand {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub terminal: Option<OwnedFd>,
}

impl Command {
    /// Makes the container, or prepares its restore. Gives back its terminal, too.
    pub fn create(oci: Oci, making: Making) -> Result<(Self, Option<OwnedFd>)> {
        oci.record()?;
        let mut made = Self { oci, id: making.id.clone(), pid: 0, cgroups: None, oom: None, restore: None };
        if !making.checkpoint.is_empty() {
            let (restore, terminal) = Restore::prepare(making)?;
            made.restore = Some(Box::new(restore));
            return Ok((made, terminal));
        }
        let mut command = made.oci.command("create");
        command.arg("--bundle").arg(made.oci.bundle());
        made.add_common(&mut command, making.no_pivot, making.no_new_keyring);
        let console = give_stdio(&mut command, making.stdio, made.oci.bundle())?;
        command.arg(&made.id);
        let created = made.oci.finish("create", command, limits::RUNTIME_COMMAND);
        let opened = created.and_then(|()| console.map(Console::receive).transpose()).and_then(|terminal| {
            made.adopt()?;
            Ok(terminal)
        });
        match opened {
            Ok(terminal) => Ok((made, terminal)),
            Err(error) => {
                let _ = made.oci.run("delete", &["--force", &made.id], limits::RUNTIME_COMMAND);
                made.oci.forget();
                Err(error)
            }
        }
    }

    pub(super) fn add_common(&self, command: &mut process::Command, no_pivot: bool, no_new_keyring: bool) {
        command.arg("--pid-file").arg(self.oci.bundle().join(bundle::INIT_PID));
        if no_pivot {
            command.arg("--no-pivot");
        }
        if no_new_keyring {
            command.arg("--no-new-keyring");
        }
    }

    /// Finds the first process, which the runtime has left to us.
    pub(super) fn adopt(&mut self) -> Result<()> {
        self.pid = read_pid(&self.oci.bundle().join(bundle::INIT_PID))?;
        self.cgroups = CgroupPaths::of_process(self.pid).ok();
        self.oom = self.cgroups.as_ref().and_then(CgroupPaths::oom_fd);
        Ok(())
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

    pub fn start(&mut self) -> Result<()> {
        match self.restore.take() {
            Some(restore) => restore.run(self),
            None => self.verb("start"),
        }
    }

    /// A verb that takes the container's id alone.
    pub fn verb(&self, verb: &'static str) -> Result<()> {
        self.oci.run(verb, &[&self.id], limits::RUNTIME_COMMAND)
    }

    pub fn kill(&self, signal: i32) -> Result<()> {
        self.kill_by(&[self.id.clone(), signal.to_string()])
    }

    pub fn kill_all(&self, signal: i32) -> Result<()> {
        self.kill_by(&["--all".to_owned(), self.id.clone(), signal.to_string()])
    }

    fn kill_by(&self, args: &[String]) -> Result<()> {
        self.oci.run("kill", args, limits::RUNTIME_COMMAND).map_err(|error| match error {
            Error::Command { why, .. }
                if ["not running", "already finished", "No such process", "does not exist"]
                    .iter()
                    .any(|words| why.contains(words)) =>
            {
                Error::Finished
            }
            other => other,
        })
    }

    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let path = self.oci.bundle().join("resources.json");
        write_json(&path, resources)?;
        let file = path.to_string_lossy().into_owned();
        let updated = self.oci.run("update", &["--resources", &file, &self.id], limits::RUNTIME_COMMAND);
        let _ = fs::remove_file(&path);
        updated
    }

    pub fn cgroups(&self) -> Result<&CgroupPaths> {
        self.cgroups.as_ref().ok_or(Error::Finished)
    }

    pub fn oom_fd(&self) -> Option<BorrowedFd<'_>> {
        self.oom.as_ref().map(AsFd::as_fd)
    }

    /// Adds a process, which runs at once. `name` is safe as a file name.
    pub fn exec(&self, name: &str, process: &ProcessSpec, stdio: Stdio) -> Result<ExecByCommand> {
        let folder = self.oci.bundle();
        let (spec, pid_file) =
            (folder.join(format!("exec-{name}.json")), folder.join(format!("exec-{name}.pid")));
        write_json(&spec, process)?;
        let mut command = self.oci.command("exec");
        command.arg("--process").arg(&spec).arg("--pid-file").arg(&pid_file).arg("--detach");
        let console = give_stdio(&mut command, stdio, folder);
        command.arg(&self.id);
        let run = console.and_then(|console| {
            self.oci.finish("exec", command, limits::RUNTIME_COMMAND)?;
            let terminal = console.map(Console::receive).transpose()?;
            let pid = read_pid(&pid_file)?;
            Ok(ExecByCommand { pid, pidfd: open_pidfd(pid)?, terminal })
        });
        let _ = fs::remove_file(&spec);
        let _ = fs::remove_file(&pid_file);
        run
    }

    pub fn delete(&self) -> Result<()> {
        // A container that was never restored is not known to the runtime.
        if self.restore.is_none() {
            delete(&self.oci, &self.id)?;
        }
        self.oci.forget();
        Ok(())
    }
}

/// Deletes a container with whatever still runs in it; one that is not there is fine.
pub fn delete(oci: &Oci, id: &str) -> Result<()> {
    match oci.run("delete", &["--force", id], limits::RUNTIME_COMMAND) {
        Err(Error::Command { why, .. }) if why.contains("does not exist") => Ok(()),
        other => other,
    }
}

/// Gives a command the process's stdio, or the socket for its terminal.
pub fn give_stdio(command: &mut process::Command, stdio: Stdio, folder: &Path) -> Result<Option<Console>> {
    match stdio {
        Stdio::Fds { stdin, stdout, stderr } => {
            command.stdin(stdin).stdout(stdout).stderr(stderr);
            Ok(None)
        }
        Stdio::Terminal => {
            let console = Console::open(folder)?;
            command.arg("--console-socket").arg(console::NAME);
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
