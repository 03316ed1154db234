//! One line of a log file: `RFC3339Nano stdout|stderr P|F text`. `P` marks a piece of a line that goes on in the
//! next record of that stream.

use bytes::Bytes;
use jiff::Timestamp;

/// What a container wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub time: Timestamp,
    pub stderr: bool,
    /// With its line end, unless the line was cut or is the unterminated last one.
    pub line: Bytes,
}

/// The fields before the text.
pub struct Head<'a> {
    pub time: &'a str,
    pub stderr: bool,
    pub partial: bool,
    pub text: &'a [u8],
}

/// Splits a record (without its line end); `None` if it is not one, as after a power cut.
pub fn head(record: &[u8]) -> Option<Head<'_>> {
    let (time, rest) = split(record)?;
    let (stream, rest) = split(rest)?;
    let (tag, text) = split(rest).unwrap_or((rest, b""));
    let stderr = match stream {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let partial = match tag.first() {
        Some(b'P') => true,
        Some(b'F') => false,
        _ => return None,
    };
    Some(Head { time: std::str::from_utf8(time).ok()?, stderr, partial, text })
}

/// A whole record.
pub fn parse(record: &[u8]) -> Option<Entry> {
    let head = head(record)?;
    let time = head.time.parse().ok()?;
    let line = if head.partial {
        Bytes::copy_from_slice(head.text)
    } else {
        let mut line = Vec::with_capacity(head.text.len() + 1);
        line.extend_from_slice(head.text);
        line.push(b'\n');
        line.into()
    };
    Some(Entry { time, stderr: head.stderr, line })
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&b| b == b' ')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_and_partial_records() {
        let entry = parse(b"2026-01-02T03:04:05.000000006Z stderr F hi  there ").unwrap();
        assert_eq!((entry.stderr, &entry.line[..]), (true, &b"hi  there \n"[..]));
        assert_eq!(entry.time.subsec_nanosecond(), 6);
        assert_eq!(&parse(b"2026-01-02T03:04:05Z stdout P cut").unwrap().line[..], b"cut");
        assert_eq!(&parse(b"2026-01-02T03:04:05Z stdout F ").unwrap().line[..], b"\n");
        assert_eq!(&parse(b"2026-01-02T03:04:05Z stdout F").unwrap().line[..], b"\n");
        for bad in [&b""[..], b"x", b"2026-01-02T03:04:05Z stdin F x", b"soon stdout F x", b"\0\0\0\0"] {
            assert!(parse(bad).is_none());
        }
    }
}
