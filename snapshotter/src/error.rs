//! Why an operation on snapshots failed.

use std::io;
use std::path::PathBuf;

use crate::snapshot::Kind;

/// A failed operation. Nothing was changed, unless a variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("snapshot \"{key}\" does not exist")]
    NotFound { key: String },
    #[error("snapshot \"{key}\" exists already")]
    AlreadyExists { key: String },
    #[error("parent snapshot \"{parent}\" does not exist")]
    ParentNotFound { parent: String },
    #[error("snapshot \"{parent}\" cannot be a parent: it is {}, not committed", name_of(*.kind))]
    ParentNotCommitted { parent: String, kind: Kind },
    #[error("snapshot \"{key}\" is {}, and this needs one that is {wanted}", name_of(*.kind))]
    WrongKind { key: String, kind: Kind, wanted: &'static str },
    #[error("snapshot \"{key}\" cannot be removed: {children} snapshots are based on it; remove them first")]
    HasChildren { key: String, children: usize },
    #[error("snapshot \"{key}\" was prepared on {has}, so it cannot be committed on \"{wanted}\"")]
    ParentMismatch { key: String, has: String, wanted: String },
    #[error("snapshot \"{key}\" would be based on {layers} layers, and the limit is {limit}")]
    TooManyLayers { key: String, layers: usize, limit: usize },
    #[error("invalid snapshot name: {why}")]
    InvalidKey { why: &'static str },
    #[error("the labels of snapshot \"{key}\" take {size} bytes, and the limit is {limit}")]
    RecordTooLarge { key: String, size: usize, limit: usize },
    #[error("label {label} of snapshot \"{key}\" {why}")]
    InvalidMapping { key: String, label: &'static str, why: &'static str },
    #[error("{path}: directories nested deeper than the limit of {limit}")]
    TooDeep { path: PathBuf, limit: usize },
    #[error("{path} cannot hold snapshots: {why}")]
    UnusableRoot { path: PathBuf, why: &'static str },
    #[error("{path} is in use by another process; stop it, or use another root")]
    Locked { path: PathBuf },
    #[error("{path} was written by a newer version (format {found}, this one knows {known})")]
    UnknownFormat { path: PathBuf, found: u32, known: u32 },
    #[error("{doing} {path}: {source}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl Error {
    /// For `map_err`: an I/O error with what was being done, to what.
    pub(crate) fn io<E: Into<io::Error>>(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source: source.into() }
    }
}

fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::View => "a view",
        Kind::Active => "active",
        Kind::Committed => "committed",
    }
}
