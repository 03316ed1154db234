//! The command, as its callers use it: processes, files and exit codes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bundle;
mod cycles;
mod descriptors;
mod flags;
mod foreground;
mod lifecycle;
mod sealed;
mod state;
mod stubborn;
