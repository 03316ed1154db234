//! The files of the bundle folder. Each is reached through the open folder, and what others read appears whole: it
//! is written beside its place and renamed.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use longshore_proto::longshore::shim::v1::ExitRecord;
use prost::Message;
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::error::{Error, Result};
use crate::limits;

/// The OCI configuration, written by the daemon.
pub const CONFIG: &str = "config.json";
/// Where the shim listens.
pub const SOCKET: &str = "shim.sock";
/// The shim's process id, decimal.
pub const SHIM_PID: &str = "shim.pid";
/// The address at which a foreign daemon connects, as `start` has answered it.
pub const ADDRESS: &str = "address";
/// The FIFO from which a foreign daemon reads what its shim has to say.
pub const LOG: &str = "log";
/// The process id of the container's first process, decimal.
pub const INIT_PID: &str = "init.pid";
/// The cgroups as the runtime recorded them, if they are another's than the configuration tells: systemd's.
pub const CGROUPS: &str = "cgroups";
/// The folder of exit records.
pub const EXITS: &str = "exit";
/// The first process's exit record in it; an exec's has its exec id.
pub const INIT_EXIT: &str = "init";

/// Opens a bundle folder.
pub fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path, flags, Mode::empty()).map_err(Error::file("open the bundle", path))
}

/// Makes the folder of exit records; one that is there is fine.
pub fn make_exits(folder: &OwnedFd) -> Result<()> {
    match rustix::fs::mkdirat(folder, EXITS, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(Error::file("make folder", EXITS)(errno)),
    }
}

/// Reads a file of at most [`limits::CONFIG`] bytes.
pub fn read(folder: &OwnedFd, name: &str) -> Result<Vec<u8>> {
    let failed = |source| Error::Io { doing: "read from the bundle", path: name.into(), source };
    let fd = rustix::fs::openat(folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::file("open from the bundle", name))?;
    let file = File::from(fd);
    let length = file.metadata().map_err(failed)?.len();
    if length > limits::CONFIG {
        let limit = usize::try_from(limits::CONFIG).unwrap_or(usize::MAX);
        return Err(Error::Limit { what: "bytes in config.json", limit });
    }
    let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
    file.take(limits::CONFIG).read_to_end(&mut content).map_err(failed)?;
    Ok(content)
}

/// Writes a file that nobody reads before it is whole: the daemon waits for the answer.
pub fn write(folder: &OwnedFd, name: &str, content: &[u8]) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(Error::file("open in the bundle", name))?;
    File::from(fd).write_all(content).map_err(|source| Error::Io {
        doing: "write to the bundle",
        path: name.into(),
        source,
    })
}

/// Writes an exit record; it is there whole or not at all.
pub fn write_exit(folder: &OwnedFd, record: &ExitRecord) -> Result<()> {
    let name = format!("{EXITS}/{}", exit_name(&record.exec_id));
    // No exec id begins with a dot.
    let draft = format!("{EXITS}/.{}", exit_name(&record.exec_id));
    write(folder, &draft, &record.encode_to_vec())?;
    rustix::fs::renameat(folder, &draft, folder, &name).map_err(Error::file("rename exit record to", name))
}

/// Removes an exit record; one that is not there is fine.
pub fn remove_exit(folder: &OwnedFd, exec_id: &str) {
    remove(folder, &format!("{EXITS}/{}", exit_name(exec_id)));
}

/// Removes a file; one that is not there is fine.
pub fn remove(folder: impl AsFd, name: &str) {
    let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
}

fn exit_name(exec_id: &str) -> &str {
    if exec_id.is_empty() { INIT_EXIT } else { exec_id }
}
