//! The shim against the real kernel: a client of the wire format drives it through whole lives of containers.

#![allow(clippy::unwrap_used)]

mod attach;
mod checkpoint;
mod client;
mod commands;
mod foreign;
mod harness;
mod hostile;
mod life;
mod logs;
mod memory;
mod network;
mod pods;
mod slow_runtime;
mod stdio;
mod systemd;
