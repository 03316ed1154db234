//! Opening the gate: the process becomes its program, or says why it cannot.

use crate::init::channel::Report;
use crate::patience::{Heard, Patience};
use crate::{Container, Error, Process, Result};
use rustix::fd::AsFd;

pub(crate) fn start_container(container: &mut Container) -> Result<()> {
    if std::mem::take(&mut container.restored) {
        return container.cgroups.kill_all(libc::SIGCONT);
    }
    start_process(&mut container.init)?;
    match container.poststart.take() {
        Some(hooks) => hooks.run(container.init.pid).inspect_err(|_| {
            // A container whose poststart hook fails is not wanted.
            let _ = container.init.kill(libc::SIGKILL);
        }),
        None => Ok(()),
    }
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
