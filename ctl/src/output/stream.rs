//! Streams of bytes between the daemon and what reads or writes files, which is done in a thread of its own: neither waits for the
//! other longer than a few pieces.

use std::io::{self, Read, Write};

use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::failure::Failure;

/// Pieces under way.
const QUEUE: usize = 8;
/// Bytes of a piece.
const PIECE: usize = 128 * 1024;

/// Hands what the daemon sends to `work`, which reads it in a thread. What the daemon says of a failure comes first.
pub async fn through<T>(
    mut messages: Streaming<T>,
    mut data: impl FnMut(T) -> Vec<u8>,
    work: impl FnOnce(Received) -> Result<(), Failure> + Send + 'static,
) -> Result<(), Failure> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let done = spawn(move || work(Received { receiver, piece: io::Cursor::default() }))?;
    let failed = loop {
        match messages.message().await {
            Ok(Some(message)) => {
                // An error: nobody reads on, and the result says why.
                if sender.send(Ok(data(message))).await.is_err() {
                    break None;
                }
            }
            Ok(None) => break None,
            Err(status) => {
                let _ = sender.send(Err(io::ErrorKind::BrokenPipe.into())).await;
                break Some(Failure::from(status));
            }
        }
    };
    drop(sender);
    let done =
        done.await.unwrap_or_else(|_| Err(Failure::message("the thread that wrote files ended early")));
    match failed {
        Some(failure) => Err(failure),
        None => done,
    }
}

/// Writes what the daemon sends to stdout; returns how many bytes there were.
pub async fn to_stdout<T>(
    mut messages: Streaming<T>,
    mut data: impl FnMut(T) -> Vec<u8>,
) -> Result<u64, Failure> {
    let mut count = 0;
    let mut out = io::stdout().lock();
    while let Some(message) = messages.message().await? {
        let bytes = data(message);
        out.write_all(&bytes)?;
        count += bytes.len() as u64;
    }
    out.flush()?;
    Ok(count)
}

/// What `work` writes in a thread becomes the stream of a request, after its first message.
pub fn upload<T: Send + 'static>(
    start: T,
    data: impl Fn(Vec<u8>) -> T + Send + 'static,
    work: impl FnOnce(Sending<T>) -> Result<(), Failure> + Send + 'static,
) -> (ReceiverStream<T>, Sent) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (told, done) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("files".to_owned()).spawn(move || {
        if sender.blocking_send(start).is_err() {
            return;
        }
        let count = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let sending = Sending { sender, data: Box::new(data), piece: Vec::new(), count: count.clone() };
        let outcome = work(sending).map(|()| count.load(std::sync::atomic::Ordering::Relaxed));
        // Nobody waits for it where the request has failed.
        let _ = told.send(outcome);
    });
    (ReceiverStream::new(receiver), Sent { done, spawned: spawned.is_ok() })
}

/// An upload's other end.
pub struct Sent {
    done: oneshot::Receiver<Result<u64, Failure>>,
    spawned: bool,
}

impl Sent {
    /// How many bytes were sent.
    pub async fn finish(self) -> Result<u64, Failure> {
        if !self.spawned {
            return Err(Failure::message("cannot start a thread to read files"));
        }
        self.done.await.unwrap_or_else(|_| Err(Failure::message("the daemon took no files")))
    }
}

fn spawn(
    work: impl FnOnce() -> Result<(), Failure> + Send + 'static,
) -> Result<oneshot::Receiver<Result<(), Failure>>, Failure> {
    let (told, done) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("files".to_owned()).spawn(move || {
        let _ = told.send(work());
    });
    spawned.map(|_| done).map_err(Failure::from)
}

/// What came, as a stream.
pub struct Received {
    receiver: mpsc::Receiver<io::Result<Vec<u8>>>,
    piece: io::Cursor<Vec<u8>>,
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.piece.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = io::Cursor::new(piece?),
                None => return Ok(0),
            }
        }
    }
}

/// Takes what is to be sent.
pub struct Sending<T> {
    sender: mpsc::Sender<T>,
    data: Box<dyn Fn(Vec<u8>) -> T + Send>,
    piece: Vec<u8>,
    count: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl<T> Write for Sending<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE - self.piece.len();
        let count = bytes.len().min(room);
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece);
        self.count.fetch_add(piece.len() as u64, std::sync::atomic::Ordering::Relaxed);
        self.sender.blocking_send((self.data)(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl<T> Drop for Sending<T> {
    fn drop(&mut self) {
        // The rest. Where it cannot be sent, the request's answer says why.
        let _ = self.flush();
    }
}
