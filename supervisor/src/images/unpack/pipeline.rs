//! Inflating on one thread, hashing and writing on another.
//!
//! What always holds: what the tar reader sees has been counted and hashed, in order; the buffers between the threads are
//! bounded; when one side stops, the other does.

#![forbid(unsafe_code)]

use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, Scope};

use sha2::{Digest, Sha256};

use super::archive::Input;
use super::compression::{self, Compression};
use super::error::UnpackError;

const BUFFER: usize = 256 * 1024;
const BUFFERS: usize = 8;

/// What an inflated layer may be.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Bytes.
    pub inflated: u64,
    /// For the message.
    pub compressed: u64,
}

struct Chunk {
    buffer: Vec<u8>,
    length: usize,
}

/// The inflated layer, as the tar reader takes it.
pub struct Inflated {
    chunks: Receiver<Result<Chunk, UnpackError>>,
    free: Sender<Vec<u8>>,
    current: Option<Chunk>,
    position: usize,
    hash: Sha256,
    size: u64,
}

impl Inflated {
    /// The diffID and the size, after all was read.
    pub fn finish(self) -> ([u8; 32], u64) {
        (self.hash.finalize().into(), self.size)
    }
}

impl Input for Inflated {
    fn chunk(&mut self) -> Result<&[u8], UnpackError> {
        let exhausted = self.current.as_ref().is_none_or(|chunk| self.position == chunk.length);
        if exhausted {
            if let Some(chunk) = self.current.take() {
                // The other side may be done already.
                let _ = self.free.send(chunk.buffer);
            }
            self.position = 0;
            match self.chunks.recv() {
                Ok(chunk) => {
                    let chunk = chunk?;
                    self.hash.update(&chunk.buffer[..chunk.length]);
                    self.size += chunk.length as u64;
                    self.current = Some(chunk);
                }
                Err(_) => return Ok(&[]), // All was sent.
            }
        }
        Ok(self.current.as_ref().map_or(&[], |chunk| &chunk.buffer[self.position..chunk.length]))
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
    }
}

/// Starts to inflate `source` on a thread of `scope`.
pub fn start<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    source: impl Read + Send + 'scope,
    declared: Compression,
    bound: Bound,
    cancel: &'scope AtomicBool,
) -> Result<Inflated, UnpackError> {
    let (chunk_sender, chunks) = sync_channel(BUFFERS);
    let (free, free_receiver) = channel();
    thread::Builder::new()
        .name("inflate".to_owned())
        .spawn_scoped(scope, move || {
            let failure = Mutex::new(None);
            let source = Watched { source, failure: &failure };
            if let Err(error) = inflate(source, declared, bound, cancel, &chunk_sender, &free_receiver) {
                // An error of the source is no fault of the stream.
                let error = match failure.lock().ok().and_then(|mut slot| slot.take()) {
                    Some(source) => UnpackError::Read(source),
                    None => error,
                };
                let _ = chunk_sender.send(Err(error));
            }
        })
        .map_err(UnpackError::Thread)?;
    Ok(Inflated { chunks, free, current: None, position: 0, hash: Sha256::new(), size: 0 })
}

fn inflate(
    source: impl Read + Send,
    declared: Compression,
    bound: Bound,
    cancel: &AtomicBool,
    chunks: &SyncSender<Result<Chunk, UnpackError>>,
    free: &Receiver<Vec<u8>>,
) -> Result<(), UnpackError> {
    let damaged = |format: Compression| move |source| UnpackError::Damaged { format: format.name(), source };
    let (mut inflater, actual) = compression::open(source, declared).map_err(damaged(declared))?;
    let mut size = 0u64;
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(UnpackError::Cancelled);
        }
        let mut buffer = free.try_recv().unwrap_or_else(|_| vec![0; BUFFER]);
        let length = fill(&mut inflater, &mut buffer).map_err(damaged(actual))?;
        if length == 0 {
            return Ok(());
        }
        size += length as u64;
        if size > bound.inflated {
            return Err(UnpackError::Bomb { limit: bound.inflated, compressed: bound.compressed });
        }
        if chunks.send(Ok(Chunk { buffer, length })).is_err() {
            return Ok(()); // The reader has stopped, and knows why.
        }
    }
}

fn fill(inflater: &mut compression::Inflater<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match inflater.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

// Keeps the source's own error, which decoders would pass on as if it were one of the data.
struct Watched<'a, R> {
    source: R,
    failure: &'a Mutex<Option<io::Error>>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.source.read(buffer) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                let kind = error.kind();
                if let Ok(mut slot) = self.failure.lock() {
                    *slot = Some(error);
                }
                Err(kind.into())
            }
            result => result,
        }
    }
}
