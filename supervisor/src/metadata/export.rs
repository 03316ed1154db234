//! The way back: a versioned, checksummed copy of all records in one file, written by rename.
//!
//! Form: the line `longshore-metadata 1`, then for each record key length and value length (u32 LE), key, value;
//! then `u32::MAX`, the number of records (u64 LE) and the SHA-256 of everything before it.

use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{key, sled_error};
use crate::error::{Error, Result};

const HEADER: &[u8] = b"longshore-metadata 1\n";
const END: u32 = u32::MAX;
const CHECKSUM: usize = 32;

pub fn path(directory: &Path) -> PathBuf {
    directory.join("export")
}

/// The store's own record with the number of the newest export.
const NUMBER_KEY: [u8; 2] = [key::OWN, 2];

/// The number of the newest export that the store knows of; 0: none.
pub fn number(tree: &sled::Tree) -> Result<u64> {
    let stored = tree.get(NUMBER_KEY).map_err(sled_error("reading the export's number"))?;
    Ok(stored.map_or(0, |bytes| parse_number(&bytes)))
}

/// The number that an export was given.
pub fn number_of(records: &[(&[u8], &[u8])]) -> u64 {
    let found = records.iter().find(|(key, _)| *key == NUMBER_KEY);
    found.map_or(0, |(_, bytes)| parse_number(bytes))
}

fn parse_number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// Gives the store the number of the export that is about to be made.
pub fn count_up(tree: &sled::Tree) -> Result<()> {
    let next = number(tree)? + 1;
    tree.insert(NUMBER_KEY, &next.to_le_bytes()).map_err(sled_error("writing the export's number"))?;
    Ok(())
}

/// All records of the store. Nobody may write to it meanwhile.
pub fn encode(tree: &sled::Tree) -> Result<Vec<u8>> {
    let mut bytes = HEADER.to_vec();
    let mut count = 0u64;
    for entry in tree.iter() {
        let (key, value) = entry.map_err(sled_error("reading records for the export"))?;
        for length in [key.len(), value.len()] {
            bytes.extend_from_slice(&u32::try_from(length).unwrap_or(END).to_le_bytes());
        }
        bytes.extend_from_slice(&key);
        bytes.extend_from_slice(&value);
        count += 1;
    }
    bytes.extend_from_slice(&END.to_le_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    let checksum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&checksum);
    Ok(bytes)
}

/// Puts an export in place: whole, or the earlier one stays.
pub fn write(directory: &Path, bytes: &[u8]) -> Result<()> {
    let target = path(directory);
    let partial = directory.join("export.partial");
    let at = |source| Error::io("writing the metadata export", &partial, source);
    crate::folders::replace(&target, &partial, |file| file.write_all(bytes)).map_err(at)
}

/// The records of an export in `bytes`, if it is whole.
pub fn decode(bytes: &[u8]) -> Result<Vec<(&[u8], &[u8])>> {
    let damaged = |why: &str| Error::Damaged { what: "the metadata export".into(), why: why.into() };
    let body = bytes.len().checked_sub(CHECKSUM).ok_or_else(|| damaged("it is cut short"))?;
    let (body, checksum) = bytes.split_at(body);
    if !body.starts_with(HEADER) {
        return Err(damaged("it has another version or is none"));
    }
    if Sha256::digest(body).as_slice() != checksum {
        return Err(damaged("its checksum is wrong"));
    }
    let mut rest = &body[HEADER.len()..];
    let mut records = Vec::new();
    loop {
        let key = take_u32(&mut rest).ok_or_else(|| damaged("a record is cut short"))?;
        if key == END {
            break;
        }
        let value = take_u32(&mut rest).ok_or_else(|| damaged("a record is cut short"))?;
        let key = take(&mut rest, key as usize).ok_or_else(|| damaged("a key is cut short"))?;
        let value = take(&mut rest, value as usize).ok_or_else(|| damaged("a value is cut short"))?;
        records.push((key, value));
    }
    if rest != (records.len() as u64).to_le_bytes() {
        return Err(damaged("records are missing"));
    }
    Ok(records)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take(rest, 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
}
