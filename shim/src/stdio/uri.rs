//! What the three stdio strings of a request mean. Pure text: nothing is opened here.
//!
//! Empty: `/dev/null`. A plain absolute path or `fifo://`: a FIFO, or an existing file that is appended to.
//! `file://`: one file for both output streams. `log://`: the rotating log, for both output streams. `cri://`: the same without
//! rotation, which is somebody else's. `binary://`: a program that gets both, with the query as its arguments.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::limits;

/// More parts than a path has.
const MAX_DEPTH: usize = 4096;

/// Where a stream comes from or goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Null,
    Fifo(PathBuf),
    File(PathBuf),
    Log(LogTarget),
    Logger(LoggerTarget),
}

/// The program of a `binary://` URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggerTarget {
    pub program: PathBuf,
    /// Of each pair of the query its key and its value, in this order; of a repeated key the first.
    pub args: Vec<OsString>,
}

/// The log of a `log://` or `cri://` URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTarget {
    pub path: PathBuf,
    pub rotation: Rotation,
    /// So many bytes are kept of what a disk refuses, and what comes then is dropped. `None`: the process waits for the disk.
    pub buffer: Option<u64>,
    /// How many of the path's last parts may be no links: all those that somebody else may write to. At least 1.
    pub depth: usize,
}

/// Who begins a new file when a log has grown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// The log itself.
    Own {
        /// A record that would make the file longer than so many bytes goes to the next one.
        max_size: u64,
        /// Files that are kept, the current one included; at least 1.
        max_files: u32,
        /// Whether files are compressed once they are rotated away.
        compress: bool,
    },
    /// The caller: it renames the file and has the log opened anew.
    Caller,
}

/// Reads one stdio string; `field` is its name, for the error.
pub fn parse(field: &'static str, value: &str) -> Result<Target> {
    if value.is_empty() {
        return Ok(Target::Null);
    }
    let Some((scheme, rest)) = value.split_once("://") else {
        return Ok(Target::Fifo(absolute(field, value.into())?));
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = || absolute(field, decode(path));
    match scheme {
        "fifo" => Ok(Target::Fifo(path()?)),
        "file" => Ok(Target::File(path()?)),
        "log" => log(field, path()?, query).map(Target::Log),
        "cri" => {
            let depth = depth(field, query)?;
            Ok(Target::Log(LogTarget { path: path()?, rotation: Rotation::Caller, buffer: None, depth }))
        }
        "binary" => Ok(Target::Logger(LoggerTarget { program: path()?, args: arguments(field, query)? })),
        _ => Err(Error::BadField {
            field,
            why: format!("{value:?} has an unknown scheme; known are fifo, file, binary, cri and log"),
        }),
    }
}

fn arguments(field: &'static str, query: &str) -> Result<Vec<OsString>> {
    let mut args: Vec<OsString> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")));
        if [&key, &value].iter().any(|text| text.as_encoded_bytes().contains(&0)) {
            return Err(Error::BadField { field, why: format!("{pair:?} contains a NUL byte") });
        }
        if !args.iter().step_by(2).any(|known| *known == key) {
            args.extend([key, value]);
        }
    }
    Ok(args)
}

/// The one option of a `cri://` URI.
fn depth(field: &'static str, query: &str) -> Result<usize> {
    let bad = || Error::BadField {
        field,
        why: format!(
            "{query:?} in a cri URI: known is depth, 1 to {MAX_DEPTH}: the last parts of the path that are no links"
        ),
    };
    match query.strip_prefix("depth=") {
        None if query.is_empty() => Ok(1),
        Some(number) => number.parse().ok().filter(|depth| (1..=MAX_DEPTH).contains(depth)).ok_or_else(bad),
        None => Err(bad()),
    }
}

fn log(field: &'static str, path: PathBuf, query: &str) -> Result<LogTarget> {
    let (mut max_size, mut max_files) = (limits::LOG_SIZE, limits::LOG_FILES);
    let (mut compress, mut buffer) = (false, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let bad = |why: &str| Error::BadField { field, why: format!("{pair:?} in a log URI: {why}") };
        match key {
            "max-size" => {
                max_size = value.parse().map_err(|_| bad("not a number of bytes"))?;
                if max_size == 0 {
                    return Err(bad("must be at least 1"));
                }
            }
            "max-files" => {
                max_files = value.parse().map_err(|_| bad("not a number of files"))?;
                if !(1..=1000).contains(&max_files) {
                    return Err(bad("must be 1 to 1000"));
                }
            }
            "compress" => {
                compress = value.parse().map_err(|_| bad("must be true or false"))?;
            }
            "buffer" => {
                let bytes = value.parse().map_err(|_| bad("not a number of bytes"))?;
                if !(1..=limits::LOG_BUFFER).contains(&bytes) {
                    return Err(bad("must be 1 to 67108864"));
                }
                buffer = Some(bytes);
            }
            _ => return Err(bad("known are max-size, max-files, compress and buffer")),
        }
    }
    Ok(LogTarget { path, rotation: Rotation::Own { max_size, max_files, compress }, buffer, depth: 1 })
}

fn absolute(field: &'static str, path: OsString) -> Result<PathBuf> {
    if Path::new(&path).is_absolute() && !path.as_encoded_bytes().contains(&0) {
        return Ok(path.into());
    }
    Err(Error::BadField { field, why: format!("{path:?} is not an absolute path") })
}

/// Undoes `%XX`; what is no such escape stays as it is.
fn decode(text: &str) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = match tail {
            [high, low, ..] if first == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        if let Some((high, low)) = escaped {
            bytes.push(high << 4 | low);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    OsString::from_vec(bytes)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood() {
        assert_eq!(parse("stdout", "").unwrap(), Target::Null);
        assert_eq!(parse("stdout", "/run/x").unwrap(), Target::Fifo("/run/x".into()));
        assert_eq!(parse("stdout", "fifo:///run/x").unwrap(), Target::Fifo("/run/x".into()));
        assert_eq!(parse("stdout", "file:///tmp/a%20b%2").unwrap(), Target::File("/tmp/a b%2".into()));
        let args = ["a b", "c", "d", ""].map(OsString::from).to_vec();
        let logger = LoggerTarget { program: "/bin/x".into(), args };
        assert_eq!(parse("stdout", "binary:///bin/x?a+b=c&d&a+b=2").unwrap(), Target::Logger(logger));
        let rotation = Rotation::Own { max_size: 5, max_files: 2, compress: true };
        let log = LogTarget { path: "/l".into(), rotation, buffer: Some(9), depth: 1 };
        assert_eq!(
            parse("stdout", "log:///l?max-size=5&max-files=2&compress=true&buffer=9").unwrap(),
            Target::Log(log)
        );
        let rotation =
            Rotation::Own { max_size: limits::LOG_SIZE, max_files: limits::LOG_FILES, compress: false };
        let log = LogTarget { path: "/l".into(), rotation, buffer: None, depth: 1 };
        assert_eq!(parse("stdout", "log:///l").unwrap(), Target::Log(log));
        let log = LogTarget { path: "/l b".into(), rotation: Rotation::Caller, buffer: None, depth: 1 };
        assert_eq!(parse("stdout", "cri:///l%20b").unwrap(), Target::Log(log));
        let log = LogTarget { path: "/l/b".into(), rotation: Rotation::Caller, buffer: None, depth: 2 };
        assert_eq!(parse("stdout", "cri:///l/b?depth=2").unwrap(), Target::Log(log));
    }

    #[test]
    fn nonsense_is_named() {
        for bad in [
            "x",
            "fifo://x",
            "ftp:///x",
            "log:///l?max-size=0",
            "log:///l?max-files=x",
            "log:///l?compress=x",
            "log:///l?buffer=0",
            "log:///l?a=b",
            "cri:///l?max-size=1",
            "cri:///l?depth=0",
            "cri:///l?depth=x",
            "cri://l",
            "/a\0b",
        ] {
            let error = parse("stdout", bad).unwrap_err();
            assert!(error.to_string().starts_with("stdout: "), "{error}");
        }
        assert!(parse("stdout", "binary://x").is_err());
    }
}
