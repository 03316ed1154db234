//! The init of a container that asked for one, as a file that nobody can change (CVE-2019-5736) and no container has.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::error::{Error, Result};

/// Its name, as process lists show it.
const NAME: &str = "init";

/// Makes the file; it costs its 2 KiB for as long as the container runs.
pub fn sealed() -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC is asked for since Linux 6.3 where `vm.memfd_noexec` is set, and unknown before.
    let memory = rustix::fs::memfd_create(NAME, flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(NAME, flags))
        .map_err(Error::system("make the file of the init"))?;
    let mut memory = File::from(memory);
    let path = || NAME.into();
    memory.write_all(longshore_init::PROGRAM).map_err(|source| Error::Io {
        doing: "write",
        path: path(),
        source,
    })?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&memory, seals).map_err(Error::system("seal the file of the init"))?;
    Ok(memory.into())
}
