//! What must be remembered of a container so that another process can go on with it.

use crate::cgroups::CgroupPaths;
use crate::container::SeccompProgram;
use crate::handover::{self, Late};
use crate::init::{Listener, Step};
use crate::intel_rdt::Group;
use crate::seccomp_agent::Agent;
use crate::{Container, Error, Process, Result, namespaces, patience, scheduling, seccomp};
use oci_spec::runtime::Spec;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// A container as plain data. Its first process is named by its id and the moment at which it was made, so that another
/// one that got the same id later is never mistaken for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Process id of the first process.
    pub pid: i32,
    /// When it was made, in clock ticks since the machine started.
    pub started: u64,
    /// Its cgroups, as [`CgroupPaths::open`] takes them.
    pub cgroups: String,
    /// Which cgroups of that name: later ones may be another container's.
    cgroup_identity: Option<u64>,
    /// Flags of the namespaces that are not the host's, as in clone(2).
    namespaces: i32,
    personality: Option<u64>,
    new_keyring: bool,
    agent: Option<Agent>,
    resctrl: Option<Group>,
    /// What comes after the gate.
    pub late: Vec<Late>,
}

/// Cgroups as plain data, for who has to remove them when their maker is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CgroupRecord {
    /// As [`CgroupPaths::open`] takes it.
    pub path: String,
    /// Which cgroups of that name: later ones may be another container's.
    identity: Option<u64>,
}

impl CgroupRecord {
    pub fn of(cgroups: &CgroupPaths) -> CgroupRecord {
        CgroupRecord { path: cgroups.record(), identity: cgroups.identity() }
    }

    /// The very cgroups; empty ones if they are gone, although others may have their name by now.
    ///
    /// # Errors
    /// They cannot be opened.
    pub fn open(&self) -> Result<CgroupPaths> {
        let cgroups = CgroupPaths::open(&self.path)?;
        match cgroups.identity() {
            Some(other) if self.identity != Some(other) => Ok(cgroups.forget()),
            _ => Ok(cgroups),
        }
    }
}

impl Record {
    /// Whether the values can be a container's.
    pub fn is_sound(&self) -> bool {
        self.pid > 0 && self.namespaces & !namespaces::ALL == 0 && !self.cgroups.is_empty()
    }

    /// Its cgroups; empty ones if they are gone, although others may have their name by now.
    ///
    /// # Errors
    /// They cannot be opened.
    pub fn open_cgroups(&self) -> Result<CgroupPaths> {
        CgroupRecord { path: self.cgroups.clone(), identity: self.cgroup_identity }.open()
    }

    /// Whether the end of its first process ends all others.
    pub fn has_pid_namespace(&self) -> bool {
        self.namespaces & libc::CLONE_NEWPID != 0
    }

    /// Its first process; `None` if it has ended, reaped or not.
    pub fn process(&self) -> Option<OwnedFd> {
        let pidfd = rustix::process::pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Asked after opening: now the id cannot change its owner.
        match moment(self.pid) {
            Some(started) if started == self.started && !patience::has_ended(pidfd.as_fd()) => Some(pidfd),
            _ => None,
        }
    }
}

/// Start time of a process.
fn moment(pid: i32) -> Option<u64> {
    moment_and_state(pid).map(|(moment, _)| moment)
}

/// Start time and state of a process.
pub(crate) fn moment_and_state(pid: i32) -> Option<(u64, u8)> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything.
    let after = text.iter().rposition(|byte| *byte == b')')? + 2;
    let fields = std::str::from_utf8(text.get(after..)?).ok()?;
    let mut fields = fields.split(' ');
    let state = *fields.next()?.as_bytes().first()?;
    Some((fields.nth(18)?.parse().ok()?, state))
}

impl Record {
    /// Takes away what the container had beside its processes and cgroups, once those are gone.
    ///
    /// # Errors
    /// The kernel's, for a resctrl group that cannot be removed.
    pub fn release(&self) -> Result<()> {
        self.resctrl.clone().map_or(Ok(()), Group::remove)
    }
}

impl Container {
    /// What another process needs to go on with this container.
    ///
    /// # Errors
    /// [`Error::NotRunning`] if its first process is gone.
    pub fn record(&self) -> Result<Record> {
        let late = self.init.gate.as_ref().map(|gate| handover::late(&gate.plan)).unwrap_or_default();
        Ok(Record {
            pid: self.init.pid,
            started: moment(self.init.pid).ok_or(Error::NotRunning)?,
            cgroups: self.cgroups.record(),
            cgroup_identity: self.cgroups.identity(),
            namespaces: self.namespaces,
            personality: self.personality,
            new_keyring: self.new_keyring,
            agent: self.seccomp.as_ref().and_then(|seccomp| seccomp.agent.clone()),
            resctrl: self.rdt.clone(),
            late,
        })
    }

    /// A container that another process has made, for [`Container::exec`].
    ///
    /// # Errors
    /// [`Error::NotRunning`] if its first process is gone.
    pub fn attach(id: &str, record: &Record, spec: &Spec, seccomp_cache: Option<&Path>) -> Result<Container> {
        let pidfd = record.process().ok_or(Error::NotRunning)?;
        let linux = spec.linux().as_ref();
        let profile = linux.and_then(|linux| linux.seccomp().as_ref());
        let listener = if record.agent.is_some() { Listener::Parent } else { Listener::None };
        let step = profile.map(|profile| seccomp::plan(profile, seccomp_cache, listener)).transpose()?;
        let seccomp = match step {
            Some(Step::Seccomp { program, flags, listener }) => {
                Some(SeccompProgram { program, flags, listener, agent: record.agent.clone() })
            }
            _ => None,
        };
        let memory_policy = linux.map(scheduling::memory_policy).transpose()?.flatten();
        Ok(Container {
            init: Process { pid: record.pid, pidfd, terminal: None, gate: None },
            id: id.into(),
            warnings: Vec::new(),
            cgroups: record.open_cgroups()?.into(),
            oom: None,
            namespaces: record.namespaces,
            seccomp,
            personality: record.personality,
            memory_policy,
            rdt: record.resctrl.clone(),
            new_keyring: record.new_keyring,
            _mount_namespace: None,
            restored: false,
            poststart: None,
            poststop: None,
        })
    }
}

impl Container {
    /// Lets further processes join a cgroup below the container's: `PATH` on cgroup v2, `CONTROLLER,…:PATH` for those of v1.
    ///
    /// # Errors
    /// No such cgroup, or a path that leads out of the container's.
    pub fn enter_cgroup_below(&mut self, part: &str) -> Result<()> {
        let (controllers, path) = match part.split_once(':') {
            Some((controllers, path)) => (controllers, path),
            None => ("", part),
        };
        // Nobody else has them: no process is being added.
        let cgroups = Arc::get_mut(&mut self.cgroups).ok_or(Error::NotRunning)?;
        controllers.split(',').try_for_each(|controller| cgroups.go_below(controller, path))
    }
}

/// Signals the process behind a pidfd.
///
/// # Errors
/// [`Error::NotRunning`] if it is gone.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    match crate::sys::process::pidfd_send_signal(pidfd.as_fd(), signal) {
        Ok(()) => Ok(()),
        Err(Errno::SRCH) => Err(Error::NotRunning),
        Err(Errno::INVAL) => Err(Error::InvalidSpec {
            field: "signal".into(),
            why: format!("{signal} is no signal of this kernel"),
        }),
        Err(errno) => Err(Error::System { doing: "signal the process", source: errno.into() }),
    }
}
