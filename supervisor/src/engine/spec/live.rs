//! Files of a running container, read through the root of its first process. Links are resolved inside that root by
//! the kernel, and magic links are refused.

use std::fs::File;
use std::os::fd::AsRawFd;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Opens a regular file of the container whose first process is `pid`; `None` if there is none.
pub fn open_file(pid: u32, path: &str) -> Result<Option<File>> {
    let fail = |source: Errno| Error::io("opening the running container's", path, source.into());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, format!("/proc/{pid}/root"), flags | OFlags::DIRECTORY, Mode::empty())
        .map_err(fail)?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(source) => return Err(fail(source)),
    };
    let stat = rustix::fs::statat(&found, "", AtFlags::EMPTY_PATH).map_err(fail)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(Error::invalid(format!("{path} of the container"), "is not a regular file"));
    }
    // The descriptor is known to be a regular file, so opening it again neither hangs nor leads elsewhere.
    let again = format!("/proc/self/fd/{}", found.as_raw_fd());
    File::open(&again).map(Some).map_err(|source| Error::io("opening the running container's", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_files_but_no_fifos_or_folders() {
        let pid = std::process::id();
        assert!(open_file(pid, "/etc/passwd").unwrap().is_some());
        assert!(open_file(pid, "/etc/no-such-file").unwrap().is_none());
        assert!(open_file(pid, "/etc").is_err());
        assert!(open_file(pid, "/proc/self/exe").is_err(), "a magic link");
    }
}
