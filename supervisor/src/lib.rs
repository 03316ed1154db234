//! longshored: the longshore daemon. Flags, configuration, and the wiring of everything in an explicit order.
//!
//! A library only so that fuzzers get in: nothing else depends on it.

#![deny(unsafe_code)]

mod any;
mod api;
mod cgroup;
mod checkpoints;
mod code;
mod config;
mod containers;
mod content;
mod cri;
mod diff;
mod engine;
mod error;
mod events;
mod filters;
mod flags;
mod folders;
pub mod fuzz;
mod gc;
mod hex;
mod hook;
mod images;
mod labels;
mod leases;
mod listen;
mod malloc;
mod messages;
mod metadata;
mod mounts;
mod namespaces;
mod network;
mod pipe;
mod plugins;
mod pods;
mod ready;
mod restart;
mod sandboxes;
mod serve;
mod services;
mod settle;
mod snapshots;
mod streams;
mod tasks;
mod trees;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;

/// Threads that may wait for a disk at one time.
pub(crate) const BLOCKING_THREADS: usize = 64;

/// The program.
pub fn main() -> ExitCode {
    malloc::configure();
    let flags = flags::Flags::parse();
    let outcome = match &flags.command {
        _ if flags.version => print(&version()),
        Some(flags::Command::Config(command)) => {
            flags.show(*command).map_err(Into::into).and_then(|text| print(&text))
        }
        Some(flags::Command::OciHook { words }) => hook::run(words),
        None => start(&flags),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("longshored: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Name, package, version and revision: the words that scripts take from `containerd --version`.
fn version() -> String {
    format!("longshored longshore {} {}\n", api::VERSION, api::REVISION)
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("writing to standard output")
}

fn start(flags: &flags::Flags) -> anyhow::Result<()> {
    let config = flags.configuration()?;
    log_to_stderr(&config.log_level)?;
    let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_secs(5))
        .thread_name("longshored")
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let result = runtime.block_on(serve::run(Arc::new(config)));
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

fn log_to_stderr(level: &str) -> anyhow::Result<()> {
    // A plain level is meant for the daemon; its libraries log every frame they send.
    let plain = level.parse::<tracing::Level>().is_ok();
    let directives = if plain { format!("info,longshored={level}") } else { level.to_owned() };
    let directives = if matches!(level, "warn" | "error") { level.to_owned() } else { directives };
    let filter = tracing_subscriber::EnvFilter::builder()
        .parse(directives)
        .with_context(|| format!("log level {level:?}: error, warn, info, debug and trace exist"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // What cannot be written (to a file on a full disk) would be told there, too: that fails again, and ends whoever logs.
        .log_internal_errors(false)
        // The steps of a request and how long each took; spans are made at debug level only.
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}
