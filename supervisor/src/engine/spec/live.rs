//! Files of a running container, read through the root of its first process. Links are resolved inside that root by
//! the kernel, and magic links are refused.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::trees::reopen_regular;

/// Opens a regular file below `root`; `None` if there is none.
pub fn open_file(root: &OwnedFd, path: &str) -> Result<Option<File>> {
    let fail = |source: Errno| Error::io("opening the running container's", path, source.into());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(source) => return Err(fail(source)),
    };
    match reopen_regular(&found).map_err(fail)? {
        Some(file) => Ok(Some(file.into())),
        None => Err(Error::invalid(format!("{path} of the container"), "is not a regular file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_files_but_no_fifos_or_folders() {
        let root: OwnedFd = File::open("/").unwrap().into();
        assert!(open_file(&root, "/etc/passwd").unwrap().is_some());
        assert!(open_file(&root, "/etc/no-such-file").unwrap().is_none());
        assert!(open_file(&root, "/etc").is_err());
        assert!(open_file(&root, "/proc/self/exe").is_err(), "a magic link");
    }
}
