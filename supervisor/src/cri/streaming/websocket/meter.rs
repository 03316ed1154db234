//! What a client has sent of a message that is not whole yet: more than a little of it counts against what all connections have.
//!
//! What always holds: a message that would take more than there is ends its own connection.

#![forbid(unsafe_code)]

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use crate::cri::streaming::budget::Share;
use crate::cri::streaming::limits;

/// Bytes of a client's frame besides what it says, if that is short.
const HEAD: usize = 6;

#[derive(Debug, Default)]
struct Unfinished {
    bytes: usize,
    held: Option<OwnedSemaphorePermit>,
}

/// Counts what is read.
#[derive(Clone, Debug)]
pub struct Meter {
    share: Share,
    unfinished: Arc<Mutex<Unfinished>>,
}

impl Meter {
    pub fn new(share: Share) -> Self {
        Self { share, unfinished: Arc::default() }
    }

    fn unfinished(&self) -> MutexGuard<'_, Unfinished> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, count: usize) -> io::Result<()> {
        let mut unfinished = self.unfinished();
        unfinished.bytes += count;
        let held = unfinished.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = unfinished.bytes.saturating_sub(limits::MESSAGE_FREE + held);
        if missing == 0 {
            return Ok(());
        }
        let full = || {
            io::Error::other("a long message, while those of others take all the memory there is for them")
        };
        // In steps, so that a long message does not ask at each of its reads.
        let more = self.share.try_common(missing.max(limits::PIECE)).ok_or_else(full)?;
        match &mut unfinished.held {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    /// A message was taken whole.
    pub fn taken(&self) {
        *self.unfinished() = Unfinished::default();
    }

    /// A ping or the like was answered, which may come amid a message's pieces.
    pub fn passed(&self, length: usize) {
        let mut unfinished = self.unfinished();
        unfinished.bytes = unfinished.bytes.saturating_sub(length + HEAD);
    }
}

/// A connection that is counted.
pub struct Metered<T> {
    pub io: T,
    pub meter: Meter,
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        Poll::Ready(self.meter.read(buf.filled().len() - before))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::streaming::budget::Budget;

    #[test]
    fn long_messages_are_bounded_for_all_and_pings_amid_them_do_not_hide_them() {
        let budget = Budget::default();
        let read_all = |meter: &Meter| {
            let mut read = 0;
            while meter.read(limits::PIECE).is_ok() {
                read += limits::PIECE;
                if meter.read(HEAD + 5).is_err() {
                    break;
                }
                meter.passed(5);
            }
            read
        };
        let first = Meter::new(budget.share());
        assert!(read_all(&first) <= limits::WAITING + limits::MESSAGE_FREE);
        let second = Meter::new(budget.share());
        assert!(read_all(&second) <= limits::MESSAGE_FREE);
        second.taken();
        assert!(second.read(limits::MESSAGE_FREE).is_ok());
        first.taken();
        assert!(second.read(limits::MESSAGE).is_ok());
    }
}
