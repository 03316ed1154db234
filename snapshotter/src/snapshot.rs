//! The contract: what a snapshot is and what a snapshotter does with it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::Result;

/// What may be done with a snapshot.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Read-only look at its parent.
    View,
    /// Writable; becomes committed by [`Snapshotter::commit`] or is removed.
    Active,
    /// Complete and unchangeable; may be a parent.
    Committed,
}

/// Labels of a snapshot. Keys and values are free; limits on their size are the caller's.
pub type Labels = BTreeMap<String, String>;

/// What is known about a snapshot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Info {
    pub kind: Kind,
    /// Key of an active snapshot or view, name of a committed one: one name space for the three.
    pub name: String,
    /// Name of a committed snapshot, `None` at the bottom of a chain.
    pub parent: Option<String>,
    pub created: SystemTime,
    /// Time of the last commit or change of labels.
    pub updated: SystemTime,
    pub labels: Labels,
}

/// One mount(2), in containerd's form: type, source and the options as `mount -o` takes them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mount {
    /// `bind` or `overlay`.
    pub kind: String,
    pub source: String,
    /// Path below the mount point where this one goes; empty for the mount point itself.
    pub target: String,
    pub options: Vec<String>,
}

/// Disk use of one snapshot, without its parents.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Files, directories and all else that takes an inode; hard links count once.
    pub inodes: u64,
    /// Allocated bytes (512-byte blocks), not apparent sizes.
    pub size: u64,
}

/// Where a layer is unpacked, and how a deletion of something in the parent is written there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum UpperDir {
    /// Only what differs from the parent: whiteouts are 0:0 character devices, opaque directories carry the overlay xattr
    /// `opaque` in the given name space (`trusted.overlay.` or, in a user namespace, `user.overlay.`).
    Overlay { path: PathBuf, xattr_prefix: &'static str },
    /// The whole tree, the parent's content included: a deletion deletes.
    Whole { path: PathBuf },
}

impl UpperDir {
    /// The directory itself.
    pub fn path(&self) -> &std::path::Path {
        match self {
            Self::Overlay { path, .. } | Self::Whole { path } => path,
        }
    }
}

/// A change of labels.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LabelChange {
    /// These and no others.
    Replace(Labels),
    /// Set these, keep the others; an empty value takes the label away.
    Merge(Labels),
}

impl LabelChange {
    /// Does the change to `labels`.
    pub fn apply(self, labels: &mut Labels) {
        match self {
            Self::Replace(new) => *labels = new,
            Self::Merge(new) => labels.extend(new),
        }
        labels.retain(|_, value| !value.is_empty());
    }
}

/// One snapshot to be committed, see [`Snapshotter::commit_all`].
#[derive(Clone, Debug, Default)]
pub struct Commit<'a> {
    /// Name of the committed snapshot.
    pub name: &'a str,
    /// Key of the active snapshot, which ceases to exist.
    pub key: &'a str,
    /// Labels of the committed snapshot; those of the active one are not inherited.
    pub labels: Labels,
    /// A parent for a snapshot that was prepared without one (layers unpacked side by side), where
    /// [`Snapshotter::can_rebase`] allows it. `None` keeps the one it has.
    pub parent: Option<&'a str>,
    /// Disk use if the caller has counted it; otherwise the tree is walked.
    pub usage: Option<Usage>,
}

/// A store of snapshots. All calls are synchronous, may block on the disk, and may run at the same time.
///
/// Keys and names are at most [`crate::MAX_KEY`] bytes, not empty, and otherwise free: they never become paths.
pub trait Snapshotter: Send + Sync {
    /// What is known about the snapshot `key`.
    fn stat(&self, key: &str) -> Result<Info>;

    /// Changes labels, and nothing else. Returns the new state.
    fn update(&self, key: &str, change: LabelChange) -> Result<Info>;

    /// Disk use of `key` alone: recorded for a committed one, counted for an active one, nothing for a view.
    fn usage(&self, key: &str) -> Result<Usage>;

    /// What to mount to see (view) or write (active) the snapshot. Fails for a committed one.
    fn mounts(&self, key: &str) -> Result<Vec<Mount>>;

    /// Makes a writable snapshot on top of the committed `parent` (or empty). Not yet on disk when it returns.
    fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>>;

    /// Makes a read-only snapshot of the committed `parent` (or an empty one).
    fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>>;

    /// Turns the active `key` into the committed `name`. On disk when it returns.
    fn commit(&self, name: &str, key: &str, labels: Labels) -> Result<()> {
        self.commit_all(&[Commit { name, key, labels, ..Commit::default() }])
    }

    /// Commits several at once, all or none, with one sync of the file system. A later one may name an earlier one as
    /// its parent.
    fn commit_all(&self, commits: &[Commit<'_>]) -> Result<()>;

    /// Removes a snapshot that is nobody's parent, and its directories.
    fn remove(&self, key: &str) -> Result<()>;

    /// Shows every snapshot, in the order of their keys, as they were when the walk began.
    fn walk(&self, visit: &mut dyn FnMut(&Info) -> ControlFlow<()>);

    /// The directory that an active snapshot's own files are in.
    fn upper_dir(&self, key: &str) -> Result<UpperDir>;

    /// Whether [`Commit::parent`] may give a parent to a snapshot that was prepared without one.
    fn can_rebase(&self) -> bool;

    /// Whether mounts say `uidmap` and `gidmap` for snapshots whose labels ask for shifted owners.
    fn can_remap(&self) -> bool;

    /// Makes everything that returned before durable, without waiting for the data of active snapshots.
    fn flush(&self) -> Result<()>;

    /// Tries again to remove directories whose removal failed.
    fn cleanup(&self) -> Result<()>;

    /// Last flush before the end. Dropping without it loses nothing unless the power fails, too.
    fn close(&self) -> Result<()> {
        self.flush()
    }
}
