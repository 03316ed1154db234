//! The engine's one call that the compiler cannot check: handing a descriptor to the event loop.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Waits for readiness of `fd` in the event loop.
pub fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names the same open descriptor for as long as it lives, and it lives inside the AsyncFd,
    // which deregisters it before it drops it.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
