//! Walks over directory trees that strangers made: no link is followed, no path is longer than one name, and the number of open
//! directories is bounded.

mod copy;
mod count;
mod remove;

pub(crate) use copy::copy;
pub(crate) use count::count;
pub(crate) use remove::remove;

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};

/// Directories nested deeper than this are refused where a walk cannot do without one descriptor a level.
const MAX_DEPTH: usize = 1024;

/// Opens the directory `name`, and nothing but a directory.
fn open_dir(parent: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}
