//! Group commit: many callers wait for their records to be on disk, one of them syncs for all.
//!
//! What always holds: [`Syncer::wait`] returns `Ok` only after an fdatasync that began when the caller's record was already in the
//! file; the journal is not locked while the disk works.

use std::sync::{Condvar, Mutex};

use crate::journal::Journal;
use crate::{Error, Result, lock};

#[derive(Default)]
pub(crate) struct Syncer {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Everything up to this position is on disk.
    durable: u64,
    syncing: bool,
}

impl Syncer {
    /// Waits until the journal is on disk up to `position`.
    pub fn wait(&self, journal: &Mutex<Journal>, position: u64) -> Result<()> {
        let mut state = lock(&self.state);
        loop {
            if state.durable >= position {
                return Ok(());
            }
            if !state.syncing {
                break;
            }
            state = match self.changed.wait(state) {
                Ok(state) => state,
                Err(poisoned) => poisoned.into_inner(),
            };
        }
        state.syncing = true;
        drop(state);
        let outcome = sync(journal);
        let mut state = lock(&self.state);
        state.syncing = false;
        if let Ok(durable) = outcome {
            state.durable = state.durable.max(durable);
        }
        drop(state);
        self.changed.notify_all();
        outcome.map(|_| ())
    }
}

/// Syncs the file as it is now; returns how far that reaches.
fn sync(journal: &Mutex<Journal>) -> Result<u64> {
    let (file, path, position) = {
        let journal = lock(journal);
        (journal.file(), journal.path().to_owned(), journal.position())
    };
    file.sync_data().map_err(|source| {
        lock(journal).distrust();
        Error::io("sync", path)(source)
    })?;
    Ok(position)
}
