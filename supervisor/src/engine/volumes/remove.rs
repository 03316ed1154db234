//! Removing a volume: out of the list, its folder out of the way, its record, then its files.

use std::path::PathBuf;
use std::sync::Arc;

use super::list::no_such;
use super::mount::{delete, leave};
use super::{GONE, Kept};
use crate::content::store::blocking;
use crate::engine::Engine;
use crate::engine::config::{MountKind, Record};
use crate::engine::conflict::Conflict;
use crate::error::{Error, Result};
use crate::metadata::tables;

/// What is said of a volume that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    Refuse,
    /// It is as good as removed.
    Fine,
}

impl Engine {
    /// Removes a volume that no container has. Nothing of it is left when this returns.
    pub async fn remove_volume(self: &Arc<Self>, name: &str, absent: Absent) -> Result<()> {
        let (engine, name) = (self.clone(), name.to_owned());
        // Carried through even if the client goes away.
        let work = async move {
            match engine.discard_volume(&name).await {
                Err(Error::Conflict(Conflict::NoSuchVolume { .. })) if absent == Absent::Fine => Ok(()),
                discarded => engine.sweep_volume(discarded?).await,
            }
        };
        self.background.spawn(work).await.unwrap_or(Err(Error::Lost { what: "removing a volume" }))
    }

    /// The volume is gone when this returns; what was in it is the caller's to remove.
    async fn discard_volume(&self, name: &str) -> Result<PathBuf> {
        let _changing = self.volumes.changing.lock().await;
        let kept = self.take_out(name)?;
        let mut guard = PutBack { engine: self, name, kept: Some(kept) };
        let (folder, gone) =
            (self.volumes.folder.join(name), self.volumes.folder.join(format!("{GONE}{name}")));
        let (parent, aside) = (self.volumes.folder.clone(), gone.clone());
        blocking(move || {
            let failed = |source| Error::io("removing", &folder, source);
            // An earlier removal may not have come to its end.
            delete(&aside)?;
            leave(&folder)?;
            match std::fs::rename(&folder, &aside) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                renamed => renamed.map_err(failed)?,
            }
            std::fs::File::open(&parent).and_then(|parent| parent.sync_all()).map_err(failed)
        })
        .await?;
        // From here on the removal is finished at the next start, if not now.
        guard.kept = None;
        self.db.write(|tx| tx.delete(&tables::VOLUMES, &self.namespace, name)).await?;
        self.volume_happened(name, "destroy", &[]);
        Ok(gone)
    }

    fn take_out(&self, name: &str) -> Result<Kept> {
        let mut volumes = self.volumes.lock();
        let Some(kept) = volumes.get(name) else { return Err(no_such(name)) };
        if !kept.users.is_empty() {
            let users = kept.users.iter().cloned().collect();
            return Err(Conflict::VolumeInUse { name: name.to_owned(), users }.into());
        }
        volumes.remove(name).ok_or_else(|| no_such(name))
    }

    async fn sweep_volume(&self, gone: PathBuf) -> Result<()> {
        blocking(move || delete(&gone)).await
    }

    /// A container that is gone has no volumes.
    pub(in crate::engine) fn release_volumes(&self, id: &str, record: &Record) {
        for mount in record.mounts().iter().filter(|mount| mount.kind == MountKind::Volume) {
            self.volumes.let_go(&mount.source, id);
        }
    }

    /// Removes those of a container's anonymous volumes that nobody else has.
    pub(in crate::engine) async fn remove_anonymous(self: &Arc<Self>, names: &[String]) {
        for name in names {
            match self.remove_volume(name, Absent::Fine).await {
                Ok(()) | Err(Error::Conflict(Conflict::VolumeInUse { .. })) => {}
                Err(error) => {
                    tracing::warn!(volume = %name, %error, "an anonymous volume could not be removed");
                }
            }
        }
    }
}

/// A volume that could not be removed is there as before.
struct PutBack<'a> {
    engine: &'a Engine,
    name: &'a str,
    kept: Option<Kept>,
}

impl Drop for PutBack<'_> {
    fn drop(&mut self) {
        if let Some(mut kept) = self.kept.take() {
            kept.leaving = false;
            self.engine.volumes.lock().insert(self.name.to_owned(), kept);
        }
    }
}
