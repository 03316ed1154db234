//! Snapshots: the stacks of directories that container root filesystems and image layers live in.
//!
//! A snapshot is *active* (being written), a *view* (read-only, throw-away) or *committed* (never changes again; the
//! only kind that others may have as their parent). [`Snapshotter`] is the contract; [`Overlayfs`] stacks layers with
//! overlay mounts, [`Native`] copies the parent and needs nothing of the kernel. Both keep their state in one folder
//! that they alone own, and neither mounts anything: they say what to mount.
//!
//! What always holds, for both drivers:
//! - **A call that returned has happened, whatever kills the process next.** Every change is one checksummed record in
//!   the driver's journal; a change without its record never happened, and its directories are removed at the next open.
//! - **A commit that returned survives a power cut**: the data of the snapshot reach the disk (`syncfs`) before the
//!   record does (`fdatasync`), and only then is the commit acknowledged. `prepare`, `view`, `remove` and `update` survive
//!   a crash of the process, but reach the disk only with the next commit or [`Snapshotter::flush`].
//! - **Nothing is left behind**: directories that no record owns are removed at open, those that resisted a removal by
//!   [`Snapshotter::cleanup`].
//! - Directory trees come from strangers: they are walked and removed without following a link, whatever their depth.
#![forbid(unsafe_code)]

mod directories;
mod durable;
mod error;
mod journal;
mod local;
mod native;
mod overlayfs;
mod record;
mod remap;
mod snapshot;
mod store;
mod tree;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use error::Error;
pub use local::{Local, Recovery};
pub use native::Native;
pub use overlayfs::Overlayfs;
pub use snapshot::{Commit, Info, Kind, LabelChange, Labels, Mount, Snapshotter, UpperDir, Usage};

/// Longest key or name, in bytes.
pub const MAX_KEY: usize = 1024;

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// Locks; a panic in another thread has left nothing half done, for nothing under these locks can panic halfway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
