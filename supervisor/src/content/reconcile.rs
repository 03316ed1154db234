//! Start-up: disk and records are brought together.
//!
//! Records whose file is missing or has the wrong size are removed, with a warning, unless a plugin keeps the bytes: then
//! the blob is marked, and fetched when it is read. Files without a record are the
//! collector's; ingests that cannot be read are removed.

use std::fs;

use super::ingest::IngestDir;
use super::store::ContentStore;
use super::{BlobRecord, Digest};
use crate::error::{Error, Result};
use crate::metadata::{Reader, Row, tables};

pub fn run(store: &ContentStore) -> Result<()> {
    let rows: Vec<Row<BlobRecord>> = store.db.scan(&tables::BLOBS)?;
    let mut lost = Vec::new();
    for row in rows {
        let Ok(digest) = Digest::parse(&row.key) else {
            lost.push(row);
            continue;
        };
        match fs::metadata(store.path(&digest)) {
            Ok(metadata) if metadata.len() == row.record.size => {}
            _ => match &store.remote {
                Some(remote) => remote.mark_now(&digest)?,
                None => lost.push(row),
            },
        }
    }
    for row in &lost {
        tracing::warn!(namespace = %row.namespace, digest = row.key, "the blob's file is missing or cut: its record is removed, pull the image again");
    }
    store.db.write_lazy(|tx| {
        lost.iter().try_for_each(|row| tx.delete(&tables::BLOBS, &row.namespace, &row.key).map(drop))
    })?;
    remove_broken_ingests(store)
}

fn remove_broken_ingests(store: &ContentStore) -> Result<()> {
    let at = |source| Error::io("listing ingests in", &store.ingests, source);
    for entry in fs::read_dir(&store.ingests).map_err(at)? {
        let folder = IngestDir::at(entry.map_err(at)?.path());
        if folder.load()?.is_none() {
            tracing::info!(ingest = %folder.path().display(), "removing an ingest that cannot be read");
            folder.remove()?;
        }
    }
    Ok(())
}
