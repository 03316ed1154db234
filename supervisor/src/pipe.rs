//! Bytes between requests, which must not block, and threads that read and write as if they were files.
//!
//! What always holds: a few pieces are on their way at most; whoever reads sees the other side's failure as an error, never as an end.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Pieces on their way.
const QUEUE: usize = 4;

/// Reads pieces; for a thread that may block.
pub struct Reader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    patience: Option<Patience>,
}

/// How long a reader waits for a piece, and what it says then.
struct Patience {
    runtime: Handle,
    bound: Duration,
    late: fn() -> io::Error,
}

impl Reader {
    /// What is sent is what is read; when the sender is dropped, that is the end.
    pub fn new() -> (mpsc::Sender<io::Result<Bytes>>, Reader) {
        let (sender, pieces) = mpsc::channel(QUEUE);
        (sender, Reader { pieces, current: Bytes::new(), patience: None })
    }

    /// Reads what a client sends, each piece within `bound`; otherwise the error is `late`. An empty piece is the end: a
    /// sender that is dropped before is a client that went away, and what came is not all. Called within the runtime.
    pub fn patient(
        pieces: mpsc::Receiver<io::Result<Bytes>>,
        bound: Duration,
        late: fn() -> io::Error,
    ) -> Reader {
        let patience = Patience { runtime: Handle::current(), bound, late };
        Reader { pieces, current: Bytes::new(), patience: Some(patience) }
    }

    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(Patience { runtime, bound, late }) = &self.patience else {
            return self.pieces.blocking_recv().transpose();
        };
        let next = async { tokio::time::timeout(*bound, self.pieces.recv()).await };
        let gone = || io::Error::new(io::ErrorKind::UnexpectedEof, "the client has gone away");
        let piece = runtime.block_on(next).map_err(|_| late())?.unwrap_or_else(|| Err(gone()))?;
        if piece.is_empty() {
            self.pieces.close();
            return Ok(None);
        }
        Ok(Some(piece))
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.next()? {
                Some(piece) => self.current = piece,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

/// Writes pieces; for a thread that may block.
pub struct Writer {
    pieces: mpsc::Sender<Bytes>,
    /// Of one piece at most, in bytes.
    piece: usize,
}

impl Writer {
    pub fn new(piece: usize) -> (Writer, mpsc::Receiver<Bytes>) {
        let (pieces, receiver) = mpsc::channel(QUEUE);
        (Writer { pieces, piece }, receiver)
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.piece);
        if count > 0 {
            let piece = Bytes::copy_from_slice(&bytes[..count]);
            let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone away");
            self.pieces.blocking_send(piece).map_err(|_| gone())?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
