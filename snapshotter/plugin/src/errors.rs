//! The table: which gRPC code a containerd sees for which cause. Messages end with the words that its clients look for.

use longshore_snapshotter::Error;
use tonic::{Code, Status};

pub fn status(error: Error) -> Status {
    let (code, words) = match &error {
        Error::NotFound { .. } | Error::ParentNotFound { .. } => (Code::NotFound, ": not found"),
        Error::AlreadyExists { .. } => (Code::AlreadyExists, ": already exists"),
        Error::ParentNotCommitted { .. }
        | Error::ParentMismatch { .. }
        | Error::InvalidKey { .. }
        | Error::InvalidMapping { .. } => (Code::InvalidArgument, ": invalid argument"),
        Error::WrongKind { .. } | Error::HasChildren { .. } => {
            (Code::FailedPrecondition, ": failed precondition")
        }
        Error::TooManyLayers { .. } | Error::RecordTooLarge { .. } | Error::TooDeep { .. } => {
            (Code::ResourceExhausted, "")
        }
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            (Code::ResourceExhausted, "")
        }
        Error::UnusableRoot { .. }
        | Error::Locked { .. }
        | Error::UnknownFormat { .. }
        | Error::Io { .. } => (Code::Internal, ""),
    };
    Status::new(code, format!("{error}{words}"))
}
