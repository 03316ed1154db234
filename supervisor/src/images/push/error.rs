//! Why an image was not pushed.

#![forbid(unsafe_code)]

use tonic::Code;

use crate::content::Digest;
use crate::error::Error;
use crate::images::fetch::error::FetchError;
use crate::images::pull::error::fetch_code;

#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(
        "{what} {digest} is not here, and {host} does not have it: pull the image for all platforms, or push one platform"
    )]
    Missing { what: &'static str, digest: Digest, host: String },
    #[error("{name}: no image in it fits {wanted}")]
    NoPlatform { name: String, wanted: String },
    #[error("{reference} names the digest {named}, but the image is {digest}")]
    OtherDigest { reference: String, named: String, digest: Digest },
    #[error("{what}: {host} gave no place to upload to")]
    NoLocation { what: String, host: String },
    #[error("{what}: {host} says that it has {got} bytes of {wanted}: the upload cannot go on")]
    Offset { what: String, host: String, got: u64, wanted: u64 },
    #[error("{what}: {host} stored it as {got}")]
    Stored { what: String, host: String, got: String },
    #[error(
        "{what}: {host} refuses it, since what it refers to is missing there ({source}): push all platforms, or an image of one"
    )]
    Dangling { what: String, host: String, source: Box<FetchError> },
    #[error(transparent)]
    Store(#[from] Error),
}

impl PushError {
    /// The row of the table in `error.rs` that this belongs to.
    pub fn code(&self) -> Code {
        match self {
            PushError::Fetch(error) => fetch_code(error),
            PushError::Missing { .. } | PushError::NoPlatform { .. } => Code::NotFound,
            PushError::OtherDigest { .. } => Code::InvalidArgument,
            PushError::NoLocation { .. } | PushError::Offset { .. } | PushError::Stored { .. } => {
                Code::Unavailable
            }
            PushError::Dangling { .. } => Code::FailedPrecondition,
            PushError::Store(error) => error.code(),
        }
    }
}
