//! A container and its processes as the caller holds them: file descriptors, never names, so that nothing can be
//! mistaken for another container that came later.

use crate::cgroups::{CgroupPaths, OomWatch, Stats};
use crate::hooks::HookList;
use crate::init::channel::Channel;
use crate::init::{Listener, Plan};
use crate::intel_rdt::Group;
use crate::scheduling::MemoryPolicy;
use crate::seccomp_agent::Agent;
use crate::sys::seccomp::Instruction;
use crate::{CreateOptions, ExecOptions, Result};
use oci_spec::runtime::LinuxResources;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A container whose first process exists: it waits at its gate, runs, or has ended.
pub struct Container {
    pub(crate) init: Process,
    pub(crate) id: String,
    pub(crate) warnings: Vec<String>,
    pub(crate) cgroups: Arc<CgroupPaths>,
    pub(crate) oom: Option<OomWatch>,
    /// Flags of the namespaces that are not the host's, as in clone(2).
    pub(crate) namespaces: i32,
    pub(crate) seccomp: Option<SeccompProgram>,
    pub(crate) personality: Option<u64>,
    pub(crate) memory_policy: Option<MemoryPolicy>,
    pub(crate) rdt: Option<Group>,
    pub(crate) new_keyring: bool,
    /// Keeps the mount namespace until the container is deleted: its mounts are taken down then, and not while everybody
    /// waits for the last process to exit.
    pub(crate) _mount_namespace: Option<OwnedFd>,
    /// Restored from a checkpoint: its processes stand still until it is started.
    pub(crate) restored: bool,
    pub(crate) poststart: Option<HookList>,
    pub(crate) poststop: Option<HookList>,
}

/// The compiled program, kept for further processes.
pub(crate) struct SeccompProgram {
    pub(crate) program: Vec<Instruction>,
    pub(crate) flags: u32,
    pub(crate) listener: Listener,
    pub(crate) agent: Option<Agent>,
}

/// A process in a container. Dropping it before it was started ends it; afterwards dropping neither kills nor reaps it.
pub struct Process {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) terminal: Option<OwnedFd>,
    /// What is needed to open the gate; none once it was opened.
    pub(crate) gate: Option<Gate>,
}

/// The parent's side of a process that waits.
pub(crate) struct Gate {
    pub(crate) channel: Channel,
    /// For the text of a late failure.
    pub(crate) plan: Plan,
    /// How long the process may take to become its program.
    pub(crate) patience: Option<std::time::Duration>,
}

impl Container {
    /// Makes the container; its first process is set up completely and waits at its gate for [`Container::start`].
    ///
    /// [`crate::Error::Exec`] if the program does not exist in the rootfs or cannot be executed.
    pub fn create(options: CreateOptions<'_>) -> Result<Container> {
        crate::create::create(options)
    }

    /// Opens the gate, then runs the poststart hooks. [`crate::Error::Exec`] if the program cannot be executed; the process
    /// has exited then and the caller reaps it.
    pub fn start(&mut self) -> Result<()> {
        crate::start::start_container(self)
    }

    /// Takes out what [`Container::start`] would do, if hooks are part of it, or `always` if the container has not begun.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn opening(&mut self, always: bool) -> Result<Option<crate::Opening>> {
        crate::start::Opening::of(self, always)
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

    /// The same, for what is done to them elsewhere while the caller keeps the container.
    pub fn shared_cgroups(&self) -> Arc<CgroupPaths> {
        self.cgroups.clone()
    }

    /// Sets up one more process; it waits at its own gate for [`Process::start`]. The caller is its parent and reaps it.
    pub fn exec(&mut self, options: ExecOptions<'_>) -> Result<Process> {
        crate::exec::exec(self, options)
    }

    /// Whether what [`Container::exec`] does can be done elsewhere.
    pub fn can_add_beside(&self) -> bool {
        self.rdt.is_none()
    }

    /// What [`Container::exec`] would do, to be done elsewhere, where [`Container::can_add_beside`].
    ///
    /// # Errors
    /// The process cannot be planned, or the container is paused.
    pub fn addition(&self, options: ExecOptions<'_>) -> Result<crate::Addition> {
        crate::exec::Addition::of(self, options)
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

    /// Changes limits of the running container; fields that are not set stay as they are.
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
        self.oom.as_ref().map(|watch| watch.0.as_fd())
    }

    /// Kills what is left, removes the cgroups, runs the poststop hooks. A first process that was not reaped yet stays
    /// for the caller to reap. Answers warnings: a poststop hook that fails changes nothing for anybody else.
    pub fn delete(self) -> Result<Vec<String>> {
        crate::delete::delete(self)
    }
}

impl Process {
    /// Opens the gate. [`crate::Error::Exec`] if the program cannot be executed; the process has exited then and the
    /// caller reaps it.
    pub fn start(&mut self) -> Result<()> {
        crate::start::start_process(self)
    }

    /// Takes out what [`Process::start`] would do, to be done elsewhere.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn opening(&mut self) -> Result<crate::Opening> {
        crate::start::Opening::of_process(self)
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

    /// Sends a signal to this process; [`crate::Error::NotRunning`] if it is gone.
    pub fn kill(&self, signal: i32) -> Result<()> {
        crate::kill::kill(self, signal)
    }
}
