//! What a container has mounted beside its root: folders of the host, volumes, file systems in memory, images.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Whether a container may change what it sees through a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    #[default]
    ReadWrite,
    ReadOnly,
}

/// Where a mount's files come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    #[default]
    Bind,
    Volume,
    Tmpfs,
    Image,
}

/// One mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    pub kind: MountKind,
    /// Absolute path on the host, name of a volume (empty: an anonymous one), or reference of an image.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    pub access: Access,
    pub bind: BindOptions,
    pub volume: VolumeOptions,
    pub tmpfs: TmpfsOptions,
    /// Of a volume or an image: the folder within.
    pub subpath: String,
    /// `-v` or `--tmpfs` as it was written; empty for `--mount`.
    pub spec: String,
}

/// How a bind mount is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BindOptions {
    /// A source that is not there is made, as a folder.
    pub create_source: bool,
    /// Empty: `rprivate`.
    pub propagation: String,
    pub non_recursive: bool,
    /// `enabled` or empty, `writable`, `readonly`.
    pub recursive_read_only: String,
}

/// How a volume is mounted, and made where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeOptions {
    /// What the image has at the target stays out of an empty volume.
    pub no_copy: bool,
    pub labels: BTreeMap<String, String>,
    pub driver: String,
    pub driver_options: BTreeMap<String, String>,
    /// It has no name of the user's: removed with its container if that is asked for. Of a container's record only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
}

/// How a file system in memory is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TmpfsOptions {
    /// Bytes; 0: no limit.
    pub size: i64,
    /// Permission bits; 0: 01777.
    pub mode: u32,
    /// Mount options as `--tmpfs` takes them.
    pub options: Vec<String>,
}
