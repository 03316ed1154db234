//! containerd-shim-longshore-v1: one process per container, or for all containers of a pod. It forks the runtime, keeps the container's
//! stdio, log and exit, and outlives the daemon.
//!
//! What always holds: one thread that has all state, and others only while a container makes them wait in its place; no dependency
//! on the daemon being there, and an exit record on disk before anybody hears of an exit.

#![deny(unsafe_code)]

mod assign;
mod attach;
mod bundle;
mod commands;
mod connection;
mod dispatch;
mod dns;
mod driver;
mod error;
mod events;
mod exit;
mod files;
mod foreign;
mod init;
mod limits;
mod names;
mod poll;
mod ports;
mod process;
mod publish;
mod report;
mod rootfs;
mod sandbox;
mod server;
mod signals;
mod stdio;
mod sys;
mod task;
mod timers;

use std::io::Write;
use std::process::ExitCode;

use error::{Error, Result};

/// The descriptor on which the daemon speaks to a waiting shim.
const DAEMON: i32 = 3;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let word = words.next();
    let result = match word.as_ref().and_then(|word| word.to_str()) {
        Some("pool") if words.len() == 0 => pool(),
        Some("--help" | "-help" | "-h") => {
            print!("{}", foreign::HELP);
            Ok(())
        }
        _ => foreign::run(word.into_iter().chain(words)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What stands on stderr when `start` fails is what the daemon tells its client.
            let _ = writeln!(std::io::stderr(), "containerd-shim-longshore-v1: {error}");
            ExitCode::from(if matches!(error, Error::Usage(_)) { 2 } else { 1 })
        }
    }
}

fn pool() -> Result<()> {
    let daemon = sys::inherited(DAEMON).ok_or(Error::System {
        doing: "use file descriptor 3 as the daemon's socket",
        source: rustix::io::Errno::BADF.into(),
    })?;
    become_a_shim()?;
    let mut shim = server::Shim::waiting(daemon)?;
    shim.protect();
    shim.run()
}

/// What every shim does first that stays.
fn become_a_shim() -> Result<()> {
    sys::tune_allocator();
    // Its own session, so that what ends the daemon's does not end containers. Already leading one is fine.
    let _ = rustix::process::setsid();
    // Else it has the number of the descriptor that it was executed from.
    let _ = rustix::thread::set_name(c"containerd-shim");
    // Orphans of the container come to us, so that they are reaped.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(Error::system("become the reaper of orphans"))
}
