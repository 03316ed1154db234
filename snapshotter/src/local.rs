//! What both drivers share: the verbs, on one folder of directories and one journal.
//!
//! What always holds: directories are made before the record that owns them and removed after it is gone, so that a crash at
//! any moment leaves at worst a directory without an owner, which the next open removes.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::directories::Directories;
use crate::store::{Chain, Store};
use crate::{
    Commit, Error, Info, Kind, LabelChange, Labels, Mount, Result, Snapshotter, UpperDir, Usage, lock, remap,
    tree,
};

/// How one driver lays out and mounts a snapshot.
pub trait Driver: Send + Sync + 'static {
    /// Most layers below a snapshot.
    const MAX_LAYERS: usize;
    const CAN_REBASE: bool;

    /// Makes the directories of the new snapshot `id` on top of `parents`, nearest first.
    fn create(&self, directories: &Directories, id: u64, kind: Kind, parents: &[u64]) -> Result<()>;

    /// What to mount for the snapshot `id`, active or a view.
    fn mounts(
        &self,
        directories: &Directories,
        id: u64,
        kind: Kind,
        parents: &[u64],
        labels: &Labels,
    ) -> Vec<Mount>;

    /// Whether owners can be shifted by the mount.
    fn can_remap(&self) -> bool;

    /// How the directory `fs` of an active snapshot is to be written.
    fn upper_dir(&self, fs: String) -> UpperDir;
}

/// A snapshotter on one local folder.
pub struct Local<D> {
    driver: D,
    directories: Directories,
    store: Store,
    /// Directories whose removal failed.
    leftovers: Mutex<BTreeSet<u64>>,
    recovery: Recovery,
}

/// What opening a folder found and did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Recovery {
    /// Directories without an owner, removed: an interrupted prepare or remove.
    pub removed: usize,
    /// Parts of the journal were unreadable. Directories without an owner were not removed but moved to `unowned/`.
    pub damaged: bool,
    /// Active snapshots whose files were lost in a power cut; they are empty now.
    pub emptied: Vec<String>,
    /// Committed snapshots whose files somebody removed. Those that nobody is based on were forgotten, so that they
    /// can be made again.
    pub lost: Vec<String>,
}

impl<D: Driver> Local<D> {
    pub(crate) fn open_with(root: &Path, driver: D) -> Result<Self> {
        let directories = Directories::open(root)?;
        let (store, damaged) = Store::open(Arc::clone(&directories.root), directories.path(), D::MAX_LAYERS)?;
        let leftovers = Mutex::default();
        let recovery = Recovery { damaged, ..Recovery::default() };
        let mut local = Self { driver, directories, store, leftovers, recovery };
        local.reconcile()?;
        Ok(local)
    }

    /// What opening found and did.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    pub(crate) fn directories(&self) -> &Directories {
        &self.directories
    }

    pub(crate) fn driver(&self) -> &D {
        &self.driver
    }

    /// Makes the directories and the records agree.
    fn reconcile(&mut self) -> Result<()> {
        let (present, owned) = (self.directories.list()?, self.store.directories());
        if let Some(highest) = present.last() {
            self.store.skip(*highest);
        }
        for id in present.difference(&owned) {
            if self.recovery.damaged {
                self.directories.put_aside(*id)?;
                continue;
            }
            match self.directories.remove(*id) {
                Ok(()) => self.recovery.removed += 1,
                Err(_) => drop(lock(&self.leftovers).insert(*id)),
            }
        }
        self.restore(&owned.difference(&present).copied().collect())
    }

    /// Deals with records whose directories are missing.
    fn restore(&mut self, missing: &BTreeSet<u64>) -> Result<()> {
        if missing.is_empty() {
            return Ok(());
        }
        for record in self.store.all().iter().filter(|r| missing.contains(&r.id)) {
            if record.kind == Kind::Committed {
                self.recovery.lost.push(record.key.clone());
                continue;
            }
            let Ok(chain) = self.store.chain(&record.key) else { continue };
            let made = self
                .driver
                .create(&self.directories, record.id, record.kind, &chain.parents)
                .and_then(|()| self.own_root(record.id, &record.key, &record.labels));
            match made {
                Ok(()) => self.recovery.emptied.push(record.key.clone()),
                Err(_) => self.recovery.lost.push(record.key.clone()),
            }
        }
        // From the tips down; what still has children stays, and its mounts will name what is missing.
        while self.recovery.lost.iter().any(|key| self.store.remove(key).is_ok()) {}
        Ok(())
    }

    fn create(&self, kind: Kind, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        let parent = parent.filter(|p| !p.is_empty());
        let reservation = self.store.reserve(key, parent)?;
        let (id, parents) = (reservation.id, reservation.parents.clone());
        let made = self.driver.create(&self.directories, id, kind, &parents);
        let made = made.and_then(|()| self.own_root(id, key, &labels));
        let mounts = self.driver.mounts(&self.directories, id, kind, &parents, &labels);
        if let Err(e) = made.and_then(|()| self.store.publish(reservation, kind, labels)) {
            self.discard(id);
            return Err(e);
        }
        Ok(mounts)
    }

    /// Where owners are to be shifted the root is the container's root's, whoever shifts them.
    fn own_root(&self, id: u64, key: &str, labels: &Labels) -> Result<()> {
        remap::root(key, labels)?.map_or(Ok(()), |owner| self.directories.own_root(id, owner))
    }

    /// Removes directories that nobody owns any more.
    fn discard(&self, id: u64) {
        if self.directories.remove(id).is_err() {
            lock(&self.leftovers).insert(id);
        }
    }

    fn count(&self, id: u64) -> Result<Usage> {
        let path = self.directories.path_in(id, "fs");
        tree::count(self.directories.open_fs(id)?, Path::new(&path))
    }
}

impl<D: Driver> Snapshotter for Local<D> {
    fn stat(&self, key: &str) -> Result<Info> {
        self.store.get(key).map(|record| record.info())
    }

    fn update(&self, key: &str, change: LabelChange) -> Result<Info> {
        self.store.update(key, change).map(|record| record.info())
    }

    fn usage(&self, key: &str) -> Result<Usage> {
        let record = self.store.get(key)?;
        match record.kind {
            Kind::Active => self.count(record.id),
            Kind::View | Kind::Committed => Ok(record.usage.unwrap_or_default()),
        }
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let Chain { record, parents } = self.store.chain(key)?;
        if record.kind == Kind::Committed {
            return Err(Error::WrongKind {
                key: key.to_owned(),
                kind: record.kind,
                wanted: "active or a view",
            });
        }
        Ok(self.driver.mounts(&self.directories, record.id, record.kind, &parents, &record.labels))
    }

    fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        self.create(Kind::Active, key, parent, labels)
    }

    fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        self.create(Kind::View, key, parent, labels)
    }

    fn commit_all(&self, commits: &[Commit<'_>]) -> Result<()> {
        let rebased = commits.iter().find(|c| c.parent.is_some_and(|p| !p.is_empty()));
        let staged = self.store.check_commits(commits)?;
        if let Some(commit) = rebased
            && !D::CAN_REBASE
            && self.store.get(commit.key)?.parent.is_none()
        {
            let wanted = commit.parent.unwrap_or_default().to_owned();
            return Err(Error::ParentMismatch {
                key: commit.key.to_owned(),
                has: "nothing".to_owned(),
                wanted,
            });
        }
        let mut usages = Vec::with_capacity(commits.len());
        for (record, commit) in staged.iter().zip(commits) {
            usages.push(commit.usage.map_or_else(|| self.count(record.id), Ok)?);
        }
        self.directories.sync()?;
        self.store.commit(commits, &usages)
    }

    fn remove(&self, key: &str) -> Result<()> {
        let record = self.store.remove(key)?;
        self.discard(record.id);
        Ok(())
    }

    fn walk(&self, visit: &mut dyn FnMut(&Info) -> ControlFlow<()>) {
        for record in self.store.all() {
            if visit(&record.info()).is_break() {
                return;
            }
        }
    }

    fn upper_dir(&self, key: &str) -> Result<UpperDir> {
        let record = self.store.get(key)?;
        if record.kind != Kind::Active {
            return Err(Error::WrongKind { key: key.to_owned(), kind: record.kind, wanted: "active" });
        }
        Ok(self.driver.upper_dir(self.directories.path_in(record.id, "fs")))
    }

    fn can_rebase(&self) -> bool {
        D::CAN_REBASE
    }

    fn can_remap(&self) -> bool {
        self.driver.can_remap()
    }

    fn flush(&self) -> Result<()> {
        self.store.flush()
    }

    fn cleanup(&self) -> Result<()> {
        let leftovers = lock(&self.leftovers).clone();
        let mut first = Ok(());
        for id in leftovers {
            match self.directories.remove(id) {
                Ok(()) => drop(lock(&self.leftovers).remove(&id)),
                Err(e) => first = first.and(Err(e)),
            }
        }
        first
    }
}
