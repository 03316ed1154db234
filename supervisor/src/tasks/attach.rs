//! The two ends of an attach that the daemon holds: what goes to a process's stdin, and what comes from it.
//!
//! What always holds: a client that does not read stops its own stream at the buffers of one connection, and nothing
//! else; dropping the receiver detaches.

#![forbid(unsafe_code)]

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use longshore_proto::longshore::shim::v1 as shim;
use tokio::sync::Notify;

use super::client::{Incoming, Outgoing};
use super::types::{AttachInput, AttachOutput};
use super::{limits, wire};
use crate::error::Result;

/// A joined process.
pub struct AttachStream {
    pub input: AttachSender,
    pub output: AttachReceiver,
}

impl AttachStream {
    /// `shared`: told when the receiver is dropped, if the connection carries more than this stream.
    pub(super) fn new(
        container: &str,
        (outgoing, incoming): (Outgoing<shim::AttachInput>, Incoming<shim::AttachOutput>),
        shared: Option<Arc<Notify>>,
    ) -> Self {
        let container: Arc<str> = container.into();
        Self {
            input: AttachSender { container: container.clone(), outgoing },
            output: AttachReceiver { container, incoming, shared, over: false },
        }
    }
}

/// Sends to a process; clones send to the same one.
#[derive(Clone)]
pub struct AttachSender {
    container: Arc<str>,
    outgoing: Outgoing<shim::AttachInput>,
}

impl AttachSender {
    /// Sends input; waits while the process does not read what was sent before.
    ///
    /// # Errors
    /// The shim is gone.
    pub async fn send(&self, input: AttachInput) -> Result<()> {
        match input {
            AttachInput::Stdin(mut bytes) => {
                while bytes.len() > limits::STDIN_MESSAGE {
                    self.send_one(&AttachInput::Stdin(bytes.split_to(limits::STDIN_MESSAGE))).await?;
                }
                if bytes.is_empty() { Ok(()) } else { self.send_one(&AttachInput::Stdin(bytes)).await }
            }
            other => self.send_one(&other).await,
        }
    }

    /// Sends bytes for stdin.
    ///
    /// # Errors
    /// As [`AttachSender::send`].
    pub async fn stdin(&self, bytes: Bytes) -> Result<()> {
        self.send(AttachInput::Stdin(bytes)).await
    }

    /// Says that this client sends nothing more, without closing the process's stdin for others.
    pub fn finish(&self) {
        self.outgoing.end();
    }

    async fn send_one(&self, input: &AttachInput) -> Result<()> {
        self.outgoing
            .send(&wire::attach_input(input))
            .await
            .map_err(|failure| wire::failure(&self.container, "sending stdin", &failure))
    }
}

/// Receives from a process.
pub struct AttachReceiver {
    container: Arc<str>,
    incoming: Incoming<shim::AttachOutput>,
    shared: Option<Arc<Notify>>,
    over: bool,
}

impl AttachReceiver {
    /// The next output; `None` after [`AttachOutput::Exited`]. An error is the last thing that comes. Cancel safe.
    pub async fn recv(&mut self) -> Option<Result<AttachOutput>> {
        std::future::poll_fn(|cx| self.poll_output(cx)).await
    }

    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<AttachOutput>>> {
        loop {
            if self.over {
                return Poll::Ready(None);
            }
            match std::task::ready!(self.incoming.poll_next(cx)) {
                None => {
                    self.over = true;
                    return Poll::Ready(None);
                }
                Some(Err(failure)) => {
                    self.over = true;
                    return Poll::Ready(Some(Err(wire::failure(&self.container, "attach", &failure))));
                }
                Some(Ok(message)) => {
                    if let Some(output) = wire::attach_output(message) {
                        return Poll::Ready(Some(Ok(output)));
                    }
                }
            }
        }
    }
}

impl Stream for AttachReceiver {
    type Item = Result<AttachOutput>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_output(cx)
    }
}

impl Drop for AttachReceiver {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take()
            && !self.over
        {
            shared.notify_one();
        }
    }
}
