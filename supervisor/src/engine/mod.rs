//! Day-to-day semantics.
pub mod config;
pub mod etc;
pub mod filters;
pub mod logs;
pub mod names;
pub mod signals;
pub mod spec;
pub mod state;
mod sys;
