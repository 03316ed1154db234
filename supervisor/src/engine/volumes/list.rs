//! Which volumes there are, and everything about one.

use std::path::Path;
use std::sync::Arc;

use super::{Kept, VolumeRecord};
use crate::content::store::blocking;
use crate::engine::Engine;
use crate::engine::filters::Filters;
use crate::error::{Error, Result};

/// A volume as it is shown.
#[derive(Clone, Debug)]
pub struct Listed {
    pub name: String,
    pub record: VolumeRecord,
    pub mountpoint: String,
    /// Ids of the containers that have it.
    pub users: Vec<String>,
    /// Bytes, if they were counted.
    pub size: Option<u64>,
}

impl Engine {
    /// Everything about one volume.
    pub fn find_volume(&self, name: &str) -> Result<Listed> {
        match self.volumes.get(name) {
            Some(kept) => Ok(self.listed(name, kept)),
            None => Err(no_such(name)),
        }
    }

    /// The volumes that the filters select, in the order of their names.
    pub async fn list_volumes(self: &Arc<Self>, filters: &[String], size: bool) -> Result<Vec<Listed>> {
        let filters = parse(filters, &["dangling", "driver", "label", "label!", "name"])?;
        let dangling = filters.flag("dangling")?;
        let all: Vec<(String, Kept)> =
            self.volumes.lock().iter().map(|(name, kept)| (name.clone(), kept.clone())).collect();
        let mut found: Vec<Listed> = all
            .into_iter()
            .filter(|(name, kept)| {
                !kept.leaving
                    && dangling.is_none_or(|dangling| kept.users.is_empty() == dangling)
                    && filters.any("driver", |driver| driver == super::DRIVER)
                    && filters.any("name", |text| name.contains(text))
                    && filters.labels(|key| kept.record.labels.get(key))
            })
            .map(|(name, kept)| self.listed(&name, kept))
            .collect();
        if size {
            for volume in &mut found {
                let path = volume.mountpoint.clone();
                volume.size = blocking(move || measure(Path::new(&path))).await.ok();
            }
        }
        Ok(found)
    }

    fn listed(&self, name: &str, kept: Kept) -> Listed {
        Listed {
            name: name.to_owned(),
            record: kept.record,
            mountpoint: self.volumes.data(name).display().to_string(),
            users: kept.users.into_iter().collect(),
            size: None,
        }
    }
}

pub fn no_such(name: &str) -> Error {
    Error::Conflict(crate::engine::conflict::Conflict::NoSuchVolume { name: name.to_owned() })
}

/// A filter that is not known is told as docker tells it of volumes.
pub fn parse(filters: &[String], accepted: &[&str]) -> Result<Filters> {
    for filter in filters {
        let key = filter.split('=').next().unwrap_or_default();
        let bare = key.trim_end_matches('!').trim();
        if !accepted.contains(&bare) {
            return Err(Error::invalid(
                format!("Invalid filter '{bare}'"),
                format!("volumes know {}", accepted.join(", ")),
            ));
        }
    }
    Filters::parse(filters, accepted)
}

/// Bytes that the files below `folder` take, each file once; other file systems mounted there are not entered.
pub fn measure(folder: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let failed = |source| Error::io("measuring", folder, source);
    let device = std::fs::symlink_metadata(folder).map_err(failed)?.dev();
    let (mut total, mut seen) = (0_u64, std::collections::HashSet::new());
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        // What is removed meanwhile takes no space.
        let Ok(entries) = std::fs::read_dir(&at) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                if meta.dev() == device {
                    folders.push(entry.path());
                }
            } else if meta.nlink() < 2 || seen.insert(meta.ino()) {
                total = total.saturating_add(meta.len());
            }
        }
    }
    Ok(total)
}
