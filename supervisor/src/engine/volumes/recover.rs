//! After a start of the daemon: the records, the folders and what the containers say are made to agree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::mount::{delete, leave};
use super::{ANONYMOUS_LABEL, DATA, FILLING, GONE, Kept, VolumeRecord, make};
use crate::content::store::blocking;
use crate::engine::Engine;
use crate::engine::config::MountKind;
use crate::error::{Error, Result};
use crate::metadata::{Reader, tables};

/// What there is on the disk.
#[derive(Debug, Default)]
struct Folders {
    /// Names; true: with something in it.
    volumes: BTreeMap<String, bool>,
    /// Removals that did not come to their end.
    gone: Vec<String>,
}

impl Engine {
    /// Reads the volumes. What was being removed is removed; a folder without a record becomes a volume again if there is
    /// something in it. Comes before the containers are looked at.
    pub(in crate::engine) async fn recover_volumes(self: &Arc<Self>) -> Result<()> {
        let folder = self.volumes.folder.clone();
        let folders = blocking(move || look(&folder)).await?;
        let rows = self.db.list(&tables::VOLUMES, &self.namespace)?;
        let mut records: BTreeMap<String, VolumeRecord> =
            rows.into_iter().map(|row| (row.key, row.record)).collect();
        for name in &folders.gone {
            if !folders.volumes.contains_key(name) {
                records.remove(name);
                self.db.write_lazy(|tx| tx.delete(&tables::VOLUMES, &self.namespace, name))?;
            }
        }
        for (name, filled) in &folders.volumes {
            if !records.contains_key(name) {
                self.adopt(name, *filled, &mut records).await?;
            }
        }
        for name in records.keys().filter(|name| !folders.volumes.contains_key(*name)) {
            tracing::warn!(volume = %name, "the folder of a volume was lost; it is empty now");
            let path = self.volumes.folder.join(name);
            blocking(move || make::make_folder(&path, true)).await?;
        }
        let kept = records.into_iter().map(|(name, record)| (name, Kept::new(record)));
        self.volumes.lock().extend(kept);
        let gone: Vec<PathBuf> =
            folders.gone.iter().map(|name| self.volumes.folder.join(format!("{GONE}{name}"))).collect();
        // May take long, and stands in nobody's way.
        self.background.spawn(async move {
            for path in gone {
                let shown = path.display().to_string();
                let removed = blocking(move || delete(&path));
                if let Err(error) = removed.await {
                    tracing::warn!(folder = %shown, %error, "what is left of a volume could not be removed");
                }
            }
        });
        Ok(())
    }

    async fn adopt(
        &self,
        name: &str,
        filled: bool,
        records: &mut BTreeMap<String, VolumeRecord>,
    ) -> Result<()> {
        let path = self.volumes.folder.join(name);
        if !filled {
            return blocking(move || delete(&path)).await;
        }
        tracing::warn!(volume = name, "a folder with files has no record; it is a volume again");
        let anonymous = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let labels = anonymous.then(|| (ANONYMOUS_LABEL.to_owned(), String::new())).into_iter().collect();
        let record = VolumeRecord {
            created_at: Timestamp::now(),
            labels,
            options: BTreeMap::new(),
            anonymous,
            goes_with: None,
        };
        self.db.write_lazy(|tx| tx.put(&tables::VOLUMES, &self.namespace, name, &record))?;
        records.insert(name.to_owned(), record);
        Ok(())
    }

    /// Notes what the containers have. Comes before any of them is removed.
    pub(in crate::engine) async fn note_volumes(self: &Arc<Self>) -> Result<()> {
        for entry in self.registry.all() {
            let record = entry.record();
            for mount in record.mounts().iter().filter(|mount| mount.kind == MountKind::Volume) {
                if self.volumes.take(&mount.source, &entry.id) {
                    continue;
                }
                tracing::warn!(volume = %mount.source, container = %entry.id, "a container's volume was lost; it is empty now");
                let record = VolumeRecord {
                    created_at: Timestamp::now(),
                    labels: BTreeMap::new(),
                    options: BTreeMap::new(),
                    anonymous: mount.volume.anonymous,
                    goes_with: None,
                };
                self.ensure_volume(&mount.source, record, Some(&entry.id)).await?;
            }
        }
        self.drop_left_behind();
        Ok(())
    }

    /// Removes the volumes of containers that were removed at their end, when the daemon died before their volumes were.
    fn drop_left_behind(self: &Arc<Self>) {
        let owned = |(name, kept): (&String, &Kept)| {
            let owner = kept.record.goes_with.clone().filter(|_| kept.users.is_empty())?;
            Some((name.clone(), owner))
        };
        let owned: Vec<(String, String)> = self.volumes.lock().iter().filter_map(owned).collect();
        let gone = owned.into_iter().filter(|(_, owner)| self.registry.get(owner).is_none());
        let names: Vec<String> = gone.map(|(name, _)| name).collect();
        if !names.is_empty() {
            tracing::info!(volumes = names.len(), "removing volumes whose containers are gone");
            self.volumes.dismiss(&names);
            let engine = self.clone();
            self.background.spawn(async move { engine.remove_anonymous(&names).await });
        }
    }

    /// Notes who runs with which volume, and unmounts those that nobody does. Comes after the containers' states are settled.
    pub(in crate::engine) async fn settle_mounts(self: &Arc<Self>) -> Result<()> {
        let all: Vec<(String, Kept)> =
            self.volumes.lock().iter().map(|(name, kept)| (name.clone(), kept.clone())).collect();
        for (name, kept) in all {
            let mut mounted = kept.mounted.lock().await;
            let runs = |id: &&String| self.registry.get(id).is_some_and(|entry| entry.status().is_live());
            mounted.extend(kept.users.iter().filter(runs).cloned());
            if mounted.is_empty() && !kept.record.options.is_empty() {
                let folder = self.volumes.folder.join(&name);
                blocking(move || leave(&folder)).await?;
            }
        }
        Ok(())
    }
}

fn look(folder: &Path) -> Result<Folders> {
    let failed = |source| Error::io("listing", folder, source);
    let mut folders = Folders::default();
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(gone) = name.strip_prefix(GONE) {
            folders.gone.push(gone.to_owned());
        } else if super::check::name(name).is_ok() && seen.insert(name.to_owned()) {
            let path = folder.join(name);
            match std::fs::remove_dir_all(path.join(FILLING)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
            let filled = std::fs::read_dir(path.join(DATA)).is_ok_and(|mut entries| entries.next().is_some());
            folders.volumes.insert(name.to_owned(), filled);
        }
    }
    Ok(folders)
}
