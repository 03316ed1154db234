//! The second socket, `<address>.ttrpc`: shims send their events there, by
//! `containerd.services.events.ttrpc.v1.Events/Forward`.
//!
//! What always holds: only the daemon's own user and group may speak; each connection's events are taken in its order, and
//! nothing is read from it while one is; what is no event is answered with an error and changes nothing; who stops in the middle,
//! or does not take the answers, is hung up on.

#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use longshore_proto::containerd::services::events::ttrpc::v1::ForwardRequest;
use longshore_proto::ttrpc::{self, Code, Decoder, Frame, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_stream::StreamExt;

use super::convert::from_timestamp;
use crate::error::{Error, Result};
use crate::events::{self, Event};
use crate::listen::{Connection, Socket};
use crate::namespaces::Namespace;
use crate::tasks::TaskManager;

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";

/// Connections at one time; every shim that is not ours keeps one.
const MAX_CONNECTIONS: usize = 8192;

/// Bytes read at once.
const READ: usize = 4096;

/// Bytes of requests that have not arrived wholly, on all connections together; who needs more is hung up on.
const MAX_UNFINISHED: usize = 64 << 20;

/// How long a request may take to arrive once it has begun, and its answer to be taken. Who is slower is hung up on, and sends it
/// again.
const PATIENCE: Duration = Duration::from_secs(10);

/// The path of the second socket.
pub fn address(grpc: &Path) -> PathBuf {
    let mut path = grpc.as_os_str().to_owned();
    path.push(".ttrpc");
    path.into()
}

/// Serves until it is dropped.
pub async fn serve(socket: Socket, tasks: Arc<TaskManager>) {
    let mut socket = socket.at_most(MAX_CONNECTIONS, "connections for events");
    let unfinished = Arc::new(AtomicUsize::new(0));
    while let Some(accepted) = socket.next().await {
        let Ok(connection) = accepted else { continue };
        let (tasks, unfinished) = (Arc::clone(&tasks), Unfinished::new(&unfinished));
        tokio::spawn(async move {
            if let Err(error) = converse(connection, &tasks, unfinished).await {
                tracing::debug!(%error, "a shim's connection broke");
            }
        });
    }
}

/// How much one connection has of requests that have not arrived wholly, counted with all others'.
struct Unfinished {
    all: Arc<AtomicUsize>,
    own: usize,
}

impl Unfinished {
    fn new(all: &Arc<AtomicUsize>) -> Self {
        Self { all: Arc::clone(all), own: 0 }
    }

    /// Whether there is room for so many bytes of this one.
    fn set(&mut self, bytes: usize) -> bool {
        let before = std::mem::replace(&mut self.own, bytes);
        if bytes <= before {
            self.all.fetch_sub(before - bytes, Ordering::Relaxed);
            return true;
        }
        self.all.fetch_add(bytes - before, Ordering::Relaxed) + (bytes - before) <= MAX_UNFINISHED
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

async fn converse(
    mut connection: Connection,
    tasks: &TaskManager,
    mut unfinished: Unfinished,
) -> io::Result<()> {
    let mut decoder = Decoder::new();
    let mut buffer = [0; READ];
    let mut out = Vec::new();
    let mut begun: Option<Instant> = None;
    loop {
        let read = connection.read(&mut buffer);
        let read = match begun {
            // Who has nothing to say may take any time.
            None => read.await?,
            Some(begun) => in_time(begun + PATIENCE, "a request did not arrive", read).await?,
        };
        match read {
            0 => return Ok(()),
            read => decoder.feed(&buffer[..read]),
        }
        let mut has_moved = false;
        loop {
            match decoder.next_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => answer(&frame, tasks, &mut out),
                Err(error) => refuse(&error, &mut out)?,
            }
            has_moved = true;
            let write = connection.write_all(&out);
            in_time(Instant::now() + PATIENCE, "an answer was not taken", write).await?;
            out.clear();
        }
        begun = match begun {
            _ if !decoder.is_inside_frame() => None,
            Some(begun) if !has_moved => Some(begun),
            _ => Some(Instant::now()),
        };
        if !unfinished.set(decoder.buffered()) {
            return Err(io::Error::other(format!(
                "limit bytes of requests that have not arrived wholly = {MAX_UNFINISHED} reached"
            )));
        }
    }
}

async fn in_time<T>(
    at: Instant,
    what: &'static str,
    step: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("{what} within {PATIENCE:?}"));
    tokio::time::timeout_at(at, step).await.map_err(late)?
}

/// Answers what is no frame of the protocol; the decoder skips it.
fn refuse(error: &ttrpc::Error, out: &mut Vec<u8>) -> io::Result<()> {
    let (stream, code) = match error {
        ttrpc::Error::TooLong { stream, .. } => (*stream, Code::ResourceExhausted),
        ttrpc::Error::UnknownKind { stream, .. } => (*stream, Code::InvalidArgument),
        other => return Err(io::Error::other(other.to_string())),
    };
    ttrpc::encode_error(out, stream, code, &error.to_string());
    Ok(())
}

/// Takes in one frame; the answer is appended to `out`.
fn answer(frame: &Frame<'_>, tasks: &TaskManager, out: &mut Vec<u8>) {
    if frame.kind != Kind::Request {
        return;
    }
    let request = match frame.decode::<ttrpc::Request>("Request") {
        Ok(request) => request,
        Err(error) => {
            return ttrpc::encode_error(out, frame.stream, Code::InvalidArgument, &error.to_string());
        }
    };
    if request.service != SERVICE || request.method != "Forward" {
        let message =
            format!("/{}/{}: this socket serves /{SERVICE}/Forward only", request.service, request.method);
        return ttrpc::encode_error(out, frame.stream, Code::Unimplemented, &message);
    }
    match event(&request.payload) {
        Ok(event) => {
            tasks.forwarded(event);
            // An empty message is never too long.
            let _ = ttrpc::encode_response(out, frame.stream, &());
        }
        Err(error) => {
            let code = Code::from_number(error.code() as i32);
            ttrpc::encode_error(out, frame.stream, code, &error.to_string());
        }
    }
}

fn event(payload: &[u8]) -> Result<Event> {
    let malformed = |why: String| Error::invalid("forwarded event", why);
    let request: ForwardRequest =
        prost::Message::decode(payload).map_err(|error| malformed(error.to_string()))?;
    let envelope = request.envelope.ok_or_else(|| malformed("has no envelope".into()))?;
    events::check_topic(&envelope.topic)?;
    Ok(Event {
        timestamp: envelope.timestamp.map_or_else(|| Ok(Timestamp::now()), from_timestamp)?,
        namespace: Namespace::parse(&envelope.namespace)?,
        topic: envelope.topic,
        payload: envelope.event.unwrap_or_default().into(),
    })
}
