//! Verbs on the daemon itself.

pub mod dial_stdio;
pub mod events;
pub mod info;
pub mod version;
