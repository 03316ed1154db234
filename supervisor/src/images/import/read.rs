//! Reads an archive's files into the content store, in one pass.
//!
//! What always holds: what is read is bounded in number and size, and in what it may inflate to; a file whose name is a digest has
//! that digest; what was begun and not finished is dropped before this returns. The calls block.

#![forbid(unsafe_code)]

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::runtime::Handle;

use super::Files;
use crate::content::{CommitOptions, ContentStore, Digest, Hasher, WriterOptions};
use crate::error::{Error, Result};
use crate::images::archive::{ArchiveError, DOCKER_FILE, INDEX_FILE, LAYOUT_FILE};
use crate::images::fetch::MAX_MANIFEST;
use crate::images::unpack::archive::{Archive, Input, Kind};
use crate::images::unpack::{Compression, Limits, UnpackError, compression};
use crate::labels::Labels;
use crate::namespaces::Namespace;

/// Files of one archive: blobs, and the small files of legacy docker archives.
const MAX_FILES: usize = 64 * 1024;
const LEGACY_FILE: &str = "repositories";
/// Levels of folders.
const MAX_DEPTH: usize = 16;
const BUFFER: usize = 256 * 1024;

/// A file of the archive that is a blob now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub digest: Digest,
    pub size: u64,
}

/// Where files are put.
pub struct Target<'a> {
    pub content: &'a Arc<ContentStore>,
    pub namespace: &'a Namespace,
    pub lease: &'a str,
    pub runtime: Handle,
}

/// Whether the stream may be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// gzip or zstd, if it begins like that.
    Detected,
    /// A tar as it is.
    Plain,
}

/// Reads all of an archive.
pub fn read(source: impl Read + Send, form: Form, target: &Target<'_>) -> Result<Files> {
    let counter = Arc::new(AtomicU64::new(0));
    let counted = Counted { source, counter: counter.clone() };
    let inflated: Box<dyn Read + Send + '_> = match form {
        Form::Plain => Box::new(counted),
        Form::Detected => {
            let opened = compression::open(counted, Compression::Plain).map_err(ArchiveError::Read)?;
            opened.0
        }
    };
    let limits = Limits { entries: 4 * MAX_FILES as u64, depth: MAX_DEPTH, ..Limits::default() };
    let stream = Stream {
        source: inflated,
        compressed: counter,
        inflated: 0,
        limits,
        buffer: vec![0; BUFFER].into(),
        filled: 0,
        position: 0,
    };
    let archive = Archive::new(stream, limits);
    let mut reader = Reader { archive, target, files: Files::default(), number: 0 };
    reader.run()?;
    Ok(reader.files)
}

struct Counted<R> {
    source: R,
    counter: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.counter.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

// The inflated archive, with a bound on what comes out for what went in.
struct Stream<'a> {
    source: Box<dyn Read + Send + 'a>,
    compressed: Arc<AtomicU64>,
    inflated: u64,
    limits: Limits,
    buffer: Box<[u8]>,
    filled: usize,
    position: usize,
}

impl Input for Stream<'_> {
    fn chunk(&mut self) -> Result<&[u8], UnpackError> {
        while self.position == self.filled {
            match self.source.read(&mut self.buffer) {
                Ok(count) => {
                    (self.filled, self.position) = (count, 0);
                    self.inflated += count as u64;
                    let compressed = self.compressed.load(Ordering::Relaxed);
                    let bound = compressed.saturating_mul(self.limits.ratio).max(self.limits.ratio_from);
                    if self.inflated > bound.min(self.limits.total) {
                        return Err(UnpackError::Bomb { limit: bound, compressed });
                    }
                    if count == 0 {
                        return Ok(&[]);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(UnpackError::Read(error)),
            }
        }
        Ok(&self.buffer[self.position..self.filled])
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
    }
}

struct Reader<'a, 'b> {
    archive: Archive<Stream<'b>>,
    target: &'a Target<'a>,
    files: Files,
    number: usize,
}

impl Reader<'_, '_> {
    fn run(&mut self) -> Result<()> {
        loop {
            let entry = match self.archive.next_entry() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(error) => return Err(refuse(error)),
            };
            self.number += 1;
            if self.number > MAX_FILES {
                return Err(ArchiveError::ManyFiles(MAX_FILES).into());
            }
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            match entry.kind {
                Kind::File(contents) if contents.sparse.is_some() => {
                    return Err(ArchiveError::Sparse(name).into());
                }
                Kind::File(contents) => self.file(name, contents.size)?,
                Kind::Symlink(target) => {
                    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                    let target = resolve(folder, &String::from_utf8_lossy(&target));
                    self.files.links.insert(name, target);
                }
                Kind::HardLink(target) => {
                    self.files.links.insert(name, Some(String::from_utf8_lossy(&target).into_owned()));
                }
                // Nothing in an image's archive is any of these.
                Kind::Directory | Kind::Device { .. } | Kind::Fifo => {}
            }
        }
        // A stream that breaks off after the archive's end is seen, too.
        loop {
            match self.archive.drain() {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => return Err(refuse(error)),
            }
        }
    }

    fn file(&mut self, name: String, size: u64) -> Result<()> {
        let slot = match name.as_str() {
            LAYOUT_FILE => Some((LAYOUT_FILE, &mut self.files.layout)),
            INDEX_FILE => Some((INDEX_FILE, &mut self.files.index)),
            DOCKER_FILE => Some((DOCKER_FILE, &mut self.files.docker)),
            _ => None,
        };
        if let Some((file, slot)) = slot {
            let limit = MAX_MANIFEST as u64;
            if size > limit {
                return Err(ArchiveError::Large { file: file.to_owned(), size, limit }.into());
            }
            if slot.is_some() {
                return Err(ArchiveError::Twice(name).into());
            }
            let mut bytes = Vec::with_capacity(size as usize);
            let read = self.archive.data(size, |piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            });
            read.map_err(refuse)?;
            *slot = Some(Bytes::from(bytes));
            return Ok(());
        }
        if is_legacy(&name) {
            self.files.legacy |= name == LEGACY_FILE;
            return self.archive.data(size, |_| Ok(())).map_err(refuse);
        }
        let file = self.blob(&name, size)?;
        match self.files.blobs.insert(name.clone(), file.clone()) {
            Some(before) if before != file => Err(ArchiveError::Twice(name).into()),
            _ => Ok(()),
        }
    }

    fn blob(&mut self, name: &str, size: u64) -> Result<File> {
        let expected = digest_in(name);
        let Target { content, namespace, lease, runtime } = self.target;
        if let Some(digest) = &expected
            && runtime.block_on(content.claim(namespace, digest, Some(lease)))?
            && content.info(namespace, digest)?.size == size
        {
            // It is here: what the archive has for it is not needed.
            let skipped = self.archive.data(size, |_| Ok(()));
            skipped.map_err(refuse)?;
            return Ok(File { digest: digest.clone(), size });
        }
        let options = WriterOptions {
            namespace: (*namespace).clone(),
            reference: format!("import-{lease}-{}", self.number),
            total: size,
            expected: None,
            lease: Some((*lease).to_owned()),
        };
        let writer = runtime.block_on(content.writer(options))?;
        let parts = writer.parts();
        let algorithm =
            expected.as_ref().map_or(crate::content::digest::Algorithm::Sha256, Digest::algorithm);
        let mut hasher = Hasher::new(algorithm);
        let (mut at, mut failed) = (0, None);
        let read = self.archive.data(size, |piece| {
            hasher.update(piece);
            match parts.write_at(at, piece) {
                Ok(()) => {
                    at += piece.len() as u64;
                    Ok(())
                }
                Err(error) => {
                    failed = Some(error);
                    Err(UnpackError::Cancelled)
                }
            }
        });
        let digest = hasher.digest();
        let wrong = expected.filter(|expected| *expected != digest);
        let error = match (failed, read, wrong) {
            (Some(error), _, _) => Some(error),
            (None, Err(error), _) => Some(refuse(error)),
            (None, Ok(()), Some(_)) => {
                Some(ArchiveError::Misnamed { file: name.to_owned(), got: digest.clone() }.into())
            }
            (None, Ok(()), None) => None,
        };
        if let Some(error) = error {
            runtime.block_on(writer.abort())?;
            return Err(error);
        }
        let options = CommitOptions {
            size: Some(size),
            hashed: Some(digest.clone()),
            labels: Labels::new(),
            ..Default::default()
        };
        match runtime.block_on(writer.commit(options)) {
            Ok(_) => {}
            Err(error) if error.is_already_exists() => {
                runtime.block_on(content.claim(namespace, &digest, Some(lease)))?;
            }
            Err(error) => return Err(error),
        }
        Ok(File { digest, size })
    }
}

fn refuse(error: UnpackError) -> Error {
    match error {
        UnpackError::Bomb { limit, compressed } => ArchiveError::Bomb { inflated: limit, compressed }.into(),
        UnpackError::Read(error) => ArchiveError::Read(error).into(),
        error => ArchiveError::Tar(error).into(),
    }
}

// Files of docker archives that nothing refers to.
fn is_legacy(name: &str) -> bool {
    name == LEGACY_FILE || matches!(name.rsplit_once('/'), Some((_, "VERSION" | "json")))
}

// `blobs/ALGORITHM/HEX` of an OCI layout.
fn digest_in(name: &str) -> Option<Digest> {
    let (algorithm, digits) = name.strip_prefix("blobs/")?.split_once('/')?;
    Digest::parse(&format!("{algorithm}:{digits}")).ok()
}

// A link's target as a name in the archive; `None` if it leads out of it.
fn resolve(folder: &str, target: &str) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

impl Files {
    /// The blob of a file, through links; `by` is what names it.
    pub fn find(&self, what: &'static str, name: &str, by: &str) -> Result<File, ArchiveError> {
        const LINKS: usize = 8;
        let clean = name.strip_prefix("./").unwrap_or(name).to_owned();
        let mut at = clean.clone();
        for _ in 0..LINKS {
            if let Some(file) = self.blobs.get(&at) {
                return Ok(file.clone());
            }
            match self.links.get(&at) {
                Some(Some(target)) => at.clone_from(target),
                Some(None) => {
                    return Err(ArchiveError::Link { name: at, target: "somewhere else".to_owned() });
                }
                None if at != clean => return Err(ArchiveError::Link { name: clean, target: at }),
                None => break,
            }
        }
        Err(ArchiveError::Missing { what, name: name.chars().take(200).collect(), by: by.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_in_the_archive() {
        assert_eq!(resolve("abc", "../def/layer.tar").as_deref(), Some("def/layer.tar"));
        assert_eq!(resolve("abc", "layer.tar").as_deref(), Some("abc/layer.tar"));
        assert_eq!(resolve("", "./x").as_deref(), Some("x"));
        assert_eq!(resolve("abc", "../../etc/passwd"), None);
        assert_eq!(resolve("abc", "/etc/passwd"), None);
    }

    #[test]
    fn names_of_blobs_are_digests() {
        let digest = Digest::of(b"x");
        assert_eq!(digest_in(&format!("blobs/sha256/{}", digest.digits())), Some(digest));
        assert_eq!(digest_in("blobs/sha256/../x"), None);
        assert_eq!(digest_in("blobs/md5/x"), None);
    }
}
