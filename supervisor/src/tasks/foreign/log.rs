//! What a shim logs: read from the FIFO in its bundle into the daemon's log.
//!
//! What always holds: the FIFO is held open for reading and writing, so that no shim blocks on opening it nor sees an end; a line
//! is cut at a bound.

#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe::{OpenOptions, Receiver};
use tokio_util::sync::CancellationToken;

use super::super::bundle::Bundle;
use super::super::limits;
use super::bundle::LOG;

/// Bytes read at once; each shim's log has a buffer of this size.
const READ: usize = 1024;

/// Reads a bundle's log until `ended`.
///
/// # Errors
/// The FIFO is not there.
pub fn drain(bundle: &Bundle, id: &str, ended: CancellationToken) -> io::Result<()> {
    let fifo = OpenOptions::new().read_write(true).open_receiver(bundle.path().join(LOG))?;
    let id: Arc<str> = id.into();
    tokio::spawn(async move {
        tokio::select! {
            () = ended.cancelled() => {}
            error = read(fifo, &id) => tracing::warn!(container = &*id, %error, "cannot read the log of a shim"),
        }
    });
    Ok(())
}

async fn read(fifo: Receiver, id: &str) -> io::Error {
    let mut reader = BufReader::with_capacity(READ, fifo);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut piece = (&mut reader).take(limits::SHIM_LOG_LINE as u64);
        match piece.read_until(b'\n', &mut line).await {
            Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => pass_on(id, String::from_utf8_lossy(&line).trim()),
            Err(error) => return error,
        }
    }
}

/// At the level that the shim gave it, if it gave one.
fn pass_on(id: &str, line: &str) {
    let level = line.split("level=").nth(1).map(|rest| rest.trim_start_matches('"'));
    match level.map(|level| level.split([' ', '"']).next().unwrap_or_default()) {
        _ if line.is_empty() => {}
        None if line.starts_with("panic:") || line.starts_with("fatal error:") => {
            tracing::error!(container = id, "shim: {line}");
        }
        Some("error" | "fatal" | "panic") => tracing::error!(container = id, "shim: {line}"),
        Some("warning" | "warn") => tracing::warn!(container = id, "shim: {line}"),
        Some("debug" | "trace") => tracing::debug!(container = id, "shim: {line}"),
        _ => tracing::info!(container = id, "shim: {line}"),
    }
}
