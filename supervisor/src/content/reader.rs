//! Reading a committed blob through one open file, which stays readable when the blob is deleted meanwhile.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::Digest;
use crate::error::{Error, Result};

#[derive(Clone, Debug)]
pub struct Blob {
    pub digest: Digest,
    pub size: u64,
    pub file: Arc<File>,
}

impl Blob {
    /// Up to `length` bytes from `offset`; fewer only at the end. Blocks.
    pub fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(left)];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|source| Error::io("reading blob", self.digest.as_str(), source))?;
        Ok(bytes)
    }

    /// Reads on from the beginning, on a thread that may block.
    pub fn into_reader(self) -> BlobReader {
        BlobReader { blob: self, position: 0 }
    }

    /// The whole blob, if it is at most `limit` bytes: manifests, configs.
    pub async fn read_all(&self, limit: u64) -> Result<Bytes> {
        if self.size > limit {
            return Err(Error::ResourceExhausted {
                what: format!("reading blob {} of {} bytes at once", self.digest, self.size),
                limit: "bytes of a manifest or config",
                max: limit,
            });
        }
        let blob = self.clone();
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let bytes = super::store::blocking(move || blob.read_at(0, size)).await?;
        Ok(bytes.into())
    }
}

/// See [`Blob::into_reader`].
pub struct BlobReader {
    blob: Blob,
    position: u64,
}

impl io::Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.blob.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}
