//! The second socket, `<address>.ttrpc`: shims send their events there, by
//! `containerd.services.events.ttrpc.v1.Events/Forward`.
//!
//! What always holds: only the daemon's own user and group may speak; each connection's events are taken in its order, and
//! nothing is read from it while one is; what is no event is answered with an error and changes nothing.

#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use longshore_proto::containerd::services::events::ttrpc::v1::ForwardRequest;
use longshore_proto::ttrpc::{self, Code, Decoder, Frame, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
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

/// The path of the second socket.
pub fn address(grpc: &Path) -> PathBuf {
    let mut path = grpc.as_os_str().to_owned();
    path.push(".ttrpc");
    path.into()
}

/// Serves until it is dropped.
pub async fn serve(mut socket: Socket, tasks: Arc<TaskManager>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Some(accepted) = socket.next().await {
        let connection = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                // Mostly: no descriptor is left, which passes.
                tracing::warn!(%error, "cannot accept a shim's connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!(
                "refused a shim's connection: limit connections for events = {MAX_CONNECTIONS} reached"
            );
            continue;
        };
        let tasks = Arc::clone(&tasks);
        tokio::spawn(async move {
            if let Err(error) = converse(connection, &tasks).await {
                tracing::debug!(%error, "a shim's connection broke");
            }
            drop(place);
        });
    }
}

async fn converse(mut connection: Connection, tasks: &TaskManager) -> io::Result<()> {
    let mut decoder = Decoder::new();
    let mut buffer = [0; READ];
    let mut out = Vec::new();
    loop {
        match connection.read(&mut buffer).await? {
            0 => return Ok(()),
            read => decoder.feed(&buffer[..read]),
        }
        loop {
            match decoder.next_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => answer(&frame, tasks, &mut out),
                Err(error) => {
                    let (ttrpc::Error::TooLong { stream, .. } | ttrpc::Error::UnknownKind { stream, .. }) =
                        error
                    else {
                        return Err(io::Error::other(error.to_string()));
                    };
                    ttrpc::encode_error(&mut out, stream, Code::ResourceExhausted, &error.to_string());
                }
            }
            connection.write_all(&out).await?;
            out.clear();
        }
    }
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
