//! A client's part in a process: its bytes go in, the process's come out, until the process ends or the client goes.
//!
//! What always holds: neither direction waits for the other; a client that does not read is noticed by the shim's
//! window, not by a buffer here; the end of the client's stream detaches it and nothing more.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use longshore_proto::longshore::engine::v1 as wire;
use tokio::sync::mpsc;
use tonic::Status;

use crate::engine::Engine;
use crate::engine::registry::Entry;
use crate::tasks::{AttachInput, AttachOutput, AttachReceiver, AttachSender, AttachStream, Exit};

/// Where a client's messages go.
pub type Out<T> = mpsc::Sender<Result<T, Status>>;

/// How a session ended.
pub enum Ended {
    /// The process ended, and all of its output was sent.
    Exited(Exit),
    /// The client went away, or said that it does.
    Detached,
    /// The shim did.
    Lost,
}

/// One direction of the translation.
pub struct Wire<I, O> {
    pub input: fn(I) -> Option<wire::StdioInput>,
    pub output: fn(wire::StdioOutput) -> O,
}

/// Which process the client's signals are for.
pub struct Target<'a> {
    pub engine: &'a Arc<Engine>,
    pub entry: &'a Entry,
    pub exec_id: &'a str,
    /// Whether the client's end of stdin is the process's: it is not for a container that was begun detached.
    pub stdin: StdinEnd,
}

/// What the end of a client's stdin does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdinEnd {
    Closes,
    Stays,
}

/// Carries bytes both ways until one side ends.
pub async fn carry<I, O>(
    target: &Target<'_>,
    stream: AttachStream,
    inputs: &mut tonic::Streaming<I>,
    out: &Out<O>,
    wire: &Wire<I, O>,
) -> Ended {
    let AttachStream { input, output } = stream;
    tokio::select! {
        ended = send_output(output, out, wire.output) => ended,
        () = take_input(target, &input, inputs, wire.input) => Ended::Detached,
        () = out.closed() => Ended::Detached,
    }
}

async fn send_output<O>(mut output: AttachReceiver, out: &Out<O>, wrap: fn(wire::StdioOutput) -> O) -> Ended {
    use wire::stdio_output::What;
    loop {
        let what = match output.recv().await {
            Some(Ok(AttachOutput::Stdout(bytes))) => What::Stdout(bytes.into()),
            Some(Ok(AttachOutput::Stderr(bytes))) => What::Stderr(bytes.into()),
            Some(Ok(AttachOutput::Attached)) => continue,
            Some(Ok(AttachOutput::Exited(exit))) => return Ended::Exited(exit),
            Some(Err(error)) => {
                tracing::debug!(%error, "an attached stream broke");
                return Ended::Lost;
            }
            None => return Ended::Lost,
        };
        if out.send(Ok(wrap(wire::StdioOutput { what: Some(what) }))).await.is_err() {
            return Ended::Detached;
        }
    }
}

/// Returns when the client's stream has ended.
async fn take_input<I>(
    target: &Target<'_>,
    input: &AttachSender,
    inputs: &mut tonic::Streaming<I>,
    unwrap: fn(I) -> Option<wire::StdioInput>,
) {
    while let Some(Ok(message)) = inputs.next().await {
        let Some(message) = unwrap(message) else { continue };
        // A process that ended takes no more; its exit ends the session.
        let _ = one_input(target, input, message).await;
    }
}

async fn one_input(
    target: &Target<'_>,
    input: &AttachSender,
    message: wire::StdioInput,
) -> crate::error::Result<()> {
    if !message.stdin.is_empty() {
        input.send(AttachInput::Stdin(Bytes::from(message.stdin))).await?;
    }
    if message.close_stdin && target.stdin == StdinEnd::Closes {
        input.send(AttachInput::CloseStdin).await?;
    }
    if let Some(size) = message.resize {
        input.send(AttachInput::Resize { columns: size.columns, rows: size.rows }).await?;
        if target.exec_id.is_empty() {
            target.engine.resized(target.entry, super::convert::size(size));
        }
    }
    if message.signal != 0 && target.exec_id.is_empty() {
        target.engine.kill(&target.entry.id, &message.signal.to_string()).await?;
    }
    Ok(())
}
