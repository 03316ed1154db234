//! What exists: every record in memory, every change of them in the journal.
//!
//! What always holds:
//! - A change is checked, journalled and shown in memory under the journal's lock, so that what was checked still holds when it
//!   happens. Readers take only the lock of the memory, which is never held over I/O.
//! - A key that is being made, also by a commit, is reserved, and so is its parent: neither can be taken or removed meanwhile.
//!   Reserving takes only the lock of the memory: what a removal or a commit rests on is marked there before it is journalled.
//! - Directory numbers are never used twice while the journal lives.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::durable::Syncer;
use crate::journal::{Change, Journal, MAX_LINE, Room};
use crate::record::{Record, Stamp};
use crate::{Commit, Error, Kind, LabelChange, Labels, MAX_KEY, Result, Usage, lock};

pub(crate) struct Store {
    journal: Mutex<Journal>,
    state: Mutex<State>,
    syncer: Syncer,
    max_layers: usize,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    /// Keys that are being made.
    reserved: BTreeSet<String>,
    /// Next directory number.
    next: u64,
}

struct Entry {
    record: Arc<Record>,
    /// Snapshots based on this one, reserved ones included.
    children: usize,
    /// Its removal is being journalled: nothing new may be based on it.
    leaving: bool,
}

/// A snapshot and the directories it is made of.
pub(crate) struct Chain {
    pub record: Arc<Record>,
    /// Directory numbers of the parents, nearest first.
    pub parents: Vec<u64>,
}

/// A key, a directory number and a hold on the parent, for a snapshot that is being made. Given up when dropped.
pub(crate) struct Reservation<'a> {
    store: &'a Store,
    key: &'a str,
    parent: Option<&'a str>,
    pub id: u64,
    /// Directory numbers of the parents, nearest first.
    pub parents: Vec<u64>,
}

impl Store {
    /// Reads the journal. Returns the store, and whether the journal was damaged.
    pub fn open(root: Arc<OwnedFd>, path: &Path, max_layers: usize) -> Result<(Self, bool)> {
        let recovered = Journal::open(root, path)?;
        let state = State::replay(recovered.changes);
        let mut journal = recovered.journal;
        if journal.wants_rewrite(state.entries.len()) {
            match journal.rewrite(state.next, &state.records()) {
                Err(e) if journal.is_suspect() => return Err(e),
                Ok(()) | Err(_) => {}
            }
        }
        let store = Self {
            journal: Mutex::new(journal),
            state: Mutex::new(state),
            syncer: Syncer::default(),
            max_layers,
        };
        Ok((store, recovered.damaged))
    }

    /// Numbers of the directories that snapshots own.
    pub fn directories(&self) -> BTreeSet<u64> {
        lock(&self.state).entries.values().map(|e| e.record.id).collect()
    }

    /// Gives out no directory number up to `id`.
    pub fn skip(&self, id: u64) {
        let mut state = lock(&self.state);
        state.next = state.next.max(id.saturating_add(1));
    }

    pub fn get(&self, key: &str) -> Result<Arc<Record>> {
        lock(&self.state).entry(key).map(|entry| Arc::clone(&entry.record))
    }

    /// The snapshot with the directories below it.
    pub fn chain(&self, key: &str) -> Result<Chain> {
        let state = lock(&self.state);
        let record = Arc::clone(&state.entry(key)?.record);
        let parents = state.parents(record.parent.as_deref())?;
        Ok(Chain { record, parents })
    }

    /// All records in the order of their keys.
    pub fn all(&self) -> Vec<Arc<Record>> {
        lock(&self.state).records()
    }

    /// Takes a key for a snapshot to be made on `parent`.
    pub fn reserve<'a>(&'a self, key: &'a str, parent: Option<&'a str>) -> Result<Reservation<'a>> {
        check_key(key)?;
        let mut state = lock(&self.state);
        if state.taken(key) {
            return Err(Error::AlreadyExists { key: key.to_owned() });
        }
        let parents = state.parents(parent)?;
        self.check_layers(key, parents.len())?;
        if let Some(parent) = parent {
            state.committed_parent(parent)?.children += 1;
        }
        state.reserved.insert(key.to_owned());
        let id = state.next;
        state.next += 1;
        Ok(Reservation { store: self, key, parent, id, parents })
    }

    /// Makes the reserved snapshot exist. Its directories are in place.
    pub fn publish(&self, reservation: Reservation<'_>, kind: Kind, labels: Labels) -> Result<Arc<Record>> {
        let now = Stamp::now();
        let record = Arc::new(Record {
            id: reservation.id,
            key: reservation.key.to_owned(),
            kind,
            parent: reservation.parent.map(str::to_owned),
            created: now,
            updated: now,
            labels: checked(reservation.key, labels)?,
            usage: None,
        });
        let mut journal = lock(&self.journal);
        self.append(&mut journal, &[Change::Put(Arc::clone(&record))], Room::Spare)?;
        let mut state = lock(&self.state);
        state.insert(Arc::clone(&record));
        drop(state);
        drop(journal);
        drop(reservation);
        Ok(record)
    }

    /// Checks commits before anything costly is done for them.
    pub fn check_commits(&self, commits: &[Commit<'_>]) -> Result<Vec<Arc<Record>>> {
        lock(&self.state).stage(commits, self.max_layers)
    }

    /// Commits, all or none, and waits until that is on disk.
    pub fn commit(&self, commits: &[Commit<'_>], usages: &[Usage]) -> Result<()> {
        let mut journal = lock(&self.journal);
        let mut staged = lock(&self.state).stage(commits, self.max_layers)?;
        let now = Stamp::now();
        for ((record, commit), usage) in staged.iter_mut().zip(commits).zip(usages) {
            let record = Arc::make_mut(record);
            record.labels = checked(commit.name, commit.labels.clone())?;
            record.usage = Some(*usage);
            (record.created, record.updated) = (now, now);
        }
        let changes: Vec<Change> = staged.iter().map(|r| Change::Put(Arc::clone(r))).collect();
        self.reserve_names(commits)?;
        let appended = self.append(&mut journal, &changes, Room::Spare);
        let mut state = lock(&self.state);
        for commit in commits {
            state.reserved.remove(commit.name);
        }
        let position = appended?;
        for (record, commit) in staged.into_iter().zip(commits) {
            let children = state.take(commit.key).map_or(0, |entry| entry.children);
            debug_assert_eq!(children, 0, "only committed snapshots have children");
            state.insert(record);
        }
        drop(state);
        drop(journal);
        self.syncer.wait(&self.journal, position)
    }

    /// Takes the names of commits, all or none.
    fn reserve_names(&self, commits: &[Commit<'_>]) -> Result<()> {
        let mut state = lock(&self.state);
        if let Some(taken) = commits.iter().find(|commit| state.taken(commit.name)) {
            return Err(Error::AlreadyExists { key: taken.name.to_owned() });
        }
        state.reserved.extend(commits.iter().map(|commit| commit.name.to_owned()));
        Ok(())
    }

    pub fn update(&self, key: &str, change: LabelChange) -> Result<Arc<Record>> {
        let mut journal = lock(&self.journal);
        let mut record = Record::clone(&*self.get(key)?);
        change.apply(&mut record.labels);
        record.labels = checked(key, record.labels)?;
        record.updated = Stamp::now();
        let record = Arc::new(record);
        self.append(&mut journal, &[Change::Put(Arc::clone(&record))], Room::Spare)?;
        if let Some(entry) = lock(&self.state).entries.get_mut(key) {
            entry.record = Arc::clone(&record);
        }
        Ok(record)
    }

    /// Forgets a snapshot; its directories are the caller's to remove.
    pub fn remove(&self, key: &str) -> Result<Arc<Record>> {
        let mut journal = lock(&self.journal);
        let record = {
            let mut state = lock(&self.state);
            let not_found = || Error::NotFound { key: key.to_owned() };
            let entry = state.entries.get_mut(key).ok_or_else(not_found)?;
            if entry.children > 0 {
                return Err(Error::HasChildren { key: key.to_owned(), children: entry.children });
            }
            entry.leaving = true;
            Arc::clone(&entry.record)
        };
        let appended = self.append(&mut journal, &[Change::Delete(record.id)], Room::LastResort);
        let mut state = lock(&self.state);
        match appended {
            Ok(_) => drop(state.take(key)),
            Err(e) => {
                if let Some(entry) = state.entries.get_mut(key) {
                    entry.leaving = false;
                }
                return Err(e);
            }
        }
        Ok(record)
    }

    /// Waits until everything so far is on disk.
    pub fn flush(&self) -> Result<()> {
        let position = lock(&self.journal).position();
        self.syncer.wait(&self.journal, position)
    }

    fn append(&self, journal: &mut MutexGuard<'_, Journal>, changes: &[Change], room: Room) -> Result<u64> {
        let (wanted, next, living) = {
            let state = lock(&self.state);
            let wanted = journal.wants_rewrite(state.entries.len());
            (wanted, state.next, if wanted { state.records() } else { Vec::new() })
        };
        if wanted {
            match journal.rewrite(next, &living) {
                Err(e) if journal.is_suspect() => return Err(e),
                // Only the dead weight stays for now.
                Ok(()) | Err(_) => {}
            }
        }
        journal.append(changes, room)
    }

    fn check_layers(&self, key: &str, layers: usize) -> Result<()> {
        if layers > self.max_layers {
            return Err(Error::TooManyLayers { key: key.to_owned(), layers, limit: self.max_layers });
        }
        Ok(())
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.store.state);
        state.reserved.remove(self.key);
        // The hold on the parent; a published child counts for itself.
        if let Some(parent) = self.parent.and_then(|p| state.entries.get_mut(p)) {
            parent.children -= 1;
        }
    }
}

impl State {
    fn replay(changes: Vec<Change>) -> Self {
        let mut records: BTreeMap<u64, Arc<Record>> = BTreeMap::new();
        let mut state = Self { next: 1, ..Self::default() };
        for change in changes {
            match change {
                Change::Format(_) => {}
                Change::Next(next) => state.next = state.next.max(next),
                Change::Put(record) => {
                    state.next = state.next.max(record.id.saturating_add(1));
                    records.insert(record.id, record);
                }
                Change::Delete(id) => {
                    records.remove(&id);
                }
            }
        }
        for record in records.into_values() {
            state.entries.insert(record.key.clone(), Entry { record, children: 0, leaving: false });
        }
        let parents: Vec<String> = state.entries.values().filter_map(|e| e.record.parent.clone()).collect();
        for parent in parents {
            if let Some(entry) = state.entries.get_mut(&parent) {
                entry.children += 1;
            }
        }
        state
    }

    fn entry(&self, key: &str) -> Result<&Entry> {
        self.entries.get(key).ok_or_else(|| Error::NotFound { key: key.to_owned() })
    }

    fn taken(&self, key: &str) -> bool {
        self.entries.contains_key(key) || self.reserved.contains(key)
    }

    fn records(&self) -> Vec<Arc<Record>> {
        self.entries.values().map(|entry| Arc::clone(&entry.record)).collect()
    }

    fn committed_parent(&mut self, parent: &str) -> Result<&mut Entry> {
        match self.entries.get_mut(parent).filter(|entry| !entry.leaving) {
            None => Err(Error::ParentNotFound { parent: parent.to_owned() }),
            Some(entry) if entry.record.kind != Kind::Committed => {
                Err(Error::ParentNotCommitted { parent: parent.to_owned(), kind: entry.record.kind })
            }
            Some(entry) => Ok(entry),
        }
    }

    /// Directory numbers from `parent` down to the bottom.
    fn parents(&self, parent: Option<&str>) -> Result<Vec<u64>> {
        let mut ids = Vec::new();
        let mut next = parent;
        while let Some(name) = next {
            let entry =
                self.entries.get(name).ok_or_else(|| Error::ParentNotFound { parent: name.to_owned() })?;
            ids.push(entry.record.id);
            next = entry.record.parent.as_deref();
        }
        Ok(ids)
    }

    /// The records that `commits` would make, if every one of them may happen after the ones before it.
    fn stage(&self, commits: &[Commit<'_>], max_layers: usize) -> Result<Vec<Arc<Record>>> {
        let mut staged: BTreeMap<&str, (Arc<Record>, usize)> = BTreeMap::new();
        let mut used = BTreeSet::new();
        let mut records = Vec::with_capacity(commits.len());
        for commit in commits {
            check_key(commit.name)?;
            let active = &self.entry(commit.key)?.record;
            if active.kind != Kind::Active || !used.insert(commit.key) {
                let kind = if active.kind == Kind::Active { Kind::Committed } else { active.kind };
                return Err(Error::WrongKind { key: commit.key.to_owned(), kind, wanted: "active" });
            }
            if self.taken(commit.name) || staged.contains_key(commit.name) {
                return Err(Error::AlreadyExists { key: commit.name.to_owned() });
            }
            let parent = match (&active.parent, commit.parent) {
                (Some(has), Some(wanted)) if has != wanted => {
                    return Err(Error::ParentMismatch {
                        key: commit.key.to_owned(),
                        has: format!("\"{has}\""),
                        wanted: wanted.to_owned(),
                    });
                }
                (Some(has), _) => Some(has.as_str()),
                (None, wanted) => wanted,
            };
            let layers = match parent {
                None => 0,
                Some(name) => {
                    1 + staged.get(name).map_or_else(|| self.layers_below(name), |(_, n)| Ok(*n))?
                }
            };
            if layers > max_layers {
                let key = commit.key.to_owned();
                return Err(Error::TooManyLayers { key, layers, limit: max_layers });
            }
            let mut record = Record::clone(active);
            record.key = commit.name.to_owned();
            record.kind = Kind::Committed;
            record.parent = parent.map(str::to_owned);
            let record = Arc::new(record);
            staged.insert(commit.name, (Arc::clone(&record), layers));
            records.push(record);
        }
        drop(staged);
        Ok(records)
    }

    /// Number of layers below the committed snapshot `name`.
    fn layers_below(&self, name: &str) -> Result<usize> {
        match self.entries.get(name) {
            None => Err(Error::ParentNotFound { parent: name.to_owned() }),
            Some(entry) if entry.record.kind != Kind::Committed => {
                Err(Error::ParentNotCommitted { parent: name.to_owned(), kind: entry.record.kind })
            }
            Some(entry) => Ok(self.parents(entry.record.parent.as_deref())?.len()),
        }
    }

    fn insert(&mut self, record: Arc<Record>) {
        if let Some(parent) = record.parent.as_ref().and_then(|p| self.entries.get_mut(p)) {
            parent.children += 1;
        }
        self.entries.insert(record.key.clone(), Entry { record, children: 0, leaving: false });
    }

    fn take(&mut self, key: &str) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        if let Some(parent) = entry.record.parent.as_ref().and_then(|p| self.entries.get_mut(p)) {
            parent.children -= 1;
        }
        Some(entry)
    }
}

fn check_key(key: &str) -> Result<()> {
    if key.is_empty() {
        return Err(Error::InvalidKey { why: "it is empty" });
    }
    if key.len() > MAX_KEY {
        return Err(Error::InvalidKey { why: "it is longer than 1024 bytes" });
    }
    Ok(())
}

fn checked(key: &str, labels: Labels) -> Result<Labels> {
    let size = labels.iter().map(|(k, v)| k.len() + v.len() + 8).sum();
    let limit = MAX_LINE / 8;
    if size > limit {
        return Err(Error::RecordTooLarge { key: key.to_owned(), size, limit });
    }
    Ok(labels)
}
