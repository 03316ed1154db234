//! A place in a log that means the same after rotations and to another daemon: which file, and how far into it.

use super::files::Identity;
use crate::error::{Error, Result};

/// Bytes of a cursor as clients hold it.
const LENGTH: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub(super) identity: Identity,
    /// Of the first record that was not read.
    pub(super) offset: u64,
}

impl Cursor {
    /// `None` for an empty one, which is the beginning.
    pub fn parse(bytes: &[u8]) -> Result<Option<Cursor>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let words: Vec<u64> =
            bytes.chunks_exact(8).filter_map(|chunk| chunk.try_into().ok().map(u64::from_le_bytes)).collect();
        match (words.as_slice(), bytes.len()) {
            (&[device, inode, born, offset], LENGTH) => {
                Ok(Some(Cursor { identity: Identity::from_parts([device, inode, born]), offset }))
            }
            _ => Err(Error::invalid("log cursor", "is none that this daemon has given out")),
        }
    }

    pub fn bytes(self) -> Vec<u8> {
        let [device, inode, born] = self.identity.parts();
        [device, inode, born, self.offset].into_iter().flat_map(u64::to_le_bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back_and_nonsense_is_refused() {
        let cursor = Cursor { identity: Identity::from_parts([7, 8, 9]), offset: 10 };
        assert_eq!(Cursor::parse(&cursor.bytes()).unwrap(), Some(cursor));
        assert_eq!(Cursor::parse(&[]).unwrap(), None);
        assert!(Cursor::parse(&[1; 23]).is_err());
    }
}
