//! `make bench`: longshore and every installed peer side by side, in one interleaved run on this host.
//!
//! What always holds: all state is on a tmpfs that only this program sees; each contestant has daemons, sockets and cgroups of its own;
//! times are compared by the medians of rounds in which everybody takes a turn; nothing is judged by time, a result is a
//! result; whatever was started is ended by its process id, and nothing stays behind.
#![forbid(unsafe_code)]

mod api;
mod arena;
mod contestants;
mod measure;
mod memory;
mod network;
mod options;
mod payload;
mod place;
mod pods;
mod report;
mod rows;
mod runtimes;
mod shim;

use std::process::ExitCode;

use anyhow::{Context, Result};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("longshore-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let options = options::Options::parse()?;
    let arena = arena::Arena::new(&options).context("preparing a place for the measurement")?;
    let mut report = report::Report::default();
    let outcome = rows::run(&options, &arena, &mut report);
    report.print();
    report.write(&options.results)?;
    let left = arena.leave();
    if !left.is_empty() {
        eprintln!("left behind, and removed now: {left:#?}");
    }
    outcome
}
