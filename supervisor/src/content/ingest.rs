//! Ingests on disk: `ingest/<sha256 of namespace and reference>/` with `info` (JSON), `data`, and for data written in
//! parallel `ranges` (which parts are there).
//!
//! What always holds: what `ranges` claims was written to `data` before the claim; without `ranges`, all of
//! `data` is there. Nothing here is trusted before its digest was computed.

use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, Result};
use crate::filters::Adaptor;
use crate::namespaces::Namespace;

/// What is known of an ingest from its beginning.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IngestInfo {
    pub namespace: Namespace,
    pub reference: String,
    pub started_at: Timestamp,
    /// 0: not known.
    pub total: u64,
    pub expected: Option<Digest>,
}

/// An ingest as its namespace sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestStatus {
    pub reference: String,
    /// Bytes that are there from the beginning without a gap.
    pub offset: u64,
    /// Expected size in bytes; 0: not known.
    pub total: u64,
    pub expected: Option<Digest>,
    pub started_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Adaptor for IngestStatus {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["ref"] => Some(self.reference.clone()),
            _ => None,
        }
    }
}

/// The folder of one ingest.
#[derive(Clone, Debug)]
pub struct IngestDir(PathBuf);

impl IngestDir {
    pub fn of(ingests: &Path, namespace: &Namespace, reference: &str) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(namespace.as_str().as_bytes());
        hasher.update(b"\0");
        hasher.update(reference.as_bytes());
        Self(ingests.join(hasher.digest().digits()))
    }

    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    fn info(&self) -> PathBuf {
        self.0.join("info")
    }

    fn ranges(&self) -> PathBuf {
        self.0.join("ranges")
    }

    /// Makes the folder; what an earlier, unreadable one left is removed.
    pub fn create(&self, info: &IngestInfo) -> Result<File> {
        self.remove()?;
        let at = |source| Error::io("creating the ingest", &self.0, source);
        fs::create_dir(&self.0).map_err(at)?;
        let text = serde_json::to_vec(info).map_err(|source| at(source.into()))?;
        replace(&self.info(), &text)?;
        self.open_data()
    }

    pub fn open_data(&self) -> Result<File> {
        let path = self.data();
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| Error::io("opening the ingest's data", path, source))
    }

    /// `None` if there is no (usable) ingest.
    pub fn load(&self) -> Result<Option<IngestInfo>> {
        match fs::read(self.info()) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::io("reading the ingest", self.info(), source)),
        }
    }

    /// The parts that are there.
    pub fn load_ranges(&self) -> Result<Ranges> {
        let at = |source| Error::io("reading the ingest's parts", self.ranges(), source);
        let length = match fs::metadata(self.data()) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(source) => return Err(at(source)),
        };
        match fs::read_to_string(self.ranges()) {
            Ok(text) => Ok(Ranges::parse(&text, length)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Ranges::whole(length)),
            Err(source) => Err(at(source)),
        }
    }

    pub fn store_ranges(&self, ranges: &Ranges) -> Result<()> {
        replace(&self.ranges(), ranges.format().as_bytes())
    }

    pub fn has_ranges(&self) -> bool {
        self.ranges().exists()
    }

    /// When data was last written; `None` without data.
    pub fn updated_at(&self) -> Option<Timestamp> {
        let modified = fs::metadata(self.data()).and_then(|metadata| metadata.modified()).ok()?;
        Timestamp::try_from(modified).ok()
    }

    pub fn status(&self, info: &IngestInfo) -> Result<IngestStatus> {
        Ok(IngestStatus {
            reference: info.reference.clone(),
            offset: self.load_ranges()?.contiguous(),
            total: info.total,
            expected: info.expected.clone(),
            started_at: info.started_at,
            updated_at: self.updated_at().unwrap_or(info.started_at),
        })
    }

    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("removing the ingest", &self.0, source))
            }
            _ => Ok(()),
        }
    }
}

/// Writes a small file whole or not at all; survives a kill, not a power cut.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    let at = |source| Error::io("writing", &partial, source);
    File::create(&partial).and_then(|mut file| file.write_all(bytes)).map_err(at)?;
    fs::rename(&partial, path).map_err(at)
}

/// Which parts of a file are there: disjoint, ascending, joined where they touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(std::collections::BTreeMap<u64, u64>);

impl Ranges {
    pub fn whole(length: u64) -> Self {
        let mut ranges = Self::default();
        ranges.add(0..length);
        ranges
    }

    fn parse(text: &str, length: u64) -> Self {
        let mut ranges = Self::default();
        for line in text.lines() {
            if let Some((start, end)) = line.split_once(' ')
                && let (Ok(start), Ok(end)) = (start.parse::<u64>(), end.parse::<u64>())
            {
                ranges.add(start..end.min(length));
            }
        }
        ranges
    }

    fn format(&self) -> String {
        self.0.iter().map(|(start, end)| format!("{start} {end}\n")).collect()
    }

    pub fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        while let Some((&s, &e)) = self.0.range(..=end).next_back() {
            if e < start {
                break;
            }
            self.0.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        self.0.insert(start, end);
    }

    /// Forgets everything from `length` on.
    pub fn truncate(&mut self, length: u64) {
        self.0.split_off(&length);
        if let Some((_, end)) = self.0.iter_mut().next_back() {
            *end = (*end).min(length);
        }
    }

    /// How far it reaches from 0 without a gap.
    pub fn contiguous(&self) -> u64 {
        self.0.get(&0).copied().unwrap_or(0)
    }

    /// The end of the last part.
    pub fn end(&self) -> u64 {
        self.0.values().next_back().copied().unwrap_or(0)
    }

    /// The gaps up to `total`.
    pub fn missing(&self, total: u64) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        let mut at = 0;
        for (&start, &end) in &self.0 {
            if start >= total {
                break;
            }
            if start > at {
                missing.push(at..start);
            }
            at = end;
        }
        if at < total {
            missing.push(at..total);
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_and_leave_gaps() {
        let mut ranges = Ranges::default();
        for range in [10..20, 30..40, 0..5, 5..10] {
            ranges.add(range);
        }
        assert_eq!(ranges.contiguous(), 20);
        assert_eq!(ranges.missing(50), vec![20..30, 40..50]);
        assert_eq!(Ranges::parse(&ranges.format(), 35).missing(50), vec![20..30, 35..50]);
        ranges.add(15..35);
        assert_eq!((ranges.contiguous(), ranges.end()), (40, 40));
        ranges.truncate(7);
        assert_eq!(ranges, Ranges::whole(7));
    }
}
