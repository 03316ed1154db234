//! longshore-snapshotter: the overlayfs and native drivers behind containerd's snapshots API, for any containerd (`[proxy_plugins]`).
//!
//! What always holds: what was answered survives a kill of this process; only the socket's owner may use it.
#![forbid(unsafe_code)]

mod errors;
mod listen;
mod service;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use longshore_proto::containerd::services::snapshots::v1::snapshots_server::SnapshotsServer;
use longshore_snapshotter::{Native, Overlayfs, Recovery, Snapshotter};
use tokio::signal::unix::{SignalKind, signal};

/// How long requests may finish after the plugin was told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Calls that wait for a disk at one time.
const BLOCKING_THREADS: usize = 32;
/// Calls of one connection that are answered at one time.
const CALLS: u32 = 256;
/// Longest message in bytes, both ways.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Keeps snapshots for a containerd: name its socket as a proxy plugin of the type "snapshot".
#[derive(Debug, Parser)]
#[command(name = "longshore-snapshotter", version, about, max_term_width = 100)]
struct Flags {
    /// Where the snapshots are kept. One process at a time may use it.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/longshore-snapshotter")]
    root: PathBuf,
    /// Unix socket of the API, for root alone.
    #[arg(long, value_name = "SOCK", default_value = "/run/longshore-snapshotter/snapshotter.sock")]
    address: PathBuf,
    /// How layers are kept.
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Driver::Overlayfs)]
    driver: Driver,
    /// error, warn, info, debug, trace, or a filter such as "info,longshore_snapshotter=debug".
    #[arg(long, value_name = "L", default_value = "info")]
    log_level: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Driver {
    /// Stacked by overlay mounts.
    Overlayfs,
    /// Full copies, which need nothing of the kernel.
    Native,
}

fn main() -> ExitCode {
    match start(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("longshore-snapshotter: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(flags: &Flags) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::builder().parse(&flags.log_level).with_context(|| {
        format!("log level {:?}: error, warn, info, debug and trace exist", flags.log_level)
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let driver = open(flags)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("snapshotter")
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let served = runtime.block_on(serve(flags, Arc::clone(&driver)));
    runtime.shutdown_timeout(STOP_TIMEOUT);
    driver.close().context("bringing the snapshots' records to the disk")?;
    served
}

fn open(flags: &Flags) -> anyhow::Result<Arc<dyn Snapshotter>> {
    let what = || format!("opening the snapshots in {}", flags.root.display());
    match flags.driver {
        Driver::Overlayfs => {
            let driver = Overlayfs::open(&flags.root).with_context(what)?;
            driver.probe().context("overlayfs cannot be used here; --driver native can")?;
            report(driver.recovery());
            Ok(Arc::new(driver))
        }
        Driver::Native => {
            let driver = Native::open(&flags.root).with_context(what)?;
            report(driver.recovery());
            Ok(Arc::new(driver))
        }
    }
}

fn report(recovery: &Recovery) {
    if recovery.removed > 0 {
        tracing::info!("removed {} unfinished snapshots", recovery.removed);
    }
    if recovery.damaged {
        tracing::error!("the journal was damaged; directories that it may have named are in unowned/");
    }
    for key in &recovery.emptied {
        tracing::warn!(key, "the files of this snapshot were lost in a power cut");
    }
    for key in &recovery.lost {
        tracing::error!(key, "the files of this committed snapshot are missing: pull its image again");
    }
}

async fn serve(flags: &Flags, driver: Arc<dyn Snapshotter>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening to signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening to signals")?;
    let socket = listen::bind(&flags.address)?;
    let (stop, stopping) = tokio::sync::oneshot::channel::<()>();
    let service = SnapshotsServer::new(service::Service(driver))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(CALLS)
        .add_service(service)
        .serve_with_incoming_shutdown(socket.incoming()?, async {
            // An error means that the sender is gone, which is as good as a stop.
            let _ = stopping.await;
        });
    tokio::pin!(server);
    let (address, root) = (flags.address.display(), flags.root.display());
    tracing::info!(%address, %root, driver = ?flags.driver, "longshore-snapshotter is ready");
    tokio::select! {
        ended = &mut server => return ended.context("serving the socket"),
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
    }
    drop(stop);
    tokio::select! {
        ended = &mut server => ended.context("serving the socket"),
        () = tokio::time::sleep(STOP_TIMEOUT) => {
            tracing::info!("requests that did not finish within {} s are cut", STOP_TIMEOUT.as_secs());
            Ok(())
        }
    }
}
