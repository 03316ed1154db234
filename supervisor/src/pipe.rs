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
            // Whoever reads on, reads that it is the end.
            self.pieces.close();
            self.patience = None;
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_twice(
        pieces: mpsc::Receiver<io::Result<Bytes>>,
    ) -> (io::Result<String>, io::Result<String>) {
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        let mut reader = Reader::patient(pieces, Duration::from_secs(10), late);
        let read = move || {
            let mut texts = [(); 2].map(|()| {
                let mut text = String::new();
                reader.read_to_string(&mut text).map(|_| text)
            });
            (
                std::mem::replace(&mut texts[0], Ok(String::new())),
                std::mem::replace(&mut texts[1], Ok(String::new())),
            )
        };
        tokio::task::spawn_blocking(read).await.unwrap()
    }

    #[tokio::test]
    async fn an_end_is_one_however_often_it_is_read() {
        let (sender, pieces) = mpsc::channel(4);
        for piece in ["whole", ""] {
            sender.send(Ok(Bytes::from(piece))).await.unwrap();
        }
        let (first, second) = read_twice(pieces).await;
        assert_eq!((first.unwrap().as_str(), second.unwrap().as_str()), ("whole", ""));
    }

    #[tokio::test]
    async fn a_sender_that_goes_away_is_no_end() {
        let (sender, pieces) = mpsc::channel(4);
        sender.send(Ok(Bytes::from("half"))).await.unwrap();
        drop(sender);
        let (first, _) = read_twice(pieces).await;
        assert!(first.unwrap_err().to_string().contains("gone away"));
    }
}
