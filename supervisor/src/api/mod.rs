//! The gRPC front: one file per service, each a thin translation between the wire and the daemon's own types.
//!
//! What always holds: nothing behind this folder sees a gRPC message, and nothing in it decides more than what a
//! request means.

pub mod tasks;

use tonic::Request;

use crate::error::{Error, Result};
use crate::namespaces::Namespace;

/// The header that carries a request's namespace.
pub const NAMESPACE_HEADER: &str = "containerd-namespace";

/// The namespace of a request.
///
/// # Errors
/// FailedPrecondition when there is none, InvalidArgument when it is no namespace.
pub fn namespace<T>(request: &Request<T>) -> Result<Namespace> {
    let Some(value) = request.metadata().get(NAMESPACE_HEADER) else {
        return Err(Error::precondition("request", "namespace is required (header containerd-namespace)"));
    };
    Namespace::parse(value.to_str().unwrap_or_default())
}
