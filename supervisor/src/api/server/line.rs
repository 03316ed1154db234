//! A connection's bytes: what is written during a turn leaves in one piece at its end.
//!
//! HTTP/2 writes every frame by itself; a system call and a waking of the peer for each is most of what a short answer costs.
//!
//! What always holds: no more than [`MAX_HELD`] bytes are held; beyond them they leave at once, and the writer waits if the
//! peer does not read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::listen::Connection;

/// Bytes that are held at most.
const MAX_HELD: usize = 64 * 1024;

struct Ends {
    connection: Connection,
    held: Vec<u8>,
    /// How many of them have left.
    left: usize,
}

/// The connection as HTTP/2 sees it. Its copies are the same connection.
#[derive(Clone)]
pub struct Line(Arc<Mutex<Ends>>);

impl Line {
    pub fn new(connection: Connection) -> Self {
        Self(Arc::new(Mutex::new(Ends { connection, held: Vec::new(), left: 0 })))
    }

    /// Lets what is held leave.
    pub fn poll_leave(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_leave(context)
    }

    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ends {
    fn poll_leave(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.left < self.held.len() {
            let rest = &self.held[self.left..];
            match ready!(Pin::new(&mut self.connection).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.left += count,
            }
        }
        // An idle connection holds no memory.
        (self.held, self.left) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Takes what there is room for; how much that was.
    fn take(&mut self, bytes: &[u8]) -> usize {
        if self.held.capacity() == 0 {
            self.held.reserve_exact(MAX_HELD);
        }
        let room = MAX_HELD.saturating_sub(self.held.len()).min(bytes.len());
        self.held.extend_from_slice(&bytes[..room]);
        room
    }

    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.len() < MAX_HELD { Poll::Ready(Ok(())) } else { self.poll_leave(context) }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().connection).poll_read(context, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut ends = self.lock();
        ready!(ends.poll_room(context))?;
        Poll::Ready(Ok(ends.take(bytes)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut ends = self.lock();
        ready!(ends.poll_room(context))?;
        let mut taken = 0;
        for slice in slices {
            let part = ends.take(slice);
            taken += part;
            if part < slice.len() {
                break;
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing: it is the end of the turn that lets bytes leave.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ends = self.lock();
        ready!(ends.poll_leave(context))?;
        Pin::new(&mut ends.connection).poll_shutdown(context)
    }
}
