//! A container and its processes as the caller holds them: file descriptors, never names, so that nothing can be
//! mistaken for another container that came later.

use crate::cgroups::{CgroupPaths, Stats};
use crate::{CreateOptions, Error, ExecOptions, Result};
use oci_spec::runtime::LinuxResources;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A container whose first process exists: it waits at its gate, runs, or has ended.
pub struct Container {
    init: Process,
    warnings: Vec<String>,
    cgroups: CgroupPaths,
}

/// A process in a container. Dropping it neither kills nor reaps it.
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
}

impl Container {
    /// Makes the container; its first process is set up completely and waits at its gate for [`Container::start`].
    pub fn create(options: CreateOptions<'_>) -> Result<Container> {
        let _ = options;
        Err(Error::NotBuilt { feature: "create".into() })
    }

    /// Opens the gate. [`Error::Exec`] if the program cannot be executed; the process has exited then.
    pub fn start(&mut self) -> Result<()> {
        self.init.start()
    }

    /// Process id of the first process as the caller sees it.
    pub fn pid(&self) -> i32 {
        self.init.pid
    }

    /// Becomes readable when the first process exits.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.init.pidfd.as_fd()
    }

    /// Master side of the first process's terminal; once.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.init.terminal.take()
    }

    /// What could not be done as asked on this host and was left out, such as a lower `oomScoreAdj`; for a log.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The cgroups of this container.
    pub fn cgroups(&self) -> &CgroupPaths {
        &self.cgroups
    }

    /// Sets up one more process; it waits at its own gate for [`Process::start`]. The caller is its parent and reaps it.
    pub fn exec(&mut self, options: ExecOptions<'_>) -> Result<Process> {
        let _ = options;
        Err(Error::NotBuilt { feature: "exec".into() })
    }

    /// Sends a signal to the first process.
    pub fn kill(&self, signal: i32) -> Result<()> {
        self.init.kill(signal)
    }

    /// Sends a signal to every process of the container.
    pub fn kill_all(&self, signal: i32) -> Result<()> {
        self.cgroups.kill_all(signal)
    }

    /// Stops every process of the container from running, until [`Container::resume`].
    pub fn pause(&self) -> Result<()> {
        self.cgroups.freeze()
    }

    /// Undoes [`Container::pause`].
    pub fn resume(&self) -> Result<()> {
        self.cgroups.thaw()
    }

    /// Changes limits of the running container.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        self.cgroups.update(resources)
    }

    /// Process ids of every process in the container, as the caller sees them.
    pub fn pids(&self) -> Result<Vec<i32>> {
        self.cgroups.pids()
    }

    /// Resource use now.
    pub fn stats(&self) -> Result<Stats> {
        self.cgroups.stats()
    }

    /// How many processes of the container the kernel's out-of-memory killer has killed so far.
    pub fn oom_kills(&self) -> u64 {
        self.cgroups.oom_kills()
    }

    /// Becomes readable (`EPOLLIN` on v1, where it is an eventfd to be read; `EPOLLPRI` on v2) when memory runs out in
    /// the container: then compare [`Container::oom_kills`]. `None` on a host without a memory controller.
    pub fn oom_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Kills what is left, removes the cgroups, runs the poststop hooks. A first process that was not reaped yet stays
    /// for the caller to reap.
    pub fn delete(self) -> Result<()> {
        self.cgroups.kill_all(libc::SIGKILL)?;
        self.cgroups.remove()
    }
}

impl Process {
    /// Opens the gate. [`Error::Exec`] if the program cannot be executed; the process has exited then.
    pub fn start(&mut self) -> Result<()> {
        Err(Error::NotBuilt { feature: "start".into() })
    }

    /// Process id as the caller sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Becomes readable when the process exits.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Master side of the process's terminal; once.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Sends a signal to this process; [`Error::NotRunning`] if it is gone.
    pub fn kill(&self, signal: i32) -> Result<()> {
        let _ = signal;
        Err(Error::NotBuilt { feature: "kill".into() })
    }
}
