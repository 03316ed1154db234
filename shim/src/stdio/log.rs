//! The log: CRI's text format (`RFC3339Nano stdout|stderr P|F text`), one file for both streams, which rotates by itself or
//! is opened anew when somebody has renamed it.
//!
//! What always holds: every byte of output is in exactly one record; a record is never split over two files; a
//! line without its end is a `P` record; what a full disk refused is kept and tried again, and meanwhile
//! [`Log::is_blocked`] keeps more output from being read, unless the log was asked to drop it.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::error::{Error, Result};
use crate::limits;
use crate::poll::Stream;
use crate::stdio::compress::{name as compressed, start as start_compressing};
use crate::stdio::uri::{LogTarget, Rotation};

/// An open log.
pub struct Log {
    target: LogTarget,
    file: File,
    /// Bytes that the current file will have when everything in the last batch is written.
    planned: u64,
    /// Records to be written; between two batches the file changes.
    batches: VecDeque<Vec<u8>>,
    /// The file that was opened anew, if a batch that is not written yet still belongs to the one before.
    next: Option<File>,
    /// What of the first batch is written.
    written: usize,
    partial: [Vec<u8>; 2],
    /// The process that compresses the file that was rotated away last.
    compressor: Option<i32>,
}

impl Log {
    /// Opens or makes the file, and goes on where it ends.
    pub fn open(target: LogTarget) -> Result<Self> {
        let failed = |source| Error::Io { doing: "open log", path: target.path.clone(), source };
        let file = open(&target).map_err(failed)?;
        let planned = file.metadata().map_err(failed)?.len();
        let partial = [Vec::new(), Vec::new()];
        let batches = VecDeque::new();
        Ok(Self { target, file, planned, batches, next: None, written: 0, partial, compressor: None })
    }

    /// Opens the file anew and goes on there: with the next record, if one is half written that the disk has refused.
    pub fn reopen(&mut self) -> Result<()> {
        if self.target.rotation != Rotation::Caller {
            let why = "the log rotates by itself; name it as cri:// to rotate it from outside".to_owned();
            return Err(Error::BadField { field: "stdout", why });
        }
        let path = &self.target.path;
        let file = open(&self.target).map_err(|source| Error::Io {
            doing: "open log",
            path: path.clone(),
            source,
        })?;
        self.flush();
        if self.batches.is_empty() {
            self.file = file;
        } else if self.next.replace(file).is_none() {
            self.batches.push_back(Vec::new());
        }
        Ok(())
    }

    /// Takes over output and writes every line that is whole.
    pub fn append(&mut self, stream: Stream, mut bytes: &[u8], now: SystemTime) {
        let stamp = Stamp::new(now);
        while !bytes.is_empty() {
            let held = self.partial[stream as usize].len();
            // One byte more than fits: a newline right behind the longest line belongs to it.
            let reach = (limits::LOG_LINE + 1 - held).min(bytes.len());
            let window = bytes.get(..reach).unwrap_or_default();
            if let Some(end) = memchr::memchr(b'\n', window) {
                self.record(stream, &stamp, b'F', window.get(..end).unwrap_or_default());
                bytes = bytes.get(end + 1..).unwrap_or_default();
            } else if held + reach > limits::LOG_LINE {
                self.record(stream, &stamp, b'P', window.get(..reach - 1).unwrap_or_default());
                bytes = bytes.get(reach - 1..).unwrap_or_default();
            } else {
                self.partial[stream as usize].extend_from_slice(window);
                bytes = bytes.get(reach..).unwrap_or_default();
            }
        }
        self.flush();
    }

    /// At the end of a stream: what is left of a line without its end.
    pub fn finish(&mut self, stream: Stream, now: SystemTime) {
        if !self.partial[stream as usize].is_empty() {
            self.record(stream, &Stamp::new(now), b'P', &[]);
        }
        self.flush();
    }

    /// Whether records wait here that the disk has refused.
    pub fn is_waiting(&self) -> bool {
        !self.batches.is_empty()
    }

    /// Whether they keep more output from being read.
    pub fn is_blocked(&self) -> bool {
        self.is_waiting() && self.target.buffer.is_none()
    }

    /// A child has ended: whether it was the compressor. What waited for it is written.
    pub fn child_ended(&mut self, pid: i32) -> bool {
        let was = self.compressor.take_if(|compressor| *compressor == pid).is_some();
        if was {
            self.flush();
        }
        was
    }

    /// Gives memory back.
    pub fn shrink(&mut self) {
        self.partial.iter_mut().for_each(Vec::shrink_to_fit);
        self.batches.shrink_to_fit();
    }

    /// Tries to write what waits.
    pub fn flush(&mut self) {
        while let Some(batch) = self.batches.front() {
            let rest = batch.get(self.written..).unwrap_or_default();
            if rest.is_empty() {
                if self.batches.len() > 1 && self.compressor.is_some() {
                    // The next file would push away the one that is being compressed.
                    return;
                }
                self.written = 0;
                self.batches.pop_front();
                if !self.batches.is_empty() {
                    self.rotate();
                }
                continue;
            }
            match self.file.write(rest) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A full disk or a failing one: kept, and tried again by a timer.
                Err(_) => return,
            }
        }
    }

    fn record(&mut self, stream: Stream, stamp: &Stamp, tag: u8, tail: &[u8]) {
        let name: &[u8] = match stream {
            Stream::Stdout => b" stdout ",
            Stream::Stderr => b" stderr ",
        };
        let partial = &mut self.partial[stream as usize];
        if let Some(limit) = self.target.buffer {
            let waiting = self.batches.iter().map(Vec::len).sum::<usize>() - self.written;
            if waiting as u64 > limit {
                partial.clear();
                return;
            }
        }
        let length = (stamp.0.len() + name.len() + 3 + partial.len() + tail.len()) as u64;
        let full = match self.target.rotation {
            Rotation::Own { max_size, .. } => {
                self.planned > 0 && self.planned.saturating_add(length) > max_size
            }
            Rotation::Caller => false,
        };
        if full {
            self.planned = 0;
        }
        if full && self.batches.is_empty() {
            self.batches.push_back(Vec::new());
        }
        if full || self.batches.is_empty() {
            self.batches.push_back(Vec::new());
        }
        self.planned += length;
        let Some(batch) = self.batches.back_mut() else { return };
        batch.extend_from_slice(&stamp.0);
        batch.extend_from_slice(name);
        batch.extend_from_slice(&[tag, b' ']);
        batch.append(partial);
        batch.extend_from_slice(tail);
        batch.push(b'\n');
    }

    /// Changes to the next file.
    fn rotate(&mut self) {
        match self.target.rotation {
            Rotation::Caller => {
                if let Some(file) = self.next.take() {
                    self.file = file;
                }
            }
            Rotation::Own { max_files, compress, .. } => self.move_on(max_files, compress),
        }
    }

    /// Moves every file one place on. If that cannot be done the current file grows on: nothing is lost.
    fn move_on(&mut self, max_files: u32, compress: bool) {
        let path = &self.target.path;
        if max_files == 1 {
            // A new file and not the old one made empty: who reads along would not see that, and could read half a record.
            let _ = fs::remove_file(path);
            if let Ok(file) = open(&self.target) {
                self.file = file;
            }
            return;
        }
        if compress {
            // A file is there in one of two forms: the other must not stay behind as another one's.
            let last = max_files - 1;
            let _ = fs::remove_file(numbered(path, last));
            let _ = fs::remove_file(compressed(&numbered(path, last)));
        }
        for number in (1..max_files - 1).rev() {
            let (from, to) = (numbered(path, number), numbered(path, number + 1));
            let _ = fs::rename(&from, &to);
            if compress {
                let _ = fs::rename(compressed(&from), compressed(&to));
            }
        }
        if fs::rename(path, numbered(path, 1)).is_ok()
            && let Ok(file) = open(&self.target)
        {
            self.file = file;
            if compress {
                self.compressor = start_compressing(&numbered(path, 1));
            }
        }
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// No link leads elsewhere in those parts of the path that somebody else may write to. A FIFO in its place would be waited for,
/// and the shim waits for nobody.
fn open(target: &LogTarget) -> io::Result<File> {
    let above = target.path.ancestors().nth(target.depth).unwrap_or(Path::new("/"));
    let below = target.path.strip_prefix(above).unwrap_or(&target.path);
    let folder = rustix::fs::open(above, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = File::from(openat2(&folder, below, flags, Mode::from_raw_mode(0o640), resolve)?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

/// A point in time as `2006-01-02T15:04:05.000000000Z`.
pub struct Stamp([u8; 30]);

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}

impl Stamp {
    pub fn new(now: SystemTime) -> Self {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (year, month, day) = civil(since.as_secs() / 86_400);
        let seconds = since.as_secs() % 86_400;
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        let mut put = |end: usize, digits: usize, mut value: u64| {
            for at in (end - digits..end).rev() {
                text[at] = b'0' + (value % 10) as u8;
                value /= 10;
            }
        };
        put(4, 4, year);
        put(7, 2, month);
        put(10, 2, day);
        put(13, 2, seconds / 3600);
        put(16, 2, seconds / 60 % 60);
        put(19, 2, seconds % 60);
        put(29, 9, since.subsec_nanos().into());
        Self(text)
    }
}

/// Year, month and day of a number of days since 1970, by the era method (400 years have 146097 days).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
