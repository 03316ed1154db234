//! Bytes between requests, which must not block, and threads that read and write as if they were files.
//!
//! What always holds: a few pieces are on their way at most; whoever reads sees the other side's failure as an error, never as an end.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};

use bytes::Bytes;
use tokio::sync::mpsc;

/// Pieces on their way.
const QUEUE: usize = 4;

/// Reads pieces; for a thread that may block.
pub struct Reader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Reader {
    /// What is sent is what is read; when the sender is dropped, that is the end.
    pub fn new() -> (mpsc::Sender<io::Result<Bytes>>, Reader) {
        let (sender, pieces) = mpsc::channel(QUEUE);
        (sender, Reader { pieces, current: Bytes::new() })
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
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
