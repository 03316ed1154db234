//! Sandboxes: the records of what was asked for, and the shims that hold them.
//!
//! What always holds: a record and a living sandbox are two things, as in containerd's interface: either may be there without
//! the other, and a client makes and removes both.

pub mod store;

pub use store::{Sandbox, SandboxRecord, SandboxStore};
