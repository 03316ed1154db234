//! Loop devices: a file shown as a block device.
//!
//! What always holds: a device that was attached goes by itself when its last user does, unless it was kept, and then it goes by
//! [`release`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};

use super::sys;
use crate::error::{Error, Result};

const ATTEMPTS: u32 = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    ReadWrite,
    ReadOnly,
}

/// An attached device; it goes with the descriptor unless something else uses it by then.
pub struct Device {
    fd: OwnedFd,
    pub path: PathBuf,
}

/// Attaches `file` to a free device.
pub fn attach(file: &str, access: Access) -> Result<Device> {
    let failed = |source| Error::io("attaching a loop device to", file, source);
    let (mode, flags) = match access {
        Access::ReadWrite => (OFlags::RDWR, sys::AUTOCLEAR),
        Access::ReadOnly => (OFlags::RDONLY, sys::AUTOCLEAR | sys::READ_ONLY),
    };
    let open = |path: &Path| {
        open(path, mode | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| Error::io("opening", path, errno.into()))
    };
    let backing = open(Path::new(file))?;
    let control = rustix::fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::io("opening", "/dev/loop-control", errno.into()))?;
    for attempt in 0..ATTEMPTS {
        let number = sys::free_number(control.as_fd()).map_err(failed)?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let fd = open(&path)?;
        match sys::configure(fd.as_fd(), backing.as_fd(), flags, file.as_bytes()) {
            Ok(()) => return Ok(Device { fd, path }),
            // Somebody else was faster.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(Duration::from_millis(u64::from(attempt)));
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let why = format!("every free loop device was taken by somebody else, {ATTEMPTS} times");
    Err(Error::unavailable(format!("loop device for {file}"), why))
}

impl Device {
    /// Keeps the device until it is released.
    pub fn keep(self) -> Result<PathBuf> {
        set_autoclear(&self.fd, false).map_err(|source| Error::io("keeping", &self.path, source))?;
        Ok(self.path)
    }
}

/// Lets a kept device go when its last user does. One that is gone already is fine.
pub fn release(device: &Path) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let fd = match open(device, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NXIO) => return Ok(()),
        Err(errno) => return Err(Error::io("opening", device, errno.into())),
    };
    match set_autoclear(&fd, true) {
        Err(error) if error.raw_os_error() != Some(libc::ENXIO) => {
            Err(Error::io("releasing the loop device", device, error))
        }
        _ => Ok(()),
    }
}

fn set_autoclear(fd: &OwnedFd, wanted: bool) -> io::Result<()> {
    let mut info = sys::status(fd.as_fd())?;
    info.flags = if wanted { info.flags | sys::AUTOCLEAR } else { info.flags & !sys::AUTOCLEAR };
    sys::set_status(fd.as_fd(), &info)
}
