//! A snapshot as the journal and the memory hold it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{Info, Kind, Labels, Usage};

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Record {
    /// Number of the directory.
    pub id: u64,
    pub key: String,
    pub kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    pub created: Stamp,
    pub updated: Stamp,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Of committed snapshots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

impl Record {
    pub fn info(&self) -> Info {
        Info {
            kind: self.kind,
            name: self.key.clone(),
            parent: self.parent.clone(),
            created: self.created.time(),
            updated: self.updated.time(),
            labels: self.labels.clone(),
        }
    }
}

/// Seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Stamp(u64, u32);

impl Stamp {
    pub fn now() -> Self {
        let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(age.as_secs(), age.subsec_nanos())
    }

    fn time(self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::new(self.0, self.1)).unwrap_or(UNIX_EPOCH)
    }
}
