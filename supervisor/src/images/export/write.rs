//! Writes an archive's records as a tar stream.
//!
//! What always holds: what a blob's file has is hashed while it is written; a blob that is not what its name says ends the archive
//! before its end marker, so that no reader takes it for whole.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use bytes::Bytes;
use tar::{EntryType, Header};

use crate::content::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::images::archive::ArchiveError;

const BLOCK: u64 = 512;
const BUFFER: usize = 256 * 1024;

/// One entry of the archive.
pub struct Record {
    pub mode: u32,
    pub source: Source,
}

pub enum Source {
    Folder,
    Text(Bytes),
    Blob { digest: Digest, size: u64, file: PathBuf },
}

/// Writes all of them and the end marker. How many bytes there are.
pub fn write(records: &BTreeMap<String, Record>, mut out: impl Write) -> Result<u64> {
    let mut written = 0;
    for (name, record) in records {
        let (kind, size) = match &record.source {
            Source::Folder => (EntryType::Directory, 0),
            Source::Text(text) => (EntryType::Regular, text.len() as u64),
            Source::Blob { size, .. } => (EntryType::Regular, *size),
        };
        put(&mut out, header(name, kind, record.mode, size)?.as_bytes())?;
        match &record.source {
            Source::Folder => {}
            Source::Text(text) => put(&mut out, text)?,
            Source::Blob { digest, size, file } => blob(&mut out, digest, *size, file)?,
        }
        let padding = (BLOCK - size % BLOCK) % BLOCK;
        put(&mut out, &[0; BLOCK as usize][..padding as usize])?;
        written += BLOCK + size + padding;
    }
    put(&mut out, &[0; 2 * BLOCK as usize])?;
    out.flush().map_err(ArchiveError::Write)?;
    Ok(written + 2 * BLOCK)
}

fn put(out: &mut impl Write, bytes: &[u8]) -> Result<()> {
    Ok(out.write_all(bytes).map_err(ArchiveError::Write)?)
}

fn header(name: &str, kind: EntryType, mode: u32, size: u64) -> Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name).map_err(ArchiveError::Write)?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

fn blob(out: &mut impl Write, digest: &Digest, size: u64, path: &PathBuf) -> Result<()> {
    let failed = |source: io::Error| Error::io("reading blob", path, source);
    let mut file = File::open(path).map_err(failed)?.take(size);
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; BUFFER];
    let mut left = size;
    while left > 0 {
        let count = file.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            let why = format!("its file ends {left} bytes too soon; pull the image again");
            return Err(Error::Damaged { what: format!("blob {digest}"), why });
        }
        hasher.update(&buffer[..count]);
        put(out, &buffer[..count])?;
        left -= count as u64;
    }
    let got = hasher.digest();
    if got == *digest {
        return Ok(());
    }
    let why = format!("its file has the digest {got}; pull the image again");
    Err(Error::Damaged { what: format!("blob {digest}"), why })
}
