//! Start-up: disk and records are brought together.
//!
//! Records whose file is missing or has the wrong size are removed, with a warning; files without a record are left
//! to the collector while they are young (a rebuilt store may have lost their records) and removed after a day;
//! ingests that cannot be read, or that nobody wrote to for a day, are removed.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, SystemTime};

use super::ingest::IngestDir;
use super::store::ContentStore;
use super::{BlobRecord, Digest};
use crate::error::{Error, Result};
use crate::metadata::{Reader, Row, tables};

/// How long a file that nothing refers to is kept.
const ORPHAN_AGE: Duration = Duration::from_secs(24 * 3600);

pub fn run(store: &ContentStore) -> Result<()> {
    let rows: Vec<Row<BlobRecord>> = store.db.scan(&tables::BLOBS)?;
    let mut recorded = HashSet::new();
    let mut lost = Vec::new();
    for row in rows {
        let Ok(digest) = Digest::parse(&row.key) else {
            lost.push(row);
            continue;
        };
        match fs::metadata(store.path(&digest)) {
            Ok(metadata) if metadata.len() == row.record.size => {
                recorded.insert(digest);
            }
            _ => lost.push(row),
        }
    }
    for row in &lost {
        tracing::warn!(namespace = %row.namespace, digest = row.key, "the blob's file is missing or cut: its record is removed, pull the image again");
    }
    store.db.write_lazy(|tx| {
        lost.iter().try_for_each(|row| tx.delete(&tables::BLOBS, &row.namespace, &row.key).map(drop))
    })?;
    remove_orphans(store, &recorded)?;
    remove_stale_ingests(store)
}

fn remove_orphans(store: &ContentStore, recorded: &HashSet<Digest>) -> Result<()> {
    for (algorithm, folder) in store.blob_folders() {
        let at = |source| Error::io("listing blobs in", &folder, source);
        for entry in fs::read_dir(&folder).map_err(at)? {
            let entry = entry.map_err(at)?;
            let name = entry.file_name();
            let digest = Digest::parse(&format!("{algorithm}:{}", name.to_string_lossy()));
            if digest.is_ok_and(|digest| recorded.contains(&digest)) || !is_old(&entry.path()) {
                continue;
            }
            tracing::info!(blob = ?name, "removing a blob that nothing refers to");
            fs::remove_file(entry.path()).map_err(at)?;
        }
    }
    Ok(())
}

fn remove_stale_ingests(store: &ContentStore) -> Result<()> {
    let at = |source| Error::io("listing ingests in", &store.ingests, source);
    for entry in fs::read_dir(&store.ingests).map_err(at)? {
        let folder = IngestDir::at(entry.map_err(at)?.path());
        if folder.load()?.is_none() || is_old(&folder.data()) {
            tracing::info!(ingest = %folder.path().display(), "removing a stale ingest");
            folder.remove()?;
        }
    }
    Ok(())
}

fn is_old(path: &std::path::Path) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > ORPHAN_AGE))
}
