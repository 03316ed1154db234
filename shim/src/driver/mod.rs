//! What makes and holds a container: the runtime library in this process, or another OCI runtime by its command line
//! (`BinaryName` of runc's options). What the latter is asked for comes back as a command that is still to be run; and what
//! the former may take long for as work for a thread, if that is wanted.

mod checkpoint;
mod command;
mod console;
mod oci;
mod order;

use std::os::fd::{BorrowedFd, OwnedFd};

use longshore_runtime::cgroups::Stats;
use longshore_runtime::{Container, Process};
use oci_spec::runtime::LinuxResources;

pub use checkpoint::Checkpoint;
pub use command::{Command, ExecByCommand, KILL, Making};
pub use oci::Oci;
pub use order::{Heard, Leaves, Order, Running, Step, criu_check};

use crate::error::Result;

/// A container in the hands of who made it.
pub enum Driver {
    Library(Box<Container>),
    Command(Box<Command>),
}

/// One more process of a container.
pub enum ExecHandle {
    Library(Box<Process>),
    /// Its pidfd: the other runtime has left it to us.
    Command(OwnedFd),
}

impl ExecHandle {
    pub fn kill(&self, signal: i32) -> Result<()> {
        match self {
            Self::Library(process) => Ok(process.kill(signal)?),
            Self::Command(pidfd) => command::signal(pidfd, signal),
        }
    }
}

impl Driver {
    /// The process id of the first process; 0 before a restore.
    pub fn pid(&self) -> i32 {
        match self {
            Self::Library(container) => container.pid(),
            Self::Command(command) => command.pid(),
        }
    }

    pub fn kill(&self, signal: i32) -> Result<Step> {
        match self {
            Self::Library(container) => done(container.kill(signal)),
            Self::Command(command) => Ok(Step::Run(Box::new(command.kill(signal)))),
        }
    }

    /// Sends a signal to every process of the container. With `SIGKILL` what is left for a thread is to see to those that do not end
    /// at once.
    pub fn kill_all(&self, signal: i32, beside: bool) -> Result<Step> {
        match self {
            Self::Library(container) if beside && signal == libc::SIGKILL => {
                let cgroups = container.shared_cgroups();
                Ok(match cgroups.kill_once()? {
                    true => Step::Done,
                    false => Step::Beside(Box::new(move || Ok(cgroups.kill_until_gone()?))),
                })
            }
            Self::Library(container) => done(container.kill_all(signal)),
            Self::Command(command) => Ok(Step::Run(Box::new(command.kill_all(signal)))),
        }
    }

    pub fn pause(&self, beside: bool) -> Result<Step> {
        match self {
            Self::Library(container) if beside => {
                let cgroups = container.shared_cgroups();
                Ok(Step::Beside(Box::new(move || Ok(cgroups.freeze()?))))
            }
            Self::Library(container) => done(container.pause()),
            Self::Command(command) => Ok(Step::Run(Box::new(command.verb("pause")))),
        }
    }

    pub fn resume(&self) -> Result<Step> {
        match self {
            Self::Library(container) => done(container.resume()),
            Self::Command(command) => Ok(Step::Run(Box::new(command.verb("resume")))),
        }
    }

    pub fn update(&self, resources: LinuxResources, beside: bool) -> Result<Step> {
        match self {
            Self::Library(container) if beside => {
                let cgroups = container.shared_cgroups();
                Ok(Step::Beside(Box::new(move || Ok(cgroups.update(&resources)?))))
            }
            Self::Library(container) => done(container.update(&resources)),
            Self::Command(command) => Ok(Step::Run(Box::new(command.update(&resources)?))),
        }
    }

    pub fn pids(&self) -> Result<Vec<i32>> {
        match self {
            Self::Library(container) => Ok(container.pids()?),
            Self::Command(command) => Ok(command.cgroups()?.pids()?),
        }
    }

    pub fn stats(&self) -> Result<Stats> {
        match self {
            Self::Library(container) => Ok(container.stats()?),
            Self::Command(command) => Ok(command.cgroups()?.stats()?),
        }
    }

    pub fn oom_kills(&self) -> u64 {
        match self {
            Self::Library(container) => container.oom_kills(),
            Self::Command(command) => {
                command.cgroups().map_or(0, longshore_runtime::cgroups::CgroupPaths::oom_kills)
            }
        }
    }

    pub fn oom_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Library(container) => container.oom_fd(),
            Self::Command(command) => command.oom_fd(),
        }
    }

    /// Opens the gate of the first process.
    pub fn start(&mut self) -> Result<Step> {
        match self {
            Self::Library(container) => done(container.start()),
            Self::Command(command) => command.start(),
        }
    }

    /// The first process was started: a restored one exists only now.
    pub fn started(&mut self) -> Result<()> {
        match self {
            Self::Library(_) => Ok(()),
            Self::Command(command) => command.adopt(),
        }
    }
}

impl Driver {
    /// The terminal of a container that was restored just now by another runtime.
    pub fn late_terminal(&mut self) -> Result<Option<OwnedFd>> {
        match self {
            Self::Library(_) => Ok(None),
            Self::Command(command) => command.late_terminal(),
        }
    }
}

fn done(result: Result<(), longshore_runtime::Error>) -> Result<Step> {
    Ok(result.map(|()| Step::Done)?)
}

/// criu as the options name it, or as it is found.
pub fn criu_of(option: &str) -> &std::path::Path {
    std::path::Path::new(if option.is_empty() { "criu" } else { option })
}
