//! Layers and snapshots: a layer applied to mounts, and a layer made of the difference between mounts.
//!
//! What always holds: mounts are seen by nobody else and are gone when a call returns, however it ends; a layer that is made here is one
//! that [`apply`] accepts; the same trees make the same bytes.

#![forbid(unsafe_code)]

mod apply;
pub mod changes;
mod header;
pub mod layer;
mod make;
mod plan;
mod proxies;
pub mod stream;
#[cfg(test)]
mod tests;
mod upper;
pub mod walk;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use apply::{Durability, apply};
pub use make::{Wanted, make};
pub use plan::read_only;
pub use proxies::{Differ, Differs, passes_on};

pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";
pub const PLAIN_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Ends the work of a client that goes away.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
