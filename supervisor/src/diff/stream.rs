//! The layer's bytes on their way into content: hashed on one thread, compressed and written on another.
//!
//! What always holds: the diffID is of exactly the bytes that were compressed, the digest of exactly those that were written; the queue
//! between the threads is bounded; when one side stops, the other does.

use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::content::{Digest, Hasher, Parts};
use crate::error::{Error, Result};
use crate::images::unpack::Compression;

pub const BLOCK: usize = 512;
const CHUNK: usize = 256 * 1024;
const QUEUE: usize = 8;
const ZSTD_LEVEL: i32 = 3;

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Of the tar stream.
    pub diff_id: Digest,
    /// Of the blob.
    pub digest: Digest,
}

/// Takes pieces of the tar stream.
pub type Sink<'a> = dyn FnMut(Vec<u8>) -> Result<()> + 'a;

/// Where the tar stream goes.
pub struct Output<'a> {
    sink: Box<Sink<'a>>,
    buffer: Vec<u8>,
    /// Of what is to become a layer.
    hasher: Option<Hasher>,
    /// Bytes since the last block boundary.
    odd: usize,
    cancel: &'a AtomicBool,
}

impl Output<'_> {
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.odd = (self.odd + bytes.len()) % BLOCK;
        while !bytes.is_empty() {
            let count = bytes.len().min(CHUNK - self.buffer.len());
            self.buffer.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.buffer.len() == CHUNK {
                self.send()?;
            }
        }
        Ok(())
    }

    /// Fills the last block.
    pub fn pad(&mut self) -> Result<()> {
        let missing = (BLOCK - self.odd) % BLOCK;
        self.write(&[0; BLOCK][..missing])
    }

    fn send(&mut self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Error::Canceled { what: "making a layer".to_owned() });
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&chunk);
        }
        (self.sink)(chunk)
    }

    fn finish(mut self) -> Result<Option<Digest>> {
        self.write(&[0; 2 * BLOCK])?;
        self.send()?;
        Ok(self.hasher.as_ref().map(Hasher::digest))
    }
}

/// Runs `body`, which writes the entries, and hands the tar stream to `sink` in pieces. Blocks.
pub fn pour<'a>(
    sink: Box<Sink<'a>>,
    cancel: &'a AtomicBool,
    body: impl FnOnce(&mut Output<'a>) -> Result<()>,
) -> Result<()> {
    let mut output = Output { sink, buffer: Vec::with_capacity(CHUNK), hasher: None, odd: 0, cancel };
    body(&mut output)?;
    output.finish().map(drop)
}

/// Runs `body`, which writes the entries, and puts what they compress to into `parts`, from its beginning. Blocks.
pub fn run<T>(
    parts: &Parts,
    compression: Compression,
    cancel: &AtomicBool,
    body: impl FnOnce(&mut Output<'_>) -> Result<T>,
) -> Result<(T, Made)> {
    let (chunks, receiver) = sync_channel(QUEUE);
    thread::scope(|scope| {
        let writer = thread::Builder::new()
            .name("deflate".to_owned())
            .spawn_scoped(scope, || write(parts, compression, receiver))
            .map_err(|source| Error::io("starting a thread for", "a layer", source))?;
        let hasher = Hasher::new(crate::content::digest::Algorithm::Sha256);
        // The other side knows why it stopped; its error comes first.
        let lost = || Error::Lost { what: "compressing a layer" };
        let sink = Box::new(move |chunk| chunks.send(chunk).map_err(|_: SendError<Vec<u8>>| lost()));
        let mut output =
            Output { sink, buffer: Vec::with_capacity(CHUNK), hasher: Some(hasher), odd: 0, cancel };
        let made = body(&mut output).and_then(|value| {
            let diff_id = output.finish()?.ok_or(Error::Lost { what: "hashing a layer" })?;
            Ok((value, diff_id))
        });
        let written = writer.join().unwrap_or(Err(Error::Lost { what: "compressing a layer" }));
        match (made, written) {
            (Ok((value, diff_id)), Ok(digest)) => Ok((value, Made { diff_id, digest })),
            (Err(Error::Lost { .. }), Err(error)) | (Ok(_), Err(error)) => Err(error),
            (Err(error), _) => Err(error),
        }
    })
}

fn write(parts: &Parts, compression: Compression, chunks: Receiver<Vec<u8>>) -> Result<Digest> {
    let failure = Arc::new(Mutex::new(None));
    let hasher = Hasher::new(crate::content::digest::Algorithm::Sha256);
    let blob = Blob { parts: parts.clone(), offset: 0, hasher, failure: Arc::clone(&failure) };
    compress(BufWriter::with_capacity(CHUNK, blob), compression, chunks).map_err(|source| {
        let stored = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        stored.unwrap_or_else(|| Error::io("compressing", "a layer", source))
    })
}

fn compress(out: BufWriter<Blob>, compression: Compression, chunks: Receiver<Vec<u8>>) -> io::Result<Digest> {
    let out = match compression {
        Compression::Plain => {
            let mut out = out;
            chunks.iter().try_for_each(|chunk| out.write_all(&chunk))?;
            out
        }
        // No name and no time in its header, so that equal layers have equal digests.
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            chunks.iter().try_for_each(|chunk| encoder.write_all(&chunk))?;
            encoder.finish()?
        }
        Compression::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
            encoder.include_checksum(true)?;
            chunks.iter().try_for_each(|chunk| encoder.write_all(&chunk))?;
            encoder.finish()?
        }
    };
    Ok(out.into_inner().map_err(io::IntoInnerError::into_error)?.hasher.digest())
}

/// The ingest, written and hashed from the beginning.
struct Blob {
    parts: Parts,
    offset: u64,
    hasher: Hasher,
    /// What the store said, which an I/O error cannot carry.
    failure: Arc<Mutex<Option<Error>>>,
}

impl Write for Blob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.parts.write_at(self.offset, bytes) {
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            return Err(io::ErrorKind::Other.into());
        }
        self.hasher.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
