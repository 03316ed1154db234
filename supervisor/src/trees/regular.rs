//! Regular files of trees that others may write to.
//!
//! What always holds: nothing else is opened for reading, whatever is put in a file's place meanwhile: a FIFO would hang, and to open a
//! device may be to do something on the host.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Opens a file for reading; `None`: it is not a regular one. A link is none.
pub fn open_regular(parent: impl AsFd, leaf: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    reopen_regular(&fs::openat(parent, leaf, flags, Mode::empty())?)
}

/// Opens what a descriptor of `O_PATH` stands for.
pub fn reopen_regular(found: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    if !FileType::from_raw_mode(fs::fstat(found)?.st_mode).is_file() {
        return Ok(None);
    }
    // A lease that somebody holds is not waited for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    fs::open(format!("/proc/self/fd/{}", found.as_raw_fd()), flags, Mode::empty()).map(Some)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use rustix::fs::{CWD, FileType};

    use super::*;

    #[test]
    fn what_is_no_file_is_not_even_opened() {
        let folder = tempfile::tempdir().unwrap();
        let parent: OwnedFd = std::fs::File::open(folder.path()).unwrap().into();
        std::fs::write(folder.path().join("file"), "text").unwrap();
        std::os::unix::fs::symlink("file", folder.path().join("link")).unwrap();
        let fifo = folder.path().join("fifo");
        fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let mut text = String::new();
        let file = open_regular(&parent, b"file").unwrap().unwrap();
        std::fs::File::from(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        assert!(open_regular(&parent, b"link").unwrap().is_none());
        assert!(open_regular(&parent, b".").unwrap().is_none());
        assert_eq!(open_regular(&parent, b"none").err(), Some(Errno::NOENT));
        let opened = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Comes back as soon as anybody opens the other end.
            scope.spawn(|| {
                std::fs::File::options().write(true).open(&fifo).unwrap();
                opened.store(true, Ordering::SeqCst);
            });
            std::thread::sleep(Duration::from_millis(50));
            assert!(open_regular(&parent, b"fifo").unwrap().is_none());
            std::thread::sleep(Duration::from_millis(50));
            assert!(!opened.load(Ordering::SeqCst), "the FIFO was opened");
            std::fs::File::open(&fifo).unwrap();
        });
    }
}
