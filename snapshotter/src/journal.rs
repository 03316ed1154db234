//! The journal: every change of a driver's state, one checksummed line each, in the order in which they happened.
//!
//! A line is the CRC-32 (IEEE) of the rest in eight hex digits, a blank, and a JSON list of changes, which happen together or not at all.
//! What always holds:
//! - An append is one write(2); when it fails, the file is cut back to where it was.
//! - A torn last line (power cut, full disk) is dropped at open: nothing in it was ever acknowledged as durable. A damaged line
//!   in the middle is skipped and reported, for it may have been.
//! - The file is replaced (by a copy of the living records: written, fsynced, renamed) when dead records outweigh them,
//!   and before the next append when a sync failed, because then nobody knows what of it is on the disk.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::record::Record;
use crate::{Error, Result};

const NAME: &str = "journal";
const NEXT_NAME: &str = "journal.new";
const FORMAT: u32 = 1;

/// Bytes that a list of changes may take, so that no client can bloat the journal with one label.
pub(crate) const MAX_LINE: usize = 1 << 20;

/// Blocks kept allocated behind the end, so that on a full disk snapshots can still be removed.
const SLACK: u64 = 64 << 10;

/// Step in which blocks are allocated ahead.
const STEP: u64 = 256 << 10;

/// Dead changes that are tolerated whatever the number of living ones.
const MIN_DEAD: usize = 4096;

/// One change.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Change {
    /// First line of every journal.
    Format(u32),
    /// No directory number below this one is given out again.
    Next(u64),
    /// The snapshot in directory `record.id` is now this.
    Put(#[serde(with = "shared")] Arc<Record>),
    /// The snapshot in this directory is gone.
    Delete(u64),
}

/// Whether an append may use up the blocks that are kept for removals.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Room {
    Spare,
    LastResort,
}

/// What was read at open.
pub(crate) struct Recovered {
    pub journal: Journal,
    pub changes: Vec<Change>,
    /// Lines in the middle of the file were damaged: some snapshots may be unknown now.
    pub damaged: bool,
}

pub(crate) struct Journal {
    root: Arc<OwnedFd>,
    path: PathBuf,
    file: Arc<File>,
    /// Length of what is valid.
    length: u64,
    /// How far blocks are known to be allocated.
    allocated: u64,
    /// Number of changes in the file, dead and living.
    changes: usize,
    /// Position in the history; grows with every append, whatever happens to the file.
    position: u64,
    suspect: bool,
}

impl Journal {
    /// Reads or creates the journal in the folder `root`, which `path` names in errors.
    pub fn open(root: Arc<OwnedFd>, path: &Path) -> Result<Recovered> {
        let path = path.join(NAME);
        match unlinkat(&*root, NEXT_NAME, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(Error::io("remove unfinished", path.with_file_name(NEXT_NAME))(e)),
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = openat(&*root, NAME, flags, Mode::from_raw_mode(0o600)).map_err(Error::io("open", &path))?;
        let mut file = File::from(fd);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io("read", &path))?;
        let parsed = parse(&bytes);
        if let Some(Change::Format(found)) = parsed.changes.first()
            && *found > FORMAT
        {
            return Err(Error::UnknownFormat { path, found: *found, known: FORMAT });
        }
        let torn = parsed.length < bytes.len() as u64;
        let journal = Self {
            root,
            path,
            file: Arc::new(file),
            length: parsed.length,
            allocated: parsed.length,
            changes: parsed.changes.len(),
            position: 0,
            // An empty or torn file is written anew before anything is added to it.
            suspect: torn || parsed.damaged || parsed.changes.is_empty(),
        };
        Ok(Recovered { journal, changes: parsed.changes, damaged: parsed.damaged })
    }

    /// Whether the file should be replaced, given how many snapshots live.
    pub fn wants_rewrite(&self, living: usize) -> bool {
        self.suspect || self.changes > 2 * living + MIN_DEAD
    }

    /// Position after the last append: what [`crate::durable::Syncer`] waits for.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The file as it is now, to be synced without holding the journal.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// A sync failed: what the file holds on disk is unknown.
    pub fn distrust(&mut self) {
        self.suspect = true;
    }

    /// Adds one line. On failure the file is as before.
    pub fn append(&mut self, changes: &[Change], room: Room) -> Result<u64> {
        let line = encode(changes).map_err(Error::io("encode a record of", &self.path))?;
        if room == Room::Spare {
            self.allocate(line.len() as u64)?;
        }
        if let Err(source) = (&*self.file).write_all(&line) {
            if self.file.set_len(self.length).is_err() {
                self.suspect = true;
            }
            return Err(Error::io("append to", &self.path)(source));
        }
        self.length += line.len() as u64;
        self.changes += changes.len();
        self.position += 1;
        Ok(self.position)
    }

    /// Sees to it that after `bytes` more there are still blocks for removals.
    fn allocate(&mut self, bytes: u64) -> Result<()> {
        if self.length + bytes + SLACK <= self.allocated {
            return Ok(());
        }
        let (from, length) = (self.length, bytes + SLACK + STEP);
        match rustix::fs::fallocate(&*self.file, FallocateFlags::KEEP_SIZE, from, length) {
            Ok(()) | Err(Errno::OPNOTSUPP) => self.allocated = from + length,
            Err(e) => return Err(Error::io("allocate room in", &self.path)(e)),
        }
        Ok(())
    }

    /// Replaces the file by one that holds only `living`, durably.
    pub fn rewrite(&mut self, next: u64, living: &[Arc<Record>]) -> Result<()> {
        let mut bytes = Vec::with_capacity(256 * (living.len() + 1));
        let head = [Change::Format(FORMAT), Change::Next(next)];
        bytes.extend(encode(&head).map_err(Error::io("encode", &self.path))?);
        for record in living {
            let line = encode(&[Change::Put(Arc::clone(record))]).map_err(Error::io("encode", &self.path))?;
            bytes.extend(line);
        }
        let temporary = self.path.with_file_name(NEXT_NAME);
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::TRUNC
            | OFlags::APPEND
            | OFlags::CLOEXEC
            | OFlags::NOFOLLOW;
        let fd = openat(&*self.root, NEXT_NAME, flags, Mode::from_raw_mode(0o600))
            .map_err(Error::io("create", &temporary))?;
        let mut file = File::from(fd);
        file.write_all(&bytes).map_err(Error::io("write", &temporary))?;
        file.sync_all().map_err(Error::io("sync", &temporary))?;
        renameat(&*self.root, NEXT_NAME, &*self.root, NAME).map_err(Error::io("rename", &temporary))?;
        self.file = Arc::new(file);
        self.length = bytes.len() as u64;
        self.allocated = self.length;
        self.changes = living.len() + head.len();
        self.position += 1;
        self.suspect = true; // until the folder, too, is on disk
        rustix::fs::fsync(&*self.root).map_err(Error::io("sync the folder of", &self.path))?;
        self.suspect = false;
        Ok(())
    }
}

struct Parsed {
    changes: Vec<Change>,
    length: u64,
    damaged: bool,
}

fn parse(bytes: &[u8]) -> Parsed {
    let mut parsed = Parsed { changes: Vec::new(), length: 0, damaged: false };
    let mut bad_before = false;
    let mut end = 0;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        end += line.len() as u64;
        match decode(line) {
            Some(changes) => {
                parsed.damaged |= bad_before;
                parsed.changes.extend(changes);
                parsed.length = end;
            }
            None => bad_before = true,
        }
    }
    parsed
}

fn encode(changes: &[Change]) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(320);
    line.extend_from_slice(b"00000000 ");
    serde_json::to_writer(&mut line, changes)?;
    let sum = crc32(&line[9..]);
    line[..8].copy_from_slice(format!("{sum:08x}").as_bytes());
    line.push(b'\n');
    Ok(line)
}

fn decode(line: &[u8]) -> Option<Vec<Change>> {
    let line = line.strip_suffix(b"\n")?;
    let (sum, rest) = (line.get(..8)?, line.get(9..)?);
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    if crc32(rest) != sum {
        return None;
    }
    serde_json::from_slice(rest).ok()
}

/// An `Arc<Record>` is written as the record itself.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::record::Record;

    pub fn serialize<S: Serializer>(record: &Arc<Record>, serializer: S) -> Result<S::Ok, S::Error> {
        record.as_ref().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Record>, D::Error> {
        Record::deserialize(deserializer).map(Arc::new)
    }
}

/// CRC-32 as in IEEE 802.3 and zlib.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut i = 0;
        while i < 256 {
            let mut value = i as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
                bit += 1;
            }
            table[i] = value;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |sum, byte| TABLE[((sum ^ u32::from(*byte)) & 0xff) as usize] ^ (sum >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_the_one_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_torn_last_line_is_dropped_and_a_damaged_one_reported() {
        let first = encode(&[Change::Format(1)]).unwrap();
        let second = encode(&[Change::Next(7)]).unwrap();
        let mut bytes = [first.clone(), second.clone()].concat();
        bytes.truncate(bytes.len() - 3);
        let parsed = parse(&bytes);
        assert_eq!((parsed.changes.len(), parsed.length, parsed.damaged), (1, first.len() as u64, false));

        let mut bytes = [first, second.clone(), second].concat();
        bytes[40] ^= 1;
        let parsed = parse(&bytes);
        assert_eq!((parsed.changes.len(), parsed.damaged), (2, true));
    }
}
