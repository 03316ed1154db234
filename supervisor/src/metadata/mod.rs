//! The daemon's records: typed tables over one sled tree, written in atomic batches.
//!
//! What always holds: this module alone knows sled; a write that was awaited survives kill -9 and a power
//! cut (group-committed flush, then fsync of the store's file); a batch is seen whole or not at all; no
//! stored value reaches the size from which sled keeps it in files that it never syncs.

mod barrier;
mod db;
mod export;
mod flush;
mod key;
mod open;
mod record;
mod table;
#[cfg(test)]
mod tests;
mod tx;

pub use db::{Db, Touched};
pub use open::Options;
pub use record::{Record, Unreadable};
pub use table::{Row, tables};
pub use tx::{Reader, Tx};

/// What the underlying store reported.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(#[source] Box<dyn std::error::Error + Send + Sync>);

impl Failure {
    fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

fn sled_error(doing: &'static str) -> impl FnOnce(sled::Error) -> crate::error::Error {
    move |source| crate::error::Error::Metadata { doing, source: Failure::new(source) }
}
