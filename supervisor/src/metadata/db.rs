//! The store: reads, and batches that are made under one short lock and made durable outside of it.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::barrier::Barrier;
use super::flush::Flusher;
use super::open::{self, Options};
use super::record::Record;
use super::table::{Row, Table};
use super::tx::{self, Source, Tx, Visit};
use super::{export, key, sled_error};
use crate::error::Result;
use crate::namespaces::Namespace;

/// Values of more bytes may be kept in files of their own: sled does so from a quarter of a segment on.
const LARGE: usize = 64 * 1024;

/// How often a copy for the export is tried while others write.
const ENCODE_ATTEMPTS: usize = 5;

/// The daemon's metadata. Reads go to memory (sled's cache) or a small file read.
pub struct Db {
    sled: sled::Db,
    directory: std::path::PathBuf,
    rebuilt: bool,
    flusher: Arc<Flusher>,
    /// Held while a batch is made and applied, never over a flush.
    writing: Mutex<Barrier>,
    /// The ticket up to which the export on disk reaches.
    exported: Mutex<u64>,
}

/// A record that a batch touched while the collector marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    pub tag: u8,
    pub namespace: Namespace,
    pub key: String,
}

impl Db {
    /// Opens or creates the store in `directory`, repairing it as far as that is possible.
    pub fn open(directory: &Path, options: &Options) -> Result<Self> {
        let sled = open::open(directory, options)?;
        let flusher = Flusher::start(sled.clone(), open::store_file(directory))?;
        Ok(Self {
            sled,
            directory: directory.to_owned(),
            rebuilt: open::rebuilt_mark(directory).exists(),
            flusher,
            writing: Mutex::default(),
            exported: Mutex::default(),
        })
    }

    /// The file that says that the store was rebuilt from an older export. As long as it is there, what no record knows of is
    /// kept, and nothing is started by itself: it may be what the store has lost.
    pub fn rebuilt(&self) -> Option<std::path::PathBuf> {
        self.rebuilt.then(|| open::rebuilt_mark(&self.directory))
    }

    /// Makes a batch and returns when it is durable. `make` sees a consistent store that nobody else changes
    /// meanwhile; it must not block. Nothing is changed if it fails.
    pub async fn write<R>(&self, make: impl FnOnce(&mut Tx<'_>) -> Result<R>) -> Result<R> {
        let (result, ticket) = self.apply(make)?;
        self.flusher.wait(ticket).await?;
        Ok(result)
    }

    /// Makes a batch that becomes durable within half a second, or with the next awaited write: for what may
    /// be lost together with the crash it happened in.
    pub fn write_lazy<R>(&self, make: impl FnOnce(&mut Tx<'_>) -> Result<R>) -> Result<R> {
        self.apply(make).map(|(result, _)| result)
    }

    /// Returns when everything written so far is durable.
    pub async fn sync(&self) -> Result<()> {
        self.flusher.wait(self.flusher.newest()).await
    }

    fn apply<R>(&self, make: impl FnOnce(&mut Tx<'_>) -> Result<R>) -> Result<(R, u64)> {
        self.flusher.check()?;
        let mut barrier = self.lock();
        let mut tx = Tx::new(&self.sled);
        let result = make(&mut tx)?;
        let ticket = self.store(tx, &mut barrier)?;
        Ok((result, ticket))
    }

    fn store(&self, tx: Tx<'_>, barrier: &mut Barrier) -> Result<u64> {
        let changes = tx.into_changes();
        if changes.is_empty() {
            return Ok(0);
        }
        // What removes something is let through: it is how space is made.
        if changes.values().all(Option::is_some) {
            self.flusher.check_space()?;
        }
        let large: usize =
            changes.values().flatten().map(|value| value.len()).filter(|len| *len > LARGE).sum();
        if large > 0 {
            self.flusher.check_room(large as u64)?;
        }
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            barrier.touch(&key);
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.sled.apply_batch(batch).map_err(sled_error("applying a batch"))?;
        Ok(self.flusher.applied())
    }

    /// Up to `max` records of one namespace in the order of their keys, from the first after `after` on: what a list in
    /// bounded memory is made of. A record that is there throughout is in exactly one page.
    pub fn page<T: Record>(
        &self,
        table: &Table<T>,
        namespace: &Namespace,
        after: Option<&str>,
        max: usize,
    ) -> Result<Vec<Row<T>>> {
        self.paged(table, namespace, after, max, |full, key, stored| {
            let record = tx::decode(self, table, full, stored)?;
            Ok(Row { namespace: namespace.clone(), key: key.to_owned(), record })
        })
    }

    /// As [`Db::page`]: the records' keys, and the messages that they are kept as.
    pub fn messages<T: Record>(
        &self,
        table: &Table<T>,
        namespace: &Namespace,
        after: Option<&str>,
        max: usize,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        self.paged(table, namespace, after, max, |full, key, stored| {
            let message = tx::message(self, table, full, key, stored)?;
            Ok((key.to_owned(), message.unwrap_or_default()))
        })
    }

    /// A record as the message that it is kept as.
    pub fn message<T: Record>(
        &self,
        table: &Table<T>,
        namespace: &Namespace,
        key: &str,
    ) -> Result<Option<Vec<u8>>> {
        let full = key::record(table.tag, namespace, key)?;
        match self.raw_get(&full)? {
            None => Ok(None),
            Some(stored) => tx::message(self, table, &full, key, &stored),
        }
    }

    fn paged<T, R>(
        &self,
        table: &Table<T>,
        namespace: &Namespace,
        after: Option<&str>,
        max: usize,
        read: impl Fn(&[u8], &str, &[u8]) -> Result<R>,
    ) -> Result<Vec<R>> {
        let prefix = key::prefix(table.tag, namespace);
        let from = match after {
            None => Bound::Included(prefix.clone()),
            Some(after) => Bound::Excluded(key::record(table.tag, namespace, after)?),
        };
        let mut rows = Vec::new();
        for entry in self.sled.range((from, Bound::Unbounded)).take(max) {
            let (full, stored) = entry.map_err(sled_error("reading records"))?;
            let Some(key) = full.strip_prefix(&prefix[..]) else { break };
            if let Ok(key) = std::str::from_utf8(key) {
                rows.push(read(&full, key, &stored)?);
            }
        }
        Ok(rows)
    }

    /// From now on remembers which records are touched, for [`Db::write_after_mark`].
    pub fn start_recording(&self) {
        self.lock().start();
    }

    /// A batch that is given what was touched since [`Db::start_recording`] (`None`: too much to remember).
    pub async fn write_after_mark<R>(
        &self,
        make: impl FnOnce(&mut Tx<'_>, Option<Vec<Touched>>) -> Result<R>,
    ) -> Result<R> {
        let (result, ticket) = {
            self.flusher.check()?;
            let mut barrier = self.lock();
            let touched = barrier.finish().map(touched);
            let mut tx = Tx::new(&self.sled);
            let result = make(&mut tx, touched)?;
            let ticket = self.store(tx, &mut barrier)?;
            (result, ticket)
        };
        self.flusher.wait(ticket).await?;
        Ok(result)
    }

    /// Writes the checksummed export if anything changed since the last. Blocks; not for async code.
    ///
    /// The store is given the export's number before the export is: a store that has a lower one has lost something.
    pub fn export(&self) -> Result<()> {
        let mut exported = self.exported.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = self.flusher.newest();
        if ticket == *exported && export::path(&self.directory).exists() {
            return Ok(());
        }
        let (ticket, bytes) = self.encode()?;
        self.flusher.flush(&self.sled)?;
        export::write(&self.directory, &bytes)?;
        open::add_ballast(&self.directory);
        *exported = ticket;
        Ok(())
    }

    /// A consistent copy of all records and the ticket it reaches to. Writers are kept out only if they leave no gap
    /// to copy in.
    fn encode(&self) -> Result<(u64, Vec<u8>)> {
        for _ in 0..ENCODE_ATTEMPTS {
            let ticket = {
                let _still = self.lock();
                export::count_up(&self.sled)?;
                self.flusher.newest()
            };
            let bytes = export::encode(&self.sled)?;
            let _still = self.lock();
            if self.flusher.newest() == ticket {
                return Ok((ticket, bytes));
            }
        }
        let _still = self.lock();
        Ok((self.flusher.newest(), export::encode(&self.sled)?))
    }

    /// Makes everything durable, exports, and ends the store's thread. Blocks.
    pub fn close(&self) -> Result<()> {
        self.flusher.stop();
        self.flusher.check()?;
        if let Err(error) = self.export() {
            tracing::warn!("the metadata is safe but was not exported: {error}");
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Barrier> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn touched(keys: BTreeSet<Vec<u8>>) -> Vec<Touched> {
    keys.iter()
        .filter(|bytes| bytes.first().is_some_and(|&tag| tag != key::PIECE && tag != key::OWN))
        .filter_map(|bytes| key::split(bytes))
        .map(|(tag, namespace, key)| Touched { tag, namespace, key })
        .collect()
}

impl Source for Db {
    fn raw_get(&self, key: &[u8]) -> Result<Option<sled::IVec>> {
        let tree: &sled::Tree = &self.sled;
        tree.raw_get(key)
    }

    fn raw_scan(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        let tree: &sled::Tree = &self.sled;
        tree.raw_scan(prefix, visit)
    }
}
