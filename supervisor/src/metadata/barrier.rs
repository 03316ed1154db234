//! What was written since a collection began to mark: the collector's write barrier.
//!
//! What always holds: while a recording runs, every key that a batch touches is in it (or it is marked as
//! overflown), so that the collector can treat these records as referenced without locking anyone out.

use std::collections::BTreeSet;

/// Keys that one recording remembers; beyond them the collector starts over.
const MAX_KEYS: usize = 100_000;

#[derive(Debug, Default)]
pub enum Barrier {
    #[default]
    Idle,
    Recording(BTreeSet<Vec<u8>>),
    Overflown,
}

impl Barrier {
    pub fn start(&mut self) {
        *self = Self::Recording(BTreeSet::new());
    }

    pub fn touch(&mut self, key: &[u8]) {
        if let Self::Recording(keys) = self {
            keys.insert(key.to_vec());
            if keys.len() > MAX_KEYS {
                *self = Self::Overflown;
            }
        }
    }

    /// Ends the recording; `None` if it is not known any more what was touched.
    pub fn finish(&mut self) -> Option<BTreeSet<Vec<u8>>> {
        match std::mem::take(self) {
            Self::Recording(keys) => Some(keys),
            Self::Idle | Self::Overflown => None,
        }
    }
}
