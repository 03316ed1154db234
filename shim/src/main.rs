//! containerd-shim-longshore-v1: one process per container. It forks the runtime, keeps the container's stdio, log
//! and exit, and outlives the daemon.
//!
//! What always holds: one thread, no dependency on the daemon being there, and an exit record on disk before
//! anybody hears of an exit.

#![deny(unsafe_code)]

mod assign;
mod attach;
mod bundle;
mod connection;
mod dispatch;
mod error;
mod events;
mod exit;
mod limits;
mod names;
mod poll;
mod process;
mod server;
mod signals;
mod stdio;
mod sys;
mod task;
mod timers;

use std::process::ExitCode;

use error::{Error, Result};

/// The descriptor on which the daemon speaks to a waiting shim.
const DAEMON: i32 = 3;

const HELP: &str = "\
containerd-shim-longshore-v1: keeps one container for longshored

Usage: containerd-shim-longshore-v1 pool

  pool        wait for a container; ttrpc is spoken on file descriptor 3, a connected Unix
              socket, and the shim leaves when that ends before it was assigned
  --version   print the version
  --help      print this

It is started by longshored, not by hand. The `start`, `delete` and `-info` commands by which
other containerd daemons start a shim are not supported by this version.
";

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let word = words.next();
    let more = words.next();
    match (word.as_ref().and_then(|word| word.to_str()), more) {
        (Some("pool"), None) => finish(pool()),
        (Some("--version" | "-version" | "-v"), None) => {
            println!("containerd-shim-longshore-v1 {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        (Some("--help" | "-help" | "-h"), None) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        _ => refuse(),
    }
}

/// Says what was asked for and is not there; containerd's own start protocol among it.
fn refuse() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let known = words.iter().find(|word| matches!(word.as_str(), "start" | "delete" | "-info"));
    match (known, words.first()) {
        (Some(word), _) => eprintln!(
            "containerd-shim-longshore-v1: `{word}`, by which other containerd daemons use a shim, is not supported \
             by this version; run the container with longshored"
        ),
        (None, Some(word)) => eprintln!("containerd-shim-longshore-v1: unknown command {word:?}; see --help"),
        (None, None) => eprintln!("containerd-shim-longshore-v1: no command; see --help"),
    }
    ExitCode::from(2)
}

fn finish(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("containerd-shim-longshore-v1: {error}");
            ExitCode::FAILURE
        }
    }
}

fn pool() -> Result<()> {
    let daemon = sys::inherited(DAEMON).ok_or(Error::System {
        doing: "use file descriptor 3 as the daemon's socket",
        source: rustix::io::Errno::BADF.into(),
    })?;
    sys::tune_allocator();
    // Its own session, so that what ends the daemon's does not end containers. Already leading one is fine.
    let _ = rustix::process::setsid();
    // Orphans of the container come to us, so that they are reaped.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(Error::system("become the reaper of orphans"))?;
    let mut shim = server::Shim::new(daemon)?;
    shim.protect();
    shim.run()
}
