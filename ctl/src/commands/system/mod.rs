//! Verbs on the daemon itself.

pub mod events;
pub mod info;
pub mod version;
