//! `delete`: cleans up after a shim that is gone, or that the daemon has given up.
//!
//! What always holds: it may be called any number of times, and for a container that never was; what it cannot clean up it
//! says, and goes on; the exit that the shim has recorded is the one that is told.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use longshore_proto::containerd::task::v3::DeleteResponse;
use longshore_proto::longshore::shim::v1::ExitRecord;
use prost::Message;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::flags::Flags;
use super::start::bundle_of;
use super::{say, socket};
use crate::driver::Oci;
use crate::error::{Error, Result};
use crate::rootfs;
use crate::{bundle, names};

/// How a container ended of which nothing was recorded.
const KILLED: u32 = 128 + 9;

/// How long a shim that still lives may take to record its container's end.
const PATIENCE: Duration = Duration::from_secs(2);

pub fn delete(flags: &Flags) -> Result<()> {
    names::check("id", &flags.id)?;
    let path = bundle_of(flags)?;
    let mut failures = Vec::new();
    let recorded = match bundle::open(&path) {
        // The daemon has removed it already.
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
        Ok(_) => clean_up(&path, &flags.id, &mut failures),
    };
    // On stderr, where daemons look for warnings.
    failures.iter().for_each(|failure| eprintln!("containerd-shim-longshore-v1: {failure}"));
    let response = match recorded {
        Some(record) => {
            DeleteResponse { pid: record.pid, exit_status: record.exit_status, exited_at: record.exited_at }
        }
        None => DeleteResponse {
            pid: number(&path.join(bundle::INIT_PID)).unwrap_or(0),
            exit_status: KILLED,
            exited_at: Some(SystemTime::now().into()),
        },
    };
    say(&response.encode_to_vec())
}

fn clean_up(path: &Path, id: &str, failures: &mut Vec<Error>) -> Option<ExitRecord> {
    let mut note = |result: Result<()>| failures.extend(result.err());
    match Oci::recorded(path) {
        Some(oci) => note(oci.delete(id).run().map(drop)),
        None => note(end_own(path, id)),
    }
    let record = await_record(path);
    note(end_shim(path));
    note(rootfs::unmount(&path.join(rootfs::FOLDER)));
    if let Some(socket) =
        std::fs::read_to_string(path.join(bundle::ADDRESS)).ok().and_then(|text| socket::path(&text))
    {
        let _ = std::fs::remove_file(socket);
    }
    record
}

/// Ends a container of our own runtime: whatever is in its cgroups.
fn end_own(path: &Path, id: &str) -> Result<()> {
    let Ok(text) = std::fs::read(path.join(bundle::CONFIG)) else { return Ok(()) };
    let Ok(spec) = longshore_runtime::load_spec(&text) else { return Ok(()) };
    // Without a first process there was no container; its cgroups may be somebody else's.
    if number(&path.join(bundle::INIT_PID)).is_none() {
        return Ok(());
    }
    let recorded = std::fs::read_to_string(path.join(bundle::CGROUPS)).ok();
    let cgroups = recorded.unwrap_or_else(|| longshore_runtime::cgroups::path_of(&spec, id, false));
    longshore_runtime::cgroups::remove_orphan(&cgroups)?;
    Ok(longshore_runtime::run_poststop(&spec, id, path)?)
}

/// The record of the exit; a shim that still lives writes it when its container has ended.
fn await_record(path: &Path) -> Option<ExitRecord> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let bytes = std::fs::read(path.join(bundle::EXITS).join(bundle::INIT_EXIT));
        if let Ok(record) =
            bytes.map_err(drop).and_then(|bytes| ExitRecord::decode(bytes.as_slice()).map_err(drop))
        {
            return Some(record);
        }
        if live_shim(path).is_none()
            || number(&path.join(bundle::INIT_PID)).is_none()
            || Instant::now() > deadline
        {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends the shim of this bundle, if it still lives: nobody will speak to it again.
fn end_shim(path: &Path) -> Result<()> {
    let Some(pid) = live_shim(path) else { return Ok(()) };
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    // Opened, and still the same: the number cannot have gone to another in between.
    if live_shim(path) != Some(pid) {
        return Ok(());
    }
    match rustix::process::pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(Error::system("end the shim")(errno)),
    }
}

/// The process that was this bundle's shim, if it still works in the bundle.
fn live_shim(path: &Path) -> Option<Pid> {
    let pid = number(&path.join(bundle::SHIM_PID))?;
    let here = rustix::fs::stat(path).ok()?;
    let there = rustix::fs::stat(format!("/proc/{pid}/cwd")).ok()?;
    let same = (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino) && pid != std::process::id();
    same.then(|| Pid::from_raw(i32::try_from(pid).ok()?))?
}

fn number(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
