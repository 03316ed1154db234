//! Image archives: what is common to reading and writing them, and what can be wrong with one.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use tonic::Code;

use super::manifest::ManifestRule;
use super::unpack::UnpackError;
use crate::content::Digest;

pub const LAYOUT_FILE: &str = "oci-layout";
pub const INDEX_FILE: &str = "index.json";
pub const DOCKER_FILE: &str = "manifest.json";
/// By which docker named images before 1.10.
pub const REPOSITORIES_FILE: &str = "repositories";
pub const LAYOUT_VERSION: &str = "1.0.0";
/// The full name of an image, on its descriptor in an index.
pub const NAME: &str = "io.containerd.image.name";
/// Its tag, or its full name.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An archive that is refused, or that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("image archive: {0}")]
    Tar(UnpackError),
    #[error("image archive: reading it: {0}")]
    Read(std::io::Error),
    #[error("image archive: writing it: {0}")]
    Write(std::io::Error),
    #[error(
        "image archive: it is neither an OCI layout (`oci-layout`, `index.json`) nor what `docker save` writes (`manifest.json`)"
    )]
    Unrecognized,
    #[error("image archive: it was saved by a docker older than 1.10 (`repositories` only): save it again")]
    Legacy,
    #[error("image archive: its OCI layout is of version {0:?}; {LAYOUT_VERSION} is supported")]
    LayoutVersion(String),
    #[error("image archive: {file}: {why}")]
    Json { file: &'static str, why: String },
    #[error("image archive: {file}: it is refused: {rule}")]
    Manifest { file: String, rule: ManifestRule },
    #[error("image archive: {file} has {size} bytes; the limit is {limit}")]
    Large { file: String, size: u64, limit: u64 },
    #[error("image archive: it has more than {0} files")]
    ManyFiles(usize),
    #[error("image archive: {what} are more than {limit}")]
    Many { what: &'static str, limit: usize },
    #[error(
        "image archive: it inflates to more than {inflated} bytes from {compressed}: a decompression bomb"
    )]
    Bomb { inflated: u64, compressed: u64 },
    #[error("image archive: {0} is a sparse file, which no blob is")]
    Sparse(String),
    #[error("image archive: {0} is in it twice, with different contents")]
    Twice(String),
    #[error("image archive: {file} is not what its name says: its digest is {got}")]
    Misnamed { file: String, got: Digest },
    #[error("image archive: the link {name} leads to {target:?}, which is not in the archive")]
    Link { name: String, target: String },
    #[error("image archive: {what} {name}, which {by} names, is not in it")]
    Missing { what: &'static str, name: String, by: String },
    #[error("image archive: the name {name:?} in it is no image reference: {why}")]
    Name { name: String, why: String },
    #[error("{image}: {what} {digest} is not here: pull the image for all platforms, or export fewer")]
    NotHere { image: String, what: &'static str, digest: Digest },
    #[error("{image}: no image in it fits {wanted}")]
    NoPlatform { image: String, wanted: String },
    #[error("{image}: only manifests and indexes can be exported, not {media_type:?}")]
    NoManifest { image: String, media_type: String },
}

impl ArchiveError {
    /// The row of the table in `error.rs` that this belongs to.
    pub fn code(&self) -> Code {
        match self {
            ArchiveError::Tar(UnpackError::Cancelled) => Code::Cancelled,
            ArchiveError::Read(error) if is_damage(error) => Code::InvalidArgument,
            ArchiveError::Read(_) | ArchiveError::Write(_) => Code::Unavailable,
            ArchiveError::NotHere { .. } | ArchiveError::NoPlatform { .. } | ArchiveError::Missing { .. } => {
                Code::NotFound
            }
            ArchiveError::Large { .. }
            | ArchiveError::ManyFiles(_)
            | ArchiveError::Many { .. }
            | ArchiveError::Bomb { .. } => Code::ResourceExhausted,
            _ => Code::InvalidArgument,
        }
    }
}

// What a decoder says of a stream, and not the stream of itself.
fn is_damage(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof | Other)
}

/// One image in docker's `manifest.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DockerImage {
    #[serde(rename = "Config")]
    pub config: String,
    #[serde(rename = "RepoTags")]
    pub repo_tags: Option<Vec<String>>,
    #[serde(rename = "Layers", default)]
    pub layers: Vec<String>,
}
