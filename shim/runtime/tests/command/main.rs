//! The command, as its callers use it: processes, files and exit codes.

mod bundle;
mod cycles;
mod descriptors;
mod foreground;
mod lifecycle;
mod sealed;
mod state;
mod stubborn;
