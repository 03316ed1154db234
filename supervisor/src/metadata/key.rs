//! How a table, a namespace and a key become the bytes of one ordered key, and how long values are cut.
//!
//! `tag, namespace, 0, key` for records; `0xff, record key, 0, index (u16 BE)` for the further pieces of a long value.

use super::record::Form;
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
/// counts as the form: 0 whole, 1 cut, followed by the number of further pieces (u16 BE); 2 and 3 the same of a message.
pub fn cut(form: Form, value: &[u8]) -> (Vec<u8>, Vec<&[u8]>) {
    let form = match form {
        Form::Json => 0,
        Form::Message => 2,
    };
    let (first, rest) = value.split_at(value.len().min(MAX_PIECE));
    let further: Vec<&[u8]> = rest.chunks(MAX_PIECE).collect();
    let mut head = Vec::with_capacity(first.len() + 3);
    if further.is_empty() {
        head.push(form);
    } else {
        head.push(form + 1);
        head.extend_from_slice(&pieces_u16(further.len()).to_be_bytes());
    }
    head.extend_from_slice(first);
    (head, further)
}

/// What a stored head says: the record's form, the first piece, and how many follow.
pub fn head(stored: &[u8]) -> Option<(Form, &[u8], u16)> {
    let (&form, rest) = stored.split_first()?;
    let kind = match form {
        0 | 1 => Form::Json,
        2 | 3 => Form::Message,
        _ => return None,
    };
    if form % 2 == 0 {
        return Some((kind, rest, 0));
    }
    let (count, first) = rest.split_first_chunk()?;
    Some((kind, first, u16::from_be_bytes(*count)))
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
        for form in [Form::Json, Form::Message] {
            let (stored, further) = cut(form, &value);
            let (read, first, count) = head(&stored).unwrap();
            assert_eq!((read, first.len(), count, further.len()), (form, MAX_PIECE, 2, 2));
            let (stored, further) = cut(form, b"short");
            assert_eq!(head(&stored), Some((form, &b"short"[..], 0)));
            assert!(further.is_empty());
        }
        assert_eq!((head(b""), head(b"\x01\0"), head(b"\x04x")), (None, None, None));
    }
}
