//! How a table, a namespace and a key become the bytes of one ordered key, and how long values are cut.
//!
//! `tag, namespace, 0, key` for records; `0xff, record key, 0, index (u16 BE)` for the further pieces of a long value.

use crate::error::{Error, Result};
use crate::namespaces::Namespace;

/// Prefix of the further pieces of long values.
pub const PIECE: u8 = 0xff;
/// Prefix of the store's own records; no table has it.
pub const OWN: u8 = 0;
/// Longest piece in bytes. sled keeps up to 17 records in one page, and writes a page of 128 KiB or more to a file of its
/// own that it never syncs: with [`MAX_KEY`] no page gets there.
pub const MAX_PIECE: usize = 4 * 1024;
/// Longest record in bytes, as encoded: a client's whole message fits.
pub const MAX_RECORD: usize = 16 * 1024 * 1024;
/// Longest key of a record in bytes, without its namespace.
pub const MAX_KEY: usize = 2 * 1024;
const _: () = assert!(17 * (MAX_PIECE + MAX_KEY + 256) < 128 * 1024);

pub fn record(tag: u8, namespace: &Namespace, key: &str) -> Result<Vec<u8>> {
    if key.len() > MAX_KEY || key.contains('\0') {
        return Err(Error::invalid(
            format!("name {:?}", key.chars().take(64).collect::<String>()),
            format!("is longer than {MAX_KEY} bytes or contains a NUL byte"),
        ));
    }
    let mut bytes = prefix(tag, namespace);
    bytes.extend_from_slice(key.as_bytes());
    Ok(bytes)
}

/// What all keys of a table's namespace begin with.
pub fn prefix(tag: u8, namespace: &Namespace) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(tag);
    bytes.extend_from_slice(namespace.as_str().as_bytes());
    bytes.push(0);
    bytes
}

/// The namespace and key in a record's key, `None` if it has not that form.
pub fn split(bytes: &[u8]) -> Option<(u8, Namespace, String)> {
    let (tag, rest) = bytes.split_first()?;
    let end = rest.iter().position(|&byte| byte == 0)?;
    let namespace = Namespace::parse(std::str::from_utf8(&rest[..end]).ok()?).ok()?;
    let key = std::str::from_utf8(&rest[end + 1..]).ok()?.to_owned();
    Some((*tag, namespace, key))
}

pub fn piece(record: &[u8], index: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(record.len() + 4);
    bytes.push(PIECE);
    bytes.extend_from_slice(record);
    bytes.push(0);
    bytes.extend_from_slice(&index.to_be_bytes());
    bytes
}

/// A value cut into what is stored under the record's key and the further pieces. The first byte of the former
/// counts as the form: 0 whole, 1 cut, followed by the number of further pieces (u16 BE).
pub fn cut(value: &[u8]) -> (Vec<u8>, Vec<&[u8]>) {
    let (first, rest) = value.split_at(value.len().min(MAX_PIECE));
    let further: Vec<&[u8]> = rest.chunks(MAX_PIECE).collect();
    let mut head = Vec::with_capacity(first.len() + 3);
    if further.is_empty() {
        head.push(0);
    } else {
        head.push(1);
        head.extend_from_slice(&pieces_u16(further.len()).to_be_bytes());
    }
    head.extend_from_slice(first);
    (head, further)
}

/// What a stored head says: the first piece, and how many follow.
pub fn head(stored: &[u8]) -> Option<(&[u8], u16)> {
    match stored.split_first()? {
        (0, whole) => Some((whole, 0)),
        (1, rest) if rest.len() >= 2 => Some((&rest[2..], u16::from_be_bytes([rest[0], rest[1]]))),
        _ => None,
    }
}

fn pieces_u16(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_split_as_they_were_joined() {
        let namespace = Namespace::parse("k8s.io").unwrap();
        let key = record(3, &namespace, "docker.io/library/busybox:latest").unwrap();
        assert_eq!(split(&key), Some((3, namespace, "docker.io/library/busybox:latest".to_owned())));
    }

    #[test]
    fn long_values_are_cut() {
        let value = vec![7; MAX_PIECE * 2 + 5];
        let (stored, further) = cut(&value);
        let (first, count) = head(&stored).unwrap();
        assert_eq!((first.len(), count, further.len()), (MAX_PIECE, 2, 2));
        let (stored, further) = cut(b"short");
        assert_eq!(head(&stored), Some((&b"short"[..], 0)));
        assert!(further.is_empty());
    }
}
