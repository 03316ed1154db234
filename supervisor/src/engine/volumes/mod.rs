//! Volumes: folders that outlive the containers which have them mounted.
//!
//! What always holds:
//! - A volume with a name is on the disk, its folder before its record, when whoever asked for it is told so; what was in
//!   it is never removed but by who asks for that.
//! - What a container has is noted before the container exists and until it is gone: nothing of it can be removed meanwhile.
//! - The lock of the list is held for moments, never over I/O; making and removing volumes come one after another.

mod check;
mod list;
mod make;
mod mount;
mod points;
mod populate;
mod prune;
mod recover;
mod remove;
mod resolve;

pub use list::Listed;
pub use make::Wanted;
pub(super) use mount::{names, release};
pub use points::MountPoint;
pub use prune::Selected;
pub use remove::Absent;
pub(super) use resolve::{Acquired, clean};

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Engine;
use super::history::{Event, Subject};

/// The one driver there is.
pub const DRIVER: &str = "local";

/// The label that tools know volumes without a name of the user's by.
pub const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

/// Below a volume's folder: its files.
const DATA: &str = "_data";

/// Below a volume's folder: what is being copied from an image.
const FILLING: &str = "_filling";

/// Begins the name of a folder that is being removed.
const GONE: &str = ".gone-";

/// What is kept of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    #[serde(with = "super::config::stamp")]
    pub created_at: Timestamp,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Of the driver: `type`, `o`, `device`.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Made for one container, without a name of the user's.
    #[serde(default)]
    pub anonymous: bool,
    /// The container that it goes with, whenever that does: one that is removed when it ends. Without a name only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goes_with: Option<String>,
}

/// A volume and who has it.
#[derive(Clone, Debug)]
struct Kept {
    record: VolumeRecord,
    /// Ids of containers, the ones that are being made included.
    users: BTreeSet<String>,
    /// Held while it is mounted, unmounted or filled: who has it mounted, containers that run with it and transfers.
    mounted: Arc<tokio::sync::Mutex<BTreeSet<String>>>,
    /// Its container is gone and it goes with it: nobody sees it any more, though its files may still be there.
    leaving: bool,
}

impl Kept {
    fn new(record: VolumeRecord) -> Kept {
        Kept { record, users: BTreeSet::new(), mounted: Arc::default(), leaving: false }
    }
}

/// All volumes of the engine.
#[derive(Debug)]
pub struct Volumes {
    folder: PathBuf,
    kept: Mutex<BTreeMap<String, Kept>>,
    /// Held by who makes or removes one.
    changing: tokio::sync::Mutex<()>,
}

impl Volumes {
    /// Those below `folder`, which [`Engine::recover_volumes`] reads.
    pub fn new(folder: PathBuf) -> Volumes {
        Volumes { folder, kept: Mutex::default(), changing: tokio::sync::Mutex::default() }
    }

    /// What all volumes are in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a volume's files are.
    pub fn data(&self, name: &str) -> PathBuf {
        self.folder.join(name).join(DATA)
    }

    /// Notes that a container has a volume; false if there is no such volume.
    fn take(&self, name: &str, user: &str) -> bool {
        match self.lock().get_mut(name) {
            Some(kept) => {
                // Who asks for it before it is gone has it.
                kept.leaving = false;
                kept.users.insert(user.to_owned());
                true
            }
            None => false,
        }
    }

    /// A container has it no more.
    pub(super) fn let_go(&self, name: &str, user: &str) {
        if let Some(kept) = self.lock().get_mut(name) {
            kept.users.remove(user);
        }
    }

    /// Those that nobody has go out of sight, to be removed.
    pub(super) fn dismiss(&self, names: &[String]) {
        let mut volumes = self.lock();
        for name in names {
            if let Some(kept) = volumes.get_mut(name) {
                kept.leaving = kept.users.is_empty();
            }
        }
    }

    fn get(&self, name: &str) -> Option<Kept> {
        self.lock().get(name).filter(|kept| !kept.leaving).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Tells the world what happened to a volume.
    fn volume_happened(&self, name: &str, action: &'static str, more: &[(&str, &str)]) {
        let driver = [("driver", DRIVER)];
        let attributes = more.iter().chain(&driver);
        self.history.record(Event {
            time: Timestamp::now(),
            subject: Subject::Volume,
            action: action.into(),
            actor: name.to_owned(),
            attributes: attributes.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        });
    }
}
