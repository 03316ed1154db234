//! `delete`: what is left of a container goes: processes, cgroups, the folder; then the poststop hooks run.

use super::args::{Args, Flag, Reach};
use super::error::{Error, Result};
use super::limits;
use super::store::{self, Folder, State, Status};
use super::{Global, Verb};
use std::os::fd::AsFd;

pub const VERB: Verb = Verb {
    name: "delete",
    about: "delete what is left of a container",
    operands: "<container-id>",
    count: (1, 1),
    flags: &[Flag::switch("force", "also delete a running container (by SIGKILL), or one that is not there")
        .or('f')],
    reach: Reach::Anywhere,
    run,
};

fn run(global: &Global, args: &Args) -> Result<i32> {
    let force = args.has("force");
    match delete(global, args.id()?, force) {
        Err(Error::NotExist) if force => Ok(0),
        other => other.map(|()| 0),
    }
}

fn delete(global: &Global, id: &str, force: bool) -> Result<()> {
    let folder = store::open(&global.root, id)?;
    if force {
        // Before waiting for others: one that waits for this very process holds the lock.
        let process = folder.read().ok().and_then(|state| state.container?.process());
        if let Some(pidfd) = process {
            let _ = longshore_runtime::signal(pidfd.as_fd(), libc::SIGKILL);
        }
    }
    folder.lock()?;
    let state = match folder.read() {
        // Its creator ended before there was anything to remember, or the state cannot be believed.
        Err(Error::NotExist) => return folder.remove(),
        Err(error @ Error::State { .. }) if force => {
            global
                .log
                .warn(&format!("{error}; processes and cgroups of the container, if any, are left alone"));
            return folder.remove();
        }
        other => other?,
    };
    let status = folder.status(&state)?;
    if !force && matches!(status, Status::Running | Status::Paused) {
        return Err(Error::NotStopped { id: id.into(), status: status.name() });
    }
    end(global, &folder, &state)
}

fn end(global: &Global, folder: &Folder, state: &State) -> Result<()> {
    let root = &global.root;
    let config = folder.config();
    match &state.container {
        Some(record) => {
            let process = record.process();
            if let Some(pidfd) = &process {
                let _ = longshore_runtime::signal(pidfd.as_fd(), libc::SIGKILL);
            }
            let cgroups = record.open_cgroups()?;
            cgroups.kill_all(libc::SIGKILL)?;
            cgroups.remove()?;
            record.release()?;
            if let Some(pidfd) = &process {
                wait(pidfd.as_fd())?;
            }
        }
        None => {
            // Its creator ended half-way. What it had not noted it had not made, whoever has that name.
            let made = state.cgroups.as_ref();
            if let Some(made) = made.filter(|made| store::owner_of(root, &made.path, &state.id).is_none()) {
                let cgroups = made.open()?;
                cgroups.kill_all(libc::SIGKILL)?;
                cgroups.remove()?;
            }
        }
    }
    folder.remove()?;
    if let Err(error) = longshore_runtime::run_poststop(&config?, &state.id, &state.bundle) {
        // The container is gone all the same, as the specification wants it.
        global.log.warn(&error.to_string());
    }
    Ok(())
}

/// Waits until a killed process has ended, reaped or not.
fn wait(pidfd: std::os::fd::BorrowedFd<'_>) -> Result<()> {
    match longshore_runtime::ends_within(pidfd, limits::KILL) {
        true => Ok(()),
        false => Err(Error::StillRunning),
    }
}
