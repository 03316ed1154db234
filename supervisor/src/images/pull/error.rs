//! Why an image was not pulled or unpacked.

#![forbid(unsafe_code)]

use tonic::Code;

use crate::content::Digest;
use crate::error::Error;
use crate::images::fetch::error::FetchError;
use crate::images::manifest::ManifestRule;
use crate::images::unpack::UnpackError;

#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("manifest {digest} refused: {rule}")]
    Manifest { digest: Digest, rule: ManifestRule },
    #[error("config {digest} refused: {rule}")]
    Config { digest: Digest, rule: ManifestRule },
    #[error("{what} {digest} has {got} bytes, not the {expected} that its descriptor says")]
    Size { what: &'static str, digest: Digest, got: u64, expected: u64 },
    #[error("layer {digest}: {source}")]
    Layer { digest: Digest, source: UnpackError },
    #[error("layer {digest} refused: it unpacks to the diffID {got}, but the image's config says {expected}")]
    DiffId { digest: Digest, got: String, expected: String },
    #[error(
        "no space left on device: the image needs at least {needed} bytes in {path}, {free} are free: free some (`longshore image prune`) and try again"
    )]
    NoSpace { path: String, needed: u64, free: u64 },
    #[error(transparent)]
    Store(#[from] Error),
    #[error(
        "pull of {reference}: nothing has moved for {seconds} s (registry.stall_seconds) while {step}, with {current} of {total} bytes here: see to the registry and the disk, and try again"
    )]
    Stalled { reference: String, seconds: u64, step: &'static str, current: u64, total: u64 },
    #[error("pull of {0}: canceled")]
    Canceled(String),
}

impl PullError {
    pub fn manifest(digest: &Digest, rule: ManifestRule) -> PullError {
        PullError::Manifest { digest: digest.clone(), rule }
    }

    /// The row of the table in `error.rs` that this belongs to.
    pub fn code(&self) -> Code {
        match self {
            PullError::Fetch(error) => fetch_code(error),
            PullError::Manifest { rule: ManifestRule::NoPlatform { .. }, .. } => Code::NotFound,
            PullError::Layer { source: UnpackError::Full { .. }, .. } | PullError::NoSpace { .. } => {
                Code::ResourceExhausted
            }
            PullError::Layer { source: UnpackError::Cancelled, .. } | PullError::Canceled(_) => {
                Code::Cancelled
            }
            PullError::Layer { source: UnpackError::Write { .. } | UnpackError::Thread(_), .. } => {
                Code::Internal
            }
            PullError::Stalled { .. } => Code::Unavailable,
            PullError::Manifest { .. }
            | PullError::Config { .. }
            | PullError::Size { .. }
            | PullError::Layer { .. }
            | PullError::DiffId { .. } => Code::FailedPrecondition,
            PullError::Store(error) => error.code(),
        }
    }

    /// Whether what has been fetched should be kept for another attempt.
    pub fn may_be_resumed(&self) -> bool {
        match self {
            PullError::Canceled(_) | PullError::Stalled { .. } => true,
            PullError::Fetch(error) => error.passes() || matches!(error, FetchError::RateLimited { .. }),
            _ => false,
        }
    }
}

/// The row of the table that what goes wrong with a registry belongs to.
pub fn fetch_code(error: &FetchError) -> Code {
    match error {
        FetchError::Unauthorized { .. }
        | FetchError::Challenge { .. }
        | FetchError::Helper { .. }
        | FetchError::Login { .. } => Code::Unauthenticated,
        FetchError::Denied { .. } => Code::PermissionDenied,
        FetchError::NotFound { .. } => Code::NotFound,
        FetchError::RateLimited { .. } => Code::ResourceExhausted,
        FetchError::Address { .. } => Code::InvalidArgument,
        FetchError::NoHost { .. }
        | FetchError::HostsFile { .. }
        | FetchError::Scheme { .. }
        | FetchError::Client { .. }
        | FetchError::CaFile { .. }
        | FetchError::TooLong { .. }
        | FetchError::Malformed { .. }
        | FetchError::Long { .. }
        | FetchError::Digest { .. } => Code::FailedPrecondition,
        FetchError::Redirects { .. }
        | FetchError::Transport { .. }
        | FetchError::Stalled { .. }
        | FetchError::Status { .. }
        | FetchError::ContentRange { .. }
        | FetchError::Short { .. }
        | FetchError::TokenServer { .. } => Code::Unavailable,
        FetchError::Store(error) => error.code(),
    }
}
