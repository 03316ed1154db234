//! Making a volume: its folder, then its record.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::list::Listed;
use super::{ANONYMOUS_LABEL, DATA, Kept, VolumeRecord, check};
use crate::content::store::blocking;
use crate::engine::{Engine, names};
use crate::error::{Error, Result};
use crate::metadata::tables;

/// What a volume is to be.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Empty: an anonymous one.
    pub name: String,
    /// Empty: `local`.
    pub driver: String,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
}

/// Whether a volume was there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    Now,
    Before,
}

impl Engine {
    /// Makes a volume, or finds the one that has the name. Durable when it returns.
    pub async fn create_volume(self: &Arc<Self>, wanted: Wanted) -> Result<Listed> {
        let (name, record) = wanted.checked()?;
        self.ensure_volume(&name, record, None).await?;
        self.db.sync().await?;
        self.find_volume(&name)
    }

    /// A volume of that name, noted as `user`'s if there is one.
    pub(super) async fn ensure_volume(
        self: &Arc<Self>,
        name: &str,
        record: VolumeRecord,
        user: Option<&str>,
    ) -> Result<Made> {
        let found = |engine: &Engine| match user {
            Some(user) => engine.volumes.take(name, user),
            None => engine.volumes.get(name).is_some(),
        };
        if found(self) {
            return Ok(Made::Before);
        }
        // Carried through even if the client goes away.
        let (engine, name, user) = (self.clone(), name.to_owned(), user.map(str::to_owned));
        let work = async move {
            let _changing = engine.volumes.changing.lock().await;
            if let Some(user) = &user
                && engine.volumes.take(&name, user)
            {
                return Ok(Made::Before);
            }
            if engine.volumes.get(&name).is_some() {
                return Ok(Made::Before);
            }
            engine.make_volume(&name, record, user).await?;
            Ok(Made::Now)
        };
        self.background.spawn(work).await.unwrap_or(Err(Error::Lost { what: "making a volume" }))
    }

    async fn make_volume(&self, name: &str, record: VolumeRecord, user: Option<String>) -> Result<()> {
        let folder = self.volumes.folder.join(name);
        // What has no name is found by nobody after a power cut: the container that it is for makes it again.
        let synced = !record.anonymous;
        let (path, kept) = (folder.clone(), record.clone());
        let made = async {
            blocking(move || make_folder(&path, synced)).await?;
            if synced {
                self.db.write(|tx| tx.put(&tables::VOLUMES, &self.namespace, name, &kept)).await
            } else {
                self.db.write_lazy(|tx| tx.put(&tables::VOLUMES, &self.namespace, name, &kept))
            }
        };
        if let Err(error) = made.await {
            let removed = blocking(move || {
                std::fs::remove_dir_all(&folder).map_err(|source| Error::io("removing", &folder, source))
            });
            if let Err(error) = removed.await {
                tracing::warn!(volume = name, %error, "a volume that was not made left its folder");
            }
            return Err(error);
        }
        let mut kept = Kept::new(record);
        kept.users.extend(user);
        self.volumes.lock().insert(name.to_owned(), kept);
        self.volume_happened(name, "create", &[]);
        Ok(())
    }
}

impl Wanted {
    /// The name, made up where there is none, and the record.
    pub fn checked(self) -> Result<(String, VolumeRecord)> {
        let anonymous = self.name.is_empty();
        let name = if anonymous { names::new_id() } else { self.name };
        check::name(&name)?;
        check::driver(&name, &self.driver)?;
        check::options(&name, &self.options)?;
        check::bounded(&name, &self.labels)?;
        let mut labels = self.labels;
        if anonymous {
            labels.insert(ANONYMOUS_LABEL.to_owned(), String::new());
        }
        Ok((
            name,
            VolumeRecord {
                created_at: Timestamp::now(),
                labels,
                options: self.options,
                anonymous,
                goes_with: None,
            },
        ))
    }
}

/// Makes the folders of a volume; `synced`: they are on the disk when this returns.
pub fn make_folder(folder: &Path, synced: bool) -> Result<()> {
    let data = folder.join(DATA);
    let make = || {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        std::fs::DirBuilder::new().mode(0o701).recursive(true).create(folder)?;
        match std::fs::create_dir(&data) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // The umask has no say.
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755))?;
        if synced {
            for path in [data.as_path(), folder, folder.parent().unwrap_or(folder)] {
                std::fs::File::open(path)?.sync_all()?;
            }
        }
        Ok(())
    };
    make().map_err(|source| Error::io("making the folder of a volume,", folder, source))
}
