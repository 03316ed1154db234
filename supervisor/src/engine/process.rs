//! A container's first process, taken hold of so that a process id which went to another process meanwhile is noticed: what is
//! opened by its number is only handed out while that process, which is one of the container's, still lives.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};

use crate::error::{Error, Result};

/// A process of a container's.
pub(crate) struct FirstProcess<'a> {
    pid: u32,
    container: &'a str,
    handle: OwnedFd,
}

impl<'a> FirstProcess<'a> {
    /// The process of this number, if it is one of the container's.
    pub(crate) fn of(pid: u32, container: &'a str) -> Result<Self> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| stopped(container))?;
        let handle =
            rustix::process::pidfd_open(number, PidfdFlags::empty()).map_err(|_| stopped(container))?;
        let groups =
            std::fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|_| stopped(container))?;
        if !groups.contains(container) {
            return Err(stopped(container));
        }
        let process = Self { pid, container, handle };
        process.check()?;
        Ok(process)
    }

    /// Opens one of its files below `/proc/PID`.
    pub(crate) fn open(&self, file: &str, flags: OFlags) -> Result<OwnedFd> {
        let path = format!("/proc/{}/{file}", self.pid);
        let opened = rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty());
        let opened = opened.map_err(|errno| match errno {
            rustix::io::Errno::NOENT | rustix::io::Errno::SRCH => stopped(self.container),
            errno => Error::io("opening", &path, errno.into()),
        })?;
        // Alive now, so what was read and opened by its number was its own.
        self.check()?;
        Ok(opened)
    }

    /// Its root, from which its files are reached.
    pub(super) fn root(&self) -> Result<OwnedFd> {
        self.open("root", OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// What the kernel tells in one of its files below `/proc/PID`.
    pub(super) fn read(&self, file: &str) -> Result<String> {
        use std::io::Read;
        let mut text = String::new();
        let read = std::fs::File::from(self.open(file, OFlags::RDONLY)?).read_to_string(&mut text);
        read.map_err(|source| Error::io("reading", format!("/proc/{}/{file}", self.pid), source))?;
        Ok(text)
    }

    /// One of its namespaces: `net`, `ipc`, …
    pub(crate) fn namespace(&self, kind: &str) -> Result<OwnedFd> {
        self.open(&format!("ns/{kind}"), OFlags::RDONLY)
    }

    fn check(&self) -> Result<()> {
        let mut poll = [PollFd::new(&self.handle, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match rustix::event::poll(&mut poll, Some(&now)) {
            Ok(0) => Ok(()),
            _ => Err(stopped(self.container)),
        }
    }
}

fn stopped(container: &str) -> Error {
    Error::precondition(format!("container {container}"), "it stopped meanwhile: try again")
}

/// Where another process finds what this one has open.
pub(crate) fn path_of(fd: &OwnedFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_somebody_else_is_refused() {
        let own = std::process::id();
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let known = groups.trim().rsplit('/').next().unwrap();
        let process = FirstProcess::of(own, known).unwrap();
        assert!(process.namespace("net").is_ok());
        assert!(FirstProcess::of(own, "0123456789abcdef0123456789abcdef").is_err());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(FirstProcess::of(pid, "").is_err());
        assert!(FirstProcess::of(0, "").is_err());
    }

    #[test]
    fn nothing_is_opened_by_the_number_of_one_that_has_ended() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let process = FirstProcess::of(child.id(), "").unwrap();
        child.kill().unwrap();
        // Not waited for, so that the number is nobody else's yet: only the handle tells.
        loop {
            match process.namespace("net") {
                Err(_) => break,
                Ok(_) => std::thread::yield_now(),
            }
        }
        child.wait().unwrap();
    }
}
