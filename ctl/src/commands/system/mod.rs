//! Verbs on the daemon itself.

pub mod df;
pub mod dial_stdio;
pub mod events;
pub mod info;
pub mod prune;
pub mod version;
