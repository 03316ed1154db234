//! Reads a tar stream entry by entry, with the GNU and PAX extensions that layers use.
//!
//! What always holds: an [`Entry`] has passed every rule that can be checked without looking at the destination: names,
//! numbers, sizes, sparse maps, types. Memory is bounded by [`MAX_EXTENSION`](super::MAX_EXTENSION) and the longest sparse map.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use tar::{EntryType, GnuExtSparseHeader, Header};

use super::error::{Rule, UnpackError};
use super::header::{self, BLOCK};
use super::names;
use super::pax::{self, Pax};
use super::sparse::{self, Map, OldMap, PaxMap};
use super::{Limits, MAX_EXTENSION};

/// A source of bytes that hands out what it has, so that file data is written without being copied once more.
pub trait Input {
    /// The next bytes; empty at the end.
    fn chunk(&mut self) -> Result<&[u8], UnpackError>;
    /// Takes that many bytes of the last chunk.
    fn consume(&mut self, count: usize);
}

/// One entry, checked.
#[derive(Debug)]
pub struct Entry {
    /// Components joined by `/`, without `.` and `..`; empty for the root.
    pub name: Vec<u8>,
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (u64, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug)]
pub enum Kind {
    File(Contents),
    Directory,
    Symlink(Vec<u8>),
    /// The target, as a checked name.
    HardLink(Vec<u8>),
    Device {
        character: bool,
        major: u32,
        minor: u32,
    },
    Fifo,
}

#[derive(Debug)]
pub struct Contents {
    /// Size of the file, holes included.
    pub size: u64,
    pub sparse: Option<Map>,
}

pub struct Archive<I> {
    input: I,
    limits: Limits,
    /// Bytes of the current entry's data that were not read yet, and of the padding after them.
    data: u64,
    padding: u64,
    entries: u64,
}

// What precedes an entry and belongs to it.
#[derive(Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

impl<I: Input> Archive<I> {
    pub fn new(input: I, limits: Limits) -> Archive<I> {
        Archive { input, limits, data: 0, padding: 0, entries: 0 }
    }

    /// The next entry, or `None` after the last. What was not read of the last one's data is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, UnpackError> {
        self.skip_rest()?;
        let mut extensions = Extensions::default();
        let mut pending = false;
        loop {
            let Some(block) = self.header(pending)? else { return Ok(None) };
            let header = Header::from_byte_slice(&block);
            let shown = header.path_bytes().into_owned();
            let refuse = |rule| UnpackError::refused(&shown, rule);
            header::check_sum(header).map_err(refuse)?;
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(refuse(Rule::TooManyEntries(self.limits.entries)));
            }
            let size = header::number(&header.as_old().size, "size").map_err(refuse)?;
            match header.entry_type() {
                EntryType::GNULongName => {
                    let body = self.extension(size, &shown)?;
                    store(&mut extensions.long_name, trim_nul(body)).map_err(refuse)?;
                }
                EntryType::GNULongLink => {
                    let body = self.extension(size, &shown)?;
                    store(&mut extensions.long_link, trim_nul(body)).map_err(refuse)?;
                }
                EntryType::XHeader => {
                    let body = self.extension(size, &shown)?;
                    store(&mut extensions.pax, pax::parse(&body).map_err(refuse)?).map_err(refuse)?;
                }
                EntryType::XGlobalHeader => {
                    let body = self.extension(size, &shown)?;
                    pax::check_global(&body).map_err(refuse)?;
                    continue;
                }
                _ => return self.entry(header, size, extensions, &shown).map(Some),
            }
            pending = true;
        }
    }

    /// Hands the current entry's data to `sink`, in pieces as they come.
    pub fn data(
        &mut self,
        mut length: u64,
        mut sink: impl FnMut(&[u8]) -> Result<(), UnpackError>,
    ) -> Result<(), UnpackError> {
        debug_assert!(length <= self.data);
        while length > 0 {
            let chunk = self.input.chunk()?;
            if chunk.is_empty() {
                return Err(UnpackError::Truncated { within: "a file" });
            }
            let count = chunk.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            sink(&chunk[..count])?;
            self.input.consume(count);
            self.data -= count as u64;
            length -= count as u64;
        }
        Ok(())
    }

    /// Takes a piece of what follows the archive's end; `false` at the end of the stream.
    pub fn drain(&mut self) -> Result<bool, UnpackError> {
        let count = self.input.chunk()?.len();
        self.input.consume(count);
        Ok(count > 0)
    }

    /// Reads to the end of the stream, so that all of it is hashed, and gives the input back.
    pub fn finish(mut self) -> Result<(I, u64), UnpackError> {
        loop {
            let count = self.input.chunk()?.len();
            if count == 0 {
                return Ok((self.input, self.entries));
            }
            self.input.consume(count);
        }
    }

    fn skip_rest(&mut self) -> Result<(), UnpackError> {
        let length = self.data;
        self.data(length, |_| Ok(()))?;
        // The archive may end without the padding of its last entry, as with other readers.
        while self.padding > 0 {
            let available = self.input.chunk()?.len() as u64;
            if available == 0 {
                break;
            }
            let count = available.min(self.padding);
            self.input.consume(count as usize);
            self.padding -= count;
        }
        Ok(())
    }

    // The next header block, or `None` at the end of the archive: two zero blocks, or the end of the stream.
    fn header(&mut self, pending: bool) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        let mut zeroes = 0;
        loop {
            let Some(block) = self.block()? else {
                return if pending {
                    Err(UnpackError::refused(b"", Rule::DanglingExtension))
                } else {
                    Ok(None)
                };
            };
            if block.iter().any(|&b| b != 0) {
                // Data after a single zero block is not the end: other readers refuse it as well.
                return if zeroes == 0 {
                    Ok(Some(block))
                } else {
                    Err(UnpackError::refused(b"", Rule::BadChecksum))
                };
            }
            zeroes += 1;
            if pending {
                return Err(UnpackError::refused(b"", Rule::DanglingExtension));
            }
            if zeroes == 2 {
                return Ok(None);
            }
        }
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let chunk = self.input.chunk()?;
            if chunk.is_empty() {
                return if filled == 0 {
                    Ok(None)
                } else {
                    Err(UnpackError::Truncated { within: "a header" })
                };
            }
            let count = chunk.len().min(BLOCK - filled);
            block[filled..filled + count].copy_from_slice(&chunk[..count]);
            self.input.consume(count);
            filled += count;
        }
        Ok(Some(block))
    }

    fn extension(&mut self, size: u64, shown: &[u8]) -> Result<Vec<u8>, UnpackError> {
        if size > MAX_EXTENSION {
            return Err(UnpackError::refused(shown, Rule::LargeExtension));
        }
        self.expect_data(size);
        let mut body = Vec::with_capacity(size as usize);
        self.data(size, |bytes| {
            body.extend_from_slice(bytes);
            Ok(())
        })?;
        self.skip_rest()?;
        Ok(body)
    }

    fn expect_data(&mut self, size: u64) {
        self.data = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn entry(
        &mut self,
        header: &Header,
        size: u64,
        extensions: Extensions,
        shown: &[u8],
    ) -> Result<Entry, UnpackError> {
        let pax = extensions.pax.unwrap_or_default();
        let raw_name = match (&pax.path, extensions.long_name, pax.sparse.get(&b"name"[..])) {
            (_, _, Some(name)) => name.clone(),
            (Some(path), Some(long), None) if *path != long => {
                return Err(UnpackError::refused(shown, Rule::ContradictoryPax("name")));
            }
            (Some(path), _, None) => path.clone(),
            (None, Some(long), None) => long,
            (None, None, None) => shown.to_vec(),
        };
        let refuse = |rule| UnpackError::refused(&raw_name, rule);
        let name = names::normalize(&raw_name, self.limits.depth).map_err(refuse)?;
        let size = entry_size(size, &pax).map_err(refuse)?;
        let link = match (&pax.link, extensions.long_link) {
            (Some(pax), Some(long)) if *pax != long => {
                return Err(refuse(Rule::ContradictoryPax("link target")));
            }
            (Some(pax), _) => pax.clone(),
            (None, Some(long)) => long,
            (None, None) => header.link_name_bytes().unwrap_or_default().into_owned(),
        };
        let mut entry = metadata(header, &pax, name).map_err(refuse)?;
        entry.kind = match header.entry_type() {
            EntryType::Regular if header.as_old().linkflag[0] == 0 && raw_name.ends_with(b"/") => {
                Kind::Directory
            }
            EntryType::Regular | EntryType::Continuous => {
                self.expect_data(size);
                self.contents(size, &pax, &raw_name)?
            }
            EntryType::GNUSparse => {
                let map = self.old_sparse(header, size, &raw_name)?;
                self.expect_data(size);
                Kind::File(Contents { size: map.size, sparse: Some(map) })
            }
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(names::symlink_target(link).map_err(refuse)?),
            EntryType::Link => {
                Kind::HardLink(names::hard_link_target(&link, self.limits.depth).map_err(refuse)?)
            }
            EntryType::Char => device(header, true).map_err(refuse)?,
            EntryType::Block => device(header, false).map_err(refuse)?,
            EntryType::Fifo => Kind::Fifo,
            other => return Err(refuse(Rule::UnknownType(char::from(other.as_byte())))),
        };
        entry.xattrs = pax.xattrs;
        for name in entry.xattrs.keys() {
            names::check_xattr(name).map_err(refuse)?;
        }
        Ok(entry)
    }

    fn contents(&mut self, size: u64, pax: &Pax, raw_name: &[u8]) -> Result<Kind, UnpackError> {
        let refuse = |rule| UnpackError::refused(raw_name, rule);
        let sparse = match sparse::from_pax(pax, size).map_err(refuse)? {
            PaxMap::None => return Ok(Kind::File(Contents { size, sparse: None })),
            PaxMap::Here(map) => map,
            PaxMap::InData(real) => sparse::from_data(real, size, || self.data_block()).map_err(
                |error: MapError| match error {
                    MapError::Rule(rule) => refuse(rule),
                    MapError::Read(error) => error,
                },
            )?,
        };
        Ok(Kind::File(Contents { size: sparse.size, sparse: Some(sparse) }))
    }

    fn data_block(&mut self) -> Result<[u8; BLOCK], MapError> {
        match self.block().map_err(MapError::Read)? {
            Some(block) => {
                self.data -= BLOCK as u64;
                Ok(block)
            }
            None => Err(MapError::Read(UnpackError::Truncated { within: "a sparse map" })),
        }
    }

    fn old_sparse(&mut self, header: &Header, size: u64, raw_name: &[u8]) -> Result<Map, UnpackError> {
        let refuse = |rule| UnpackError::refused(raw_name, rule);
        let gnu = header.as_gnu().ok_or_else(|| refuse(Rule::BadSparseMap))?;
        let mut map = OldMap::default();
        let mut more = map.header(gnu).map_err(refuse)?;
        while more {
            let block = self.block()?.ok_or(UnpackError::Truncated { within: "a sparse map" })?;
            let mut extension = GnuExtSparseHeader::new();
            extension.as_mut_bytes().copy_from_slice(&block);
            more = map.extension(&extension).map_err(refuse)?;
        }
        map.finish(size).map_err(refuse)
    }
}

enum MapError {
    Rule(Rule),
    Read(UnpackError),
}

impl From<Rule> for MapError {
    fn from(rule: Rule) -> MapError {
        MapError::Rule(rule)
    }
}

fn store<T>(slot: &mut Option<T>, value: T) -> Result<(), Rule> {
    match slot.replace(value) {
        Some(_) => Err(Rule::RepeatedExtension),
        None => Ok(()),
    }
}

fn trim_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

// The extended header's size counts where the plain one has no room for it; where it has, both must agree, or two readers
// would see different entries.
fn entry_size(plain: u64, pax: &Pax) -> Result<u64, Rule> {
    const ROOM: u64 = 0o77_777_777_777;
    let Some(extended) = &pax.size else { return Ok(plain) };
    let extended = header::decimal(extended, "size")?;
    if extended > i64::MAX as u64 {
        return Err(Rule::BadNumber("size"));
    }
    if extended <= ROOM && extended != plain { Err(Rule::ContradictoryPax("size")) } else { Ok(extended) }
}

fn metadata(header: &Header, pax: &Pax, name: Vec<u8>) -> Result<Entry, Rule> {
    let old = header.as_old();
    let uid = match &pax.uid {
        Some(text) => header::decimal(text, "owner")?,
        None => header::number(&old.uid, "owner")?,
    };
    let gid = match &pax.gid {
        Some(text) => header::decimal(text, "group")?,
        None => header::number(&old.gid, "group")?,
    };
    let mtime = match &pax.mtime {
        Some(text) => header::time(text)?,
        None => (header::checked_time(header::number(&old.mtime, "time")?)?, 0),
    };
    let mode = header::number(&old.mode, "mode")?;
    Ok(Entry {
        name,
        kind: Kind::Directory,
        mode: u32::try_from(mode & 0o7777).unwrap_or_default(),
        uid: header::id(uid, "owner")?,
        gid: header::id(gid, "group")?,
        mtime,
        xattrs: BTreeMap::new(),
    })
}

fn device(header: &Header, character: bool) -> Result<Kind, Rule> {
    const MAX_MAJOR: u64 = 0xfff;
    const MAX_MINOR: u64 = 0xf_ffff;
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
        (None, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
        (None, None) => return Err(Rule::BadNumber("device number")),
    };
    let (major, minor) = (header::number(major, "device number")?, header::number(minor, "device number")?);
    if major > MAX_MAJOR || minor > MAX_MINOR {
        return Err(Rule::BadNumber("device number"));
    }
    if character && major == 0 && minor == 0 {
        return Err(Rule::WhiteoutDevice);
    }
    Ok(Kind::Device { character, major: major as u32, minor: minor as u32 })
}
