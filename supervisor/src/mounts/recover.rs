//! At a start: what an earlier daemon was in the middle of is undone, and what a reboot has taken away is forgotten.

use std::collections::HashSet;
use std::path::Path;

use super::folder::Folder;
use super::{ActivationRecord, State};
use crate::error::{Error, Result};
use crate::metadata::{Db, Reader, Row, tables};

/// Makes folder and records agree; the next free number. Blocks.
pub fn run(db: &Db, folder: &Folder) -> Result<u64> {
    let rows = db.scan(&tables::MOUNTS)?;
    let mounted = mount_points()?;
    let whole = |record: &ActivationRecord| {
        let there = |point: &str| mounted.contains(point) || Path::new(point).is_symlink();
        record.state == State::Active && record.active.iter().all(|active| there(&active.mount_point))
    };
    let (kept, lost): (Vec<Row<ActivationRecord>>, Vec<_>) =
        rows.into_iter().partition(|row| whole(&row.record));
    let owned: HashSet<u64> = kept.iter().map(|row| row.record.id).collect();
    let ids = folder.ids()?;
    for id in ids.iter().filter(|id| !owned.contains(id)) {
        if let Err(error) = folder.take_down(*id) {
            tracing::error!(id, "cannot take down what is left of an activation: {error}");
        }
    }
    for row in &lost {
        tracing::info!(namespace = %row.namespace, name = row.key, "these mounts are gone: forgotten");
        db.write_lazy(|tx| tx.delete(&tables::MOUNTS, &row.namespace, &row.key).map(drop))?;
    }
    let used = ids.into_iter().chain(lost.iter().map(|row| row.record.id)).chain(owned);
    Ok(used.max().map_or(1, |highest| highest + 1))
}

fn mount_points() -> Result<HashSet<String>> {
    const TABLE: &str = "/proc/self/mountinfo";
    let text = std::fs::read_to_string(TABLE).map_err(|source| Error::io("reading", TABLE, source))?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.map(|point| super::table::path(point).to_string_lossy().into_owned()).collect())
}
