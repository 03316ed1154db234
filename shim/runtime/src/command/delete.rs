//! `delete`: what is left of a container goes: processes, cgroups, the folder; then the poststop hooks run.

use super::args::{Args, Flag, Reach};
use super::error::{Error, Result};
use super::limits;
use super::store::{self, Folder, State, Status};
use super::{Global, Verb};
use longshore_runtime::cgroups;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::AsFd;
use std::path::Path;

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
    end(&global.root, &folder, &state)
}

/// Whether another container below this root is in the cgroup.
fn is_named_by_another(root: &Path, id: &str, path: &str) -> bool {
    let others = store::ids(root).unwrap_or_default().into_iter().filter(|other| other != id);
    let record = |other: String| store::open(root, &other).ok()?.read().ok()?.container;
    let same = |named: &str| named.trim_matches('/') == path.trim_matches('/');
    others.filter_map(record).any(|record| same(&record.cgroups))
}

fn end(root: &Path, folder: &Folder, state: &State) -> Result<()> {
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
            // Its creator ended half-way: what it may have made has the name that the config gives.
            if let Ok(config) = &config {
                let path = cgroups::path_of(config, &state.id, state.systemd_cgroup);
                if !is_named_by_another(root, &state.id, &path) {
                    cgroups::remove_orphan(&path)?;
                }
            }
        }
    }
    folder.remove()?;
    Ok(longshore_runtime::run_poststop(&config?, &state.id, &state.bundle)?)
}

/// Waits until a killed process has ended, reaped or not.
fn wait(pidfd: std::os::fd::BorrowedFd<'_>) -> Result<()> {
    let patience = Timespec { tv_sec: limits::KILL.as_secs() as i64, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], Some(&patience)) {
            Err(rustix::io::Errno::INTR) => continue,
            Ok(0) => return Err(Error::StillRunning),
            other => return other.map(drop).map_err(Error::system("wait for the container to end")),
        }
    }
}
