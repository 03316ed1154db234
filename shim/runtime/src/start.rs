//! Opening the gate: the process becomes its program, or says why it cannot.

use crate::hooks::HookList;
use crate::init::Step;
use crate::init::channel::Report;
use crate::patience::{Heard, Patience};
use crate::{Container, Error, Process, Result};
use rustix::fd::AsFd;

pub(crate) fn start_container(container: &mut Container) -> Result<()> {
    if std::mem::take(&mut container.restored) {
        return container.cgroups.kill_all(libc::SIGCONT);
    }
    start_process(&mut container.init)?;
    run_poststart(container.poststart.take().as_ref(), &container.init)
}

/// The start of a container with hooks in it, which take as long as they like, or of a process that others might hold up: to be
/// done by a thread of the caller's, who keeps the container meanwhile.
pub struct Opening {
    process: Process,
    poststart: Option<HookList>,
}

impl Opening {
    /// `None` if no hooks run, unless it is `always` wanted: then it takes a moment only.
    pub(crate) fn of(container: &mut Container, always: bool) -> Result<Option<Opening>> {
        let is_hook = |step: &Step| matches!(step, Step::Hooks(_));
        let inside = container.init.gate.as_ref().is_some_and(|gate| gate.plan.steps.iter().any(is_hook));
        let by_hooks = inside || container.poststart.is_some();
        let by_wish = always && container.init.gate.is_some() && !container.restored;
        if !by_hooks && !by_wish {
            return Ok(None);
        }
        let opening = Opening::of_process(&mut container.init)?;
        Ok(Some(Opening { poststart: container.poststart.take(), ..opening }))
    }

    pub(crate) fn of_process(process: &mut Process) -> Result<Opening> {
        let pidfd = process.pidfd.try_clone();
        let pidfd =
            pidfd.map_err(|source| Error::System { doing: "duplicate the process's pidfd", source })?;
        let process = Process { pid: process.pid, pidfd, terminal: None, gate: process.gate.take() };
        Ok(Opening { process, poststart: None })
    }

    /// As [`Container::start`].
    ///
    /// # Errors
    /// As [`Container::start`].
    pub fn run(mut self) -> Result<()> {
        start_process(&mut self.process)?;
        run_poststart(self.poststart.as_ref(), &self.process)
    }
}

fn run_poststart(hooks: Option<&HookList>, process: &Process) -> Result<()> {
    hooks.map_or(Ok(()), |hooks| {
        hooks.run_beside(process.pid, process.pidfd.as_fd()).inspect_err(|_| {
            // A container whose poststart hook fails is not wanted.
            let _ = process.kill(libc::SIGKILL);
        })
    })
}

pub(crate) fn start_process(process: &mut Process) -> Result<()> {
    let gate =
        process.gate.take().ok_or(Error::WrongState { operation: "start", state: "already started" })?;
    let system = |errno: rustix::io::Errno| Error::System {
        doing: "open the gate of the process",
        source: errno.into(),
    };
    match gate.channel.answer() {
        // Killed while it waited.
        Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => return Err(Error::NotRunning),
        other => other.map_err(system)?,
    }
    match Patience::new(gate.patience).wait(&gate.channel, process.pidfd.as_fd(), process.pid) {
        Ok(Heard::Something) => {}
        Ok(Heard::Exit) => return Ok(()),
        Err(stuck) => {
            let _ = process.kill(libc::SIGKILL);
            return Err(stuck);
        }
    }
    match gate.channel.receive() {
        // End of file: execve closed the other end. A process that was killed at this moment looks the same, and its exit
        // status tells.
        Ok(None) | Err(rustix::io::Errno::CONNRESET) => Ok(()),
        Ok(Some((Report::Failed(failure), _))) => Err(gate.plan.error(failure)),
        Ok(Some(_)) => Err(system(rustix::io::Errno::BADMSG)),
        Err(errno) => Err(system(errno)),
    }
}
