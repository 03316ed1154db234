//! Sparse files: the maps of GNU tar in its four forms.
//!
//! What always holds: a [`Map`] is in order, free of overlaps, within the file, and as long as the entry's data.

#![forbid(unsafe_code)]

use tar::{GnuExtSparseHeader, GnuHeader, GnuSparseHeader};

use super::error::Rule;
use super::header::{decimal, number};
use super::pax::Pax;

const MAX_PARTS: usize = 262_144;

/// Where the data of a sparse file goes: (offset, length) in order; the rest up to `size` are holes.
#[derive(Debug, PartialEq, Eq)]
pub struct Map {
    pub parts: Vec<(u64, u64)>,
    pub size: u64,
}

impl Map {
    fn new(parts: Vec<(u64, u64)>, size: u64, data: u64) -> Result<Map, Rule> {
        let (mut end, mut sum) = (0u64, 0u64);
        for &(offset, length) in &parts {
            let stop = offset.checked_add(length).ok_or(Rule::BadSparseMap)?;
            if offset < end || stop > size {
                return Err(Rule::BadSparseMap);
            }
            end = stop;
            sum += length;
        }
        if sum != data { Err(Rule::BadSparseMap) } else { Ok(Map { parts, size }) }
    }
}

/// Collects the map of an old GNU entry (type `S`) from its header and the blocks that follow it.
#[derive(Default)]
pub struct OldMap {
    parts: Vec<(u64, u64)>,
    size: u64,
}

impl OldMap {
    /// Returns whether an extension block follows.
    pub fn header(&mut self, header: &GnuHeader) -> Result<bool, Rule> {
        self.size = number(&header.realsize, "size")?;
        self.add(&header.sparse)?;
        Ok(header.is_extended())
    }

    pub fn extension(&mut self, header: &GnuExtSparseHeader) -> Result<bool, Rule> {
        self.add(header.sparse())?;
        Ok(header.is_extended())
    }

    fn add(&mut self, entries: &[GnuSparseHeader]) -> Result<(), Rule> {
        for entry in entries.iter().take_while(|entry| !entry.is_empty()) {
            if self.parts.len() == MAX_PARTS {
                return Err(Rule::BadSparseMap);
            }
            self.parts.push((number(&entry.offset, "sparse map")?, number(&entry.numbytes, "sparse map")?));
        }
        Ok(())
    }

    pub fn finish(self, data: u64) -> Result<Map, Rule> {
        Map::new(self.parts, self.size, data)
    }
}

/// What an extended header says about sparseness.
pub enum PaxMap {
    None,
    /// Formats 0.0 and 0.1: the map is in the header.
    Here(Map),
    /// Format 1.0: the map comes first in the entry's data; the file's size is this.
    InData(u64),
}

/// Reads the map, or where it is, from an extended header; `data` is the size of the entry's data.
pub fn from_pax(pax: &Pax, data: u64) -> Result<PaxMap, Rule> {
    let get = |key: &[u8]| pax.sparse.get(key).map(Vec::as_slice);
    if let (Some(major), Some(minor)) = (get(b"major"), get(b"minor")) {
        let size = get(b"realsize").ok_or(Rule::BadSparseMap)?;
        return match (major, minor) {
            (b"1", b"0") => Ok(PaxMap::InData(decimal(size, "size")?)),
            _ => Err(Rule::BadSparseMap),
        };
    }
    let numbers: Vec<u64> = if let Some(map) = get(b"map") {
        map.split(|&b| b == b',')
            .take(2 * MAX_PARTS + 2)
            .map(|n| decimal(n, "sparse map"))
            .collect::<Result<_, _>>()?
    } else if !pax.sparse_map.is_empty() {
        pax.sparse_map.iter().map(|n| decimal(n, "sparse map")).collect::<Result<_, _>>()?
    } else if pax.sparse.is_empty() {
        return Ok(PaxMap::None);
    } else {
        return Err(Rule::BadSparseMap);
    };
    let size = get(b"size").or(get(b"realsize")).ok_or(Rule::BadSparseMap)?;
    if !numbers.len().is_multiple_of(2) || numbers.len() > 2 * MAX_PARTS {
        return Err(Rule::BadSparseMap);
    }
    let parts = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    Ok(PaxMap::Here(Map::new(parts, decimal(size, "size")?, data)?))
}

/// Reads a 1.0 map: a count, then that many offsets and lengths, a number a line. `more` yields the data's next block.
pub fn from_data<E: From<Rule>>(
    size: u64,
    data: u64,
    mut more: impl FnMut() -> Result<[u8; 512], E>,
) -> Result<Map, E> {
    let (mut used, mut line) = (0u64, Vec::with_capacity(20));
    let (mut count, mut numbers): (Option<usize>, Vec<u64>) = (None, Vec::new());
    loop {
        if used + 512 > data {
            return Err(Rule::BadSparseMap.into());
        }
        let block = more()?;
        used += 512;
        for byte in block {
            if byte != b'\n' {
                line.push(byte);
                if line.len() > 20 {
                    return Err(Rule::BadSparseMap.into());
                }
                continue;
            }
            let value = decimal(&line, "sparse map").map_err(|_| Rule::BadSparseMap)?;
            line.clear();
            match count {
                None if value > MAX_PARTS as u64 => return Err(Rule::BadSparseMap.into()),
                None => count = Some(value as usize * 2),
                Some(_) => numbers.push(value),
            }
            if count == Some(numbers.len()) {
                let parts = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
                return Ok(Map::new(parts, size, data - used)?);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_checked() {
        assert!(Map::new(vec![(0, 10), (20, 5)], 100, 15).is_ok());
        assert!(Map::new(vec![(0, 10), (5, 10)], 100, 20).is_err(), "overlap");
        assert!(Map::new(vec![(20, 5), (0, 10)], 100, 15).is_err(), "order");
        assert!(Map::new(vec![(95, 10)], 100, 10).is_err(), "bounds");
        assert!(Map::new(vec![(u64::MAX, 10)], u64::MAX, 10).is_err(), "overflow");
        assert!(Map::new(vec![(0, 10)], 100, 9).is_err(), "sum");
    }
}
