//! `start`: opens the gate of a created container.

use super::args::{Args, Reach};
use super::error::{Error, Result};
use super::notify::Notify;
use super::store::{self, Status};
use super::{Global, Verb};
use longshore_runtime::handover;
use std::os::fd::AsFd;

pub const VERB: Verb = Verb {
    name: "start",
    about: "execute the program of a created container",
    operands: "<container-id>",
    count: (1, 1),
    flags: &[],
    reach: Reach::Anywhere,
    run,
};

fn run(global: &Global, args: &Args) -> Result<i32> {
    let (folder, state) = store::locked(&global.root, args.id()?)?;
    match folder.status(&state)? {
        Status::Created => {}
        Status::Stopped => return Err(Error::Status("cannot start a container that has stopped")),
        Status::Running => return Err(Error::Status("cannot start an already running container")),
        Status::Paused => return Err(Error::Status("cannot start a container in the paused state")),
        Status::Creating => return Err(Error::Status("cannot start a container in the creating state")),
    }
    let record = state.container.as_ref().ok_or(Error::NotRunning)?;
    let pidfd = record.process().ok_or(Error::Status("cannot start a container that has stopped"))?;
    let notify = Notify::wanted(&folder.path).filter(Notify::is_prepared);
    let socket = notify.as_ref().map(Notify::bind).transpose()?;
    handover::open_gate(folder.fd(), &record.late)
        .map_err(Error::from)
        .map_err(|error| error.of_verb("start"))?;
    if state.has_poststart {
        let hooked =
            longshore_runtime::run_poststart(&folder.config()?, &state.id, &state.bundle, record.pid);
        if let Err(error) = hooked {
            // A container whose poststart hook fails is not wanted.
            let _ = longshore_runtime::signal(pidfd.as_fd(), libc::SIGKILL);
            return Err(error.into());
        }
    }
    folder.unlock();
    if let (Some(notify), Some(socket)) = (notify, socket) {
        notify.forward(&socket, pidfd.as_fd(), record.pid)?;
    }
    Ok(0)
}
