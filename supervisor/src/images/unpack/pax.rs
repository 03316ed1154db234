//! Extended (PAX) headers: `length key=value\n` records.
//!
//! What always holds: of what two readers could understand differently nothing is accepted: repeated keys with
//! different values, lengths that do not fit, and names with NUL are refused.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::error::Rule;

const XATTR: &[u8] = b"SCHILY.xattr.";

/// The records of one extended header that mean something to us.
#[derive(Debug, Default)]
pub struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<Vec<u8>>,
    pub uid: Option<Vec<u8>>,
    pub gid: Option<Vec<u8>>,
    pub mtime: Option<Vec<u8>>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `GNU.sparse.*` without that prefix; offset and numbytes, which repeat, are in `sparse_map`.
    pub sparse: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Numbers of a 0.0 map, in order.
    pub sparse_map: Vec<Vec<u8>>,
}

/// Parses the body of a header that belongs to one entry.
pub fn parse(body: &[u8]) -> Result<Pax, Rule> {
    let mut pax = Pax::default();
    for record in Records(body) {
        let (key, value) = record?;
        if value.is_empty() && !key.starts_with(XATTR) {
            continue; // Deletes what a global header set; none is in effect.
        }
        let slot = match key {
            b"path" => (&mut pax.path, "name"),
            b"linkpath" => (&mut pax.link, "link target"),
            b"size" => (&mut pax.size, "size"),
            b"uid" => (&mut pax.uid, "owner"),
            b"gid" => (&mut pax.gid, "group"),
            b"mtime" => (&mut pax.mtime, "time"),
            _ => {
                other(&mut pax, key, value)?;
                continue;
            }
        };
        set(slot.0, value, slot.1)?;
    }
    Ok(pax)
}

/// Checks a global header: it may comment, but not change what an entry is.
pub fn check_global(body: &[u8]) -> Result<(), Rule> {
    for record in Records(body) {
        let (key, _) = record?;
        match key {
            b"path" => return Err(Rule::GlobalPax("name")),
            b"linkpath" => return Err(Rule::GlobalPax("link target")),
            b"size" => return Err(Rule::GlobalPax("size")),
            b"uid" => return Err(Rule::GlobalPax("owner")),
            b"gid" => return Err(Rule::GlobalPax("group")),
            _ if key.starts_with(XATTR) => return Err(Rule::GlobalPax("extended attributes")),
            _ if key.starts_with(b"GNU.sparse.") => return Err(Rule::GlobalPax("sparse map")),
            _ => {}
        }
    }
    Ok(())
}

fn set(slot: &mut Option<Vec<u8>>, value: &[u8], what: &'static str) -> Result<(), Rule> {
    match slot {
        Some(before) if before != value => Err(Rule::ContradictoryPax(what)),
        _ => {
            *slot = Some(value.to_vec());
            Ok(())
        }
    }
}

fn other(pax: &mut Pax, key: &[u8], value: &[u8]) -> Result<(), Rule> {
    if let Some(name) = key.strip_prefix(XATTR) {
        if name.is_empty() || name.len() > 255 || name.contains(&0) || value.len() > 65536 {
            return Err(Rule::BadXattr);
        }
        if pax.xattrs.insert(name.to_vec(), value.to_vec()).is_some_and(|before| before != value) {
            return Err(Rule::ContradictoryPax("extended attributes"));
        }
    } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
        if name == b"offset" || name == b"numbytes" {
            let expected: &[u8] =
                if pax.sparse_map.len().is_multiple_of(2) { b"offset" } else { b"numbytes" };
            if name != expected {
                return Err(Rule::BadSparseMap);
            }
            pax.sparse_map.push(value.to_vec());
        } else if pax.sparse.insert(name.to_vec(), value.to_vec()).is_some_and(|before| before != value) {
            return Err(Rule::ContradictoryPax("sparse map"));
        }
    }
    Ok(())
}

struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), Rule>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = split_record(self.0);
        self.0 = record.as_ref().map(|(_, _, rest)| *rest).unwrap_or_default();
        Some(record.map(|(key, value, _)| (key, value)).ok_or(Rule::MalformedPax))
    }
}

fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(12).position(|&b| b == b' ')?;
    let digits = &bytes[..space];
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let record = bytes.get(space + 1..length)?;
    let record = record.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&b| b == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return None;
    }
    Some((key, value, &bytes[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_strictly() {
        let pax = parse(b"12 path=a/b\n20 SCHILY.xattr.u=1\n\n").unwrap_err();
        assert_eq!(pax, Rule::MalformedPax);
        let pax = parse(b"12 path=a/b\n17 comment=hello\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a/b"[..]));
        for bad in
            [&b"11 path=a/b\n"[..], b"99 path=a/b\n", b"x path=a\n", b"path=a\n", b"9 pathab\n", b"0 ", b" "]
        {
            assert!(parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(parse(b"10 size=1\n10 size=2\n").unwrap_err(), Rule::ContradictoryPax("size"));
        assert!(parse(b"10 size=1\n10 size=1\n").is_ok());
        assert_eq!(check_global(b"10 size=1\n").unwrap_err(), Rule::GlobalPax("size"));
    }
}
