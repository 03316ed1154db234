//! Reads a log forward, block by block, across its rotations: a file that is rotated away under the reader is read
//! to its end first, by the descriptor that is held.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Query;
use super::cursor::Cursor;
use super::files::{self, Part};
use super::record::{self, Entry};
use crate::error::{Error, Result};

/// Bytes read at a time.
const BLOCK: usize = 64 << 10;

/// Longest record; what is longer was not written by a shim and is skipped.
const MAX_RECORD: usize = 64 << 10;

/// Bytes of a record that hold its fields.
const HEAD: usize = 96;

/// Some entries, and whether that was all for now.
#[derive(Debug)]
pub struct Batch {
    pub entries: Vec<Entry>,
    /// The place behind them.
    pub cursor: Option<Cursor>,
    pub state: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more to read.
    More,
    /// Everything written so far was read.
    CaughtUp,
    /// Nothing that comes can be wanted: it is later than `until`.
    Past,
}

/// A place in a log.
pub struct Reader {
    live: PathBuf,
    query: Query,
    part: Option<Part>,
    offset: u64,
    /// The beginning of a record whose end was not read yet.
    carry: Vec<u8>,
    skipping: bool,
}

impl Reader {
    /// Opens the log whose live file is `live` at the first line that `query` asks for. No file yet is an
    /// empty log.
    pub fn open(live: &Path, query: Query) -> Result<Reader> {
        let mut reader = Reader {
            live: live.to_owned(),
            query,
            part: None,
            offset: 0,
            carry: Vec::new(),
            skipping: false,
        };
        reader.seek().map_err(|source| Error::io("opening the log", live, source))?;
        Ok(reader)
    }

    fn seek(&mut self) -> io::Result<()> {
        let oldest = files::rotated(&self.live);
        if let Some(cursor) = self.query.after {
            // A file that was dropped meanwhile leaves the oldest one that there is.
            let found = files::locate(&self.live, cursor.identity);
            self.part = files::open(&self.live, found.unwrap_or(oldest))?;
            let same = self.part.as_ref().is_some_and(|part| part.identity == cursor.identity);
            self.offset = if same { cursor.offset } else { 0 };
            return Ok(());
        }
        match self.query.tail {
            Some(tail) => {
                let mut count = 0;
                for number in 0..=oldest {
                    let Some(part) = files::open(&self.live, number)? else { continue };
                    let found = scan_back(&part, tail, &mut count)?;
                    self.offset = found.unwrap_or(0);
                    self.part = Some(part);
                    if found.is_some() {
                        break;
                    }
                }
            }
            None => {
                for number in (0..=oldest).rev() {
                    let Some(part) = files::open(&self.live, number)? else { continue };
                    let too_old = self.query.since.is_some_and(|since| part.modified < since.as_second());
                    if number == 0 || !too_old {
                        self.part = Some(part);
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads on, at most one block.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let (entries, state) =
            self.read_block().map_err(|source| Error::io("reading the log", &self.live, source))?;
        Ok(Batch { entries, cursor: self.cursor(), state })
    }

    fn cursor(&self) -> Option<Cursor> {
        let identity = self.part.as_ref()?.identity;
        Some(Cursor { identity, offset: self.offset - self.carry.len() as u64 })
    }

    fn read_block(&mut self) -> io::Result<(Vec<Entry>, Progress)> {
        let mut entries = Vec::new();
        if self.part.is_none() {
            self.part = files::open(&self.live, 0)?;
            self.offset = 0;
        }
        let Some(part) = &self.part else { return Ok((entries, Progress::CaughtUp)) };
        let mut block = vec![0; BLOCK];
        let mut got = part.file.read_at(&mut block, self.offset)?;
        if got == 0 {
            if files::open(&self.live, 0)?.is_none_or(|live| live.identity == part.identity) {
                return Ok((entries, Progress::CaughtUp));
            }
            // It was rotated away: what was written between the read and the rotation comes first.
            got = part.file.read_at(&mut block, self.offset)?;
            if got == 0 {
                self.advance()?;
                return Ok((entries, Progress::More));
            }
        }
        self.offset += got as u64;
        let state = self.take(&block[..got], &mut entries);
        Ok((entries, state))
    }

    /// Goes to the next newer file.
    fn advance(&mut self) -> io::Result<()> {
        let at = self.part.as_ref().and_then(|part| files::locate(&self.live, part.identity));
        let next = match at {
            Some(0) => return Ok(()),
            Some(number) => number - 1,
            // So far behind that it was dropped: on with the oldest that is left.
            None => files::rotated(&self.live),
        };
        self.part = files::open(&self.live, next)?;
        self.offset = 0;
        self.carry.clear();
        self.skipping = false;
        Ok(())
    }

    fn take(&mut self, mut block: &[u8], entries: &mut Vec<Entry>) -> Progress {
        while let Some(end) = memchr::memchr(b'\n', block) {
            let (piece, rest) = (&block[..end], &block[end + 1..]);
            block = rest;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            let parsed = if self.carry.is_empty() {
                record::parse(piece)
            } else {
                self.carry.extend_from_slice(piece);
                let parsed = record::parse(&self.carry);
                self.carry.clear();
                parsed
            };
            let Some(entry) = parsed else { continue };
            if self.query.until.is_some_and(|until| entry.time > until) {
                return Progress::Past;
            }
            let wanted = self.query.streams.has(entry.stderr)
                && self.query.since.is_none_or(|since| entry.time >= since);
            if wanted {
                entries.push(entry);
            }
        }
        if !self.skipping {
            self.carry.extend_from_slice(block);
            if self.carry.len() > MAX_RECORD {
                self.carry.clear();
                self.skipping = true;
            }
        }
        Progress::More
    }
}

/// Looks from the end of a file for the beginning of the last `tail` lines; `count` are the lines seen in newer
/// files. `None` if the file does not hold that many.
fn scan_back(part: &Part, tail: u64, count: &mut u64) -> io::Result<Option<u64>> {
    if tail == 0 {
        return Ok(Some(part.size));
    }
    let mut end = part.size;
    // Where the record behind the one that is looked at begins, and the beginning of the block behind.
    let mut behind = part.size;
    let mut head: Vec<u8> = Vec::new();
    let mut first = true;
    while end > 0 {
        let begin = end.saturating_sub(BLOCK as u64);
        let length = usize::try_from(end - begin).unwrap_or(BLOCK);
        let mut block = vec![0; length];
        part.file.read_exact_at(&mut block, begin)?;
        block.extend_from_slice(&head);
        let mut limit = length;
        loop {
            let newline = memchr::memrchr(b'\n', &block[..limit]);
            let start = match newline {
                Some(at) => at + 1,
                None if begin == 0 => 0,
                None => break,
            };
            // The last newline ends the last record: nothing begins behind it.
            if begin + (start as u64) < part.size {
                let record = &block[start..block.len().min(start + HEAD)];
                let ends_line = record::head(record).is_some_and(|head| !head.partial);
                let unterminated = first && *count == 0 && !ends_line;
                if ends_line || unterminated {
                    *count += 1;
                    if *count > tail {
                        return Ok(Some(behind));
                    }
                }
                first = false;
                behind = begin + start as u64;
            }
            match newline {
                Some(at) => limit = at,
                None => break,
            }
        }
        block.truncate(HEAD);
        head = block;
        end = begin;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;
    use crate::engine::logs::Streams;

    fn record(number: usize, tag: &str, text: &str) -> String {
        let stream = if number.is_multiple_of(2) { "stdout" } else { "stderr" };
        format!("2026-01-02T03:04:05.{number:09}Z {stream} {tag} {text}\n")
    }

    fn read(live: &Path, query: Query) -> Vec<String> {
        let mut reader = Reader::open(live, query).unwrap();
        drain(&mut reader)
    }

    fn drain(reader: &mut Reader) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let batch = reader.next_batch().unwrap();
            lines.extend(batch.entries.iter().map(|e| String::from_utf8_lossy(&e.line).into_owned()));
            if batch.state != Progress::More {
                return lines;
            }
        }
    }

    fn tail(lines: u64) -> Query {
        Query { tail: Some(lines), ..Query::default() }
    }

    fn logs(dir: &Path, counts: &[usize]) -> PathBuf {
        let live = dir.join("log");
        let mut number = 0;
        for (age, &count) in (0..counts.len()).rev().zip(counts) {
            let mut text = String::new();
            for _ in 0..count {
                text.push_str(&record(number, "F", &format!("line {number}")));
                number += 1;
            }
            fs::write(files::numbered(&live, u32::try_from(age).unwrap()), text).unwrap();
        }
        live
    }

    #[test]
    fn all_files_oldest_first() {
        let dir = tempfile::tempdir().unwrap();
        let live = logs(dir.path(), &[3000, 2000, 10]);
        let lines = read(&live, Query::default());
        assert_eq!(lines.len(), 5010);
        assert!(lines.iter().enumerate().all(|(at, line)| *line == format!("line {at}\n")));
    }

    #[test]
    fn tail_across_blocks_and_files() {
        let dir = tempfile::tempdir().unwrap();
        let live = logs(dir.path(), &[3000, 2000, 10]);
        for wanted in [0, 1, 9, 10, 11, 1500, 2009, 2010, 2011, 5009, 5010, 9999] {
            let lines = read(&live, tail(wanted));
            let want = usize::try_from(wanted).unwrap().min(5010);
            assert_eq!(lines.len(), want, "tail {wanted}");
            assert_eq!(
                lines.first().cloned().unwrap_or_default(),
                match want {
                    0 => String::new(),
                    n => format!("line {}\n", 5010 - n),
                }
            );
        }
    }

    #[test]
    fn partial_records_count_as_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("log");
        let long = "x".repeat(16384);
        let text = record(0, "F", "a")
            + &record(2, "P", &long)
            + &record(4, "P", &long)
            + &record(6, "F", "end")
            + &record(8, "P", "no newline");
        fs::write(&live, text).unwrap();
        assert_eq!(read(&live, tail(1)), ["no newline"]);
        assert_eq!(read(&live, tail(2)).concat().len(), 16384 * 2 + 4 + 10);
        assert_eq!(read(&live, tail(3)).len(), 5);
    }

    #[test]
    fn a_rotation_under_the_reader_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("log");
        fs::write(&live, record(0, "F", "one")).unwrap();
        let mut reader = Reader::open(&live, Query::default()).unwrap();
        assert_eq!(drain(&mut reader), ["one\n"]);
        let mut old = fs::OpenOptions::new().append(true).open(&live).unwrap();
        old.write_all(record(2, "F", "two").as_bytes()).unwrap();
        fs::rename(&live, dir.path().join("log.1")).unwrap();
        fs::write(&live, record(4, "F", "three")).unwrap();
        assert_eq!(drain(&mut reader), ["two\n", "three\n"]);
        fs::rename(dir.path().join("log.1"), dir.path().join("log.2")).unwrap();
        fs::rename(&live, dir.path().join("log.1")).unwrap();
        fs::write(&live, record(6, "F", "four")).unwrap();
        assert_eq!(drain(&mut reader), ["four\n"]);
    }

    #[test]
    fn a_half_written_record_is_completed_later() {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("log");
        let whole = record(0, "F", "one");
        fs::write(&live, &whole[..30]).unwrap();
        let mut reader = Reader::open(&live, Query::default()).unwrap();
        assert!(drain(&mut reader).is_empty());
        let mut file = fs::OpenOptions::new().append(true).open(&live).unwrap();
        file.write_all(&whole.as_bytes()[30..]).unwrap();
        assert_eq!(drain(&mut reader), ["one\n"]);
    }

    #[test]
    fn since_until_and_streams() {
        let dir = tempfile::tempdir().unwrap();
        let live = logs(dir.path(), &[10]);
        let at = |nanos: u32| format!("2026-01-02T03:04:05.{nanos:09}Z").parse().unwrap();
        let query = Query {
            since: Some(at(3)),
            until: Some(at(6)),
            streams: Streams::Stderr,
            tail: None,
            after: None,
        };
        assert_eq!(read(&live, query), ["line 3\n", "line 5\n"]);
    }

    #[test]
    fn garbage_and_endless_lines_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("log");
        let text = record(0, "F", "a") + "garbage\n" + &"z".repeat(300_000) + "\n" + &record(2, "F", "b");
        fs::write(&live, text).unwrap();
        assert_eq!(read(&live, Query::default()), ["a\n", "b\n"]);
        assert!(read(&dir.path().join("none"), tail(3)).is_empty());
    }
}
