//! The two ends of an attach that the daemon holds: what goes to a process's stdin, and what comes from it.
//!
//! What always holds: a client that does not read, and a process that does not read its stdin, stop this stream at its
//! window and nothing else on the connection; dropping the receiver detaches.

#![forbid(unsafe_code)]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use longshore_proto::longshore::shim::v1 as shim;
use longshore_proto::longshore::shim::v1::attach_output::What;
use tokio::sync::Notify;

use super::client::{Incoming, Outgoing};
use super::types::{AttachInput, AttachOutput};
use super::{limits, wire};
use crate::error::{Error, Result};

/// A joined process.
pub struct AttachStream {
    pub input: AttachSender,
    pub output: AttachReceiver,
}

impl AttachStream {
    pub(super) fn new(
        container: &str,
        (outgoing, incoming): (Outgoing<shim::AttachInput>, Incoming<shim::AttachOutput>),
    ) -> Self {
        let shared = Arc::new(Shared {
            container: container.into(),
            outgoing,
            untaken: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            taken: Notify::new(),
        });
        Self {
            input: AttachSender { shared: shared.clone() },
            output: AttachReceiver { shared, incoming, consumed: 0 },
        }
    }
}

struct Shared {
    container: Box<str>,
    outgoing: Outgoing<shim::AttachInput>,
    /// Bytes of stdin that the process has not taken.
    untaken: AtomicUsize,
    /// The stream has ended, or nobody receives any more.
    over: AtomicBool,
    /// Told when `untaken` shrinks or `over` is set.
    taken: Notify,
}

impl Shared {
    fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.taken.notify_waiters();
    }
}

/// Sends to a process; clones send to the same one. Somebody must receive meanwhile: how much stdin the process took
/// comes with its output.
#[derive(Clone)]
pub struct AttachSender {
    shared: Arc<Shared>,
}

impl AttachSender {
    /// Sends input; waits while the process does not read what was sent before. Cancel safe for all but long stdin.
    ///
    /// # Errors
    /// The process has ended, or the shim is gone.
    pub async fn send(&self, input: AttachInput) -> Result<()> {
        match input {
            AttachInput::Stdin(mut bytes) => {
                while !bytes.is_empty() {
                    let piece = bytes.split_to(bytes.len().min(limits::STDIN_MESSAGE));
                    self.room_for(piece.len()).await?;
                    self.send_one(&AttachInput::Stdin(piece)).await?;
                }
                Ok(())
            }
            other => self.send_one(&other).await,
        }
    }

    /// Waits until so many bytes fit into the window, and takes their place.
    async fn room_for(&self, length: usize) -> Result<()> {
        loop {
            let taken = self.shared.taken.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            if self.shared.over.load(Ordering::Acquire) {
                return Err(Error::AlreadyFinished {
                    container: self.shared.container.to_string(),
                    exec_id: String::new(),
                });
            }
            let fits = |untaken: usize| {
                let after = untaken + length;
                (untaken == 0 || after <= limits::STDIN_WINDOW).then_some(after)
            };
            if self.shared.untaken.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok() {
                return Ok(());
            }
            taken.await;
        }
    }

    async fn send_one(&self, input: &AttachInput) -> Result<()> {
        self.shared
            .outgoing
            .send(&wire::attach_input(input))
            .await
            .map_err(|failure| wire::failure(&self.shared.container, "sending stdin", &failure))
    }
}

/// Receives from a process.
pub struct AttachReceiver {
    shared: Arc<Shared>,
    incoming: Incoming<shim::AttachOutput>,
    /// Bytes taken of which the shim was not told.
    consumed: usize,
}

impl AttachReceiver {
    /// The next output; `None` after [`AttachOutput::Exited`]. An error is the last thing that comes. Cancel safe.
    pub async fn recv(&mut self) -> Option<Result<AttachOutput>> {
        std::future::poll_fn(|cx| self.poll_output(cx)).await
    }

    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<AttachOutput>>> {
        loop {
            if self.shared.over.load(Ordering::Acquire) {
                return Poll::Ready(None);
            }
            match std::task::ready!(self.incoming.poll_next(cx)) {
                None => {
                    self.shared.end();
                    return Poll::Ready(None);
                }
                Some(Err(failure)) => {
                    self.shared.end();
                    let error = wire::failure(&self.shared.container, "attach", &failure);
                    return Poll::Ready(Some(Err(error)));
                }
                Some(Ok(message)) => {
                    if let Some(output) = self.take(message) {
                        return Poll::Ready(Some(Ok(output)));
                    }
                }
            }
        }
    }

    /// `None` for what is between the daemon and the shim.
    fn take(&mut self, message: shim::AttachOutput) -> Option<AttachOutput> {
        Some(match message.what? {
            What::Stdout(bytes) => AttachOutput::Stdout(self.count(bytes)),
            What::Stderr(bytes) => AttachOutput::Stderr(self.count(bytes)),
            What::Exited(record) => AttachOutput::Exited(wire::exit(&record)),
            What::Attached(()) => AttachOutput::Attached,
            What::StdinTaken(count) => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                let less = |untaken: usize| Some(untaken.saturating_sub(count));
                let _ = self.shared.untaken.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
                self.shared.taken.notify_waiters();
                return None;
            }
        })
    }

    /// Opens the window again for what was taken.
    fn count(&mut self, bytes: Vec<u8>) -> Bytes {
        self.consumed += bytes.len();
        if self.consumed >= limits::ATTACH_WINDOW / 4 {
            let consumed = std::mem::take(&mut self.consumed) as u64;
            self.shared.outgoing.post(&shim::AttachInput { consumed, ..shim::AttachInput::default() });
        }
        bytes.into()
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
        if !self.shared.over.load(Ordering::Acquire) {
            self.shared.end();
            self.shared.outgoing.post(&shim::AttachInput { detach: true, ..shim::AttachInput::default() });
        }
    }
}
