//! The daemon's one error type: every variant names a cause and carries what it happened to.
//!
//! What always holds: the mapping to gRPC codes is the one table at the end of this file, and no
//! variant is a catch-all string.

use std::io;
use std::path::PathBuf;

use tonic::{Code, Status};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request was not carried out. Messages of containerd's services follow its form
/// (`image "x": not found`), since its clients cut the code's words off the end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{kind} \"{name}\": not found")]
    NotFound { kind: &'static str, name: String },

    #[error("{kind} \"{name}\": already exists")]
    AlreadyExists { kind: &'static str, name: String },

    /// The request can never succeed as it is.
    #[error("{what}: {why}: invalid argument")]
    InvalidArgument { what: String, why: String },

    /// The request could succeed in another state of the system.
    #[error("{what}: {why}: failed precondition")]
    FailedPrecondition { what: String, why: String },

    /// Someone else holds it now, or the peer is away: try again.
    #[error("{what}: {why}: unavailable")]
    Unavailable { what: String, why: String },

    #[error("{what}: {why}: out of range")]
    OutOfRange { what: String, why: String },

    /// A bound of the daemon was reached; `limit` names it as the configuration or the docs do.
    #[error("{what}: limit {limit} = {max} reached")]
    ResourceExhausted { what: String, limit: &'static str, max: u64 },

    /// The file system is full.
    #[error("{doing} {}: no space left on device: free some space (`longshore image prune`) and try again", path.display())]
    DiskFull { doing: &'static str, path: PathBuf },

    #[error("{what} is not implemented")]
    Unimplemented { what: String },

    #[error("{what}: canceled")]
    Canceled { what: String },

    #[error("{what}: no answer within {seconds} s: deadline exceeded")]
    Timeout { what: String, seconds: u64 },

    #[error("{what}: {why}: permission denied")]
    PermissionDenied { what: String, why: String },

    /// Stored data does not match its checksum or its form.
    #[error("{what} is damaged: {why}")]
    Damaged { what: String, why: String },

    #[error("{doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },

    #[error("metadata store: {doing}: {source}")]
    Metadata { doing: &'static str, source: crate::metadata::Failure },

    /// A record could not be encoded or decoded; `table` and `key` name it.
    #[error("metadata record {table}/{key}: {source}")]
    Record { table: &'static str, key: String, source: crate::metadata::Unreadable },

    /// A shim refused what it was asked, or did not answer; `step` is what it was asked.
    #[error("container {container}: {step}: {message}")]
    Shim { container: String, step: &'static str, code: Code, message: String },

    /// A plugin refused what it was asked; `step` is what that was.
    #[error("{plugin}: {step}: {message}")]
    Plugin { plugin: String, step: &'static str, code: Code, message: String },

    /// A signal or the like for a process that has ended; `exec_id` is empty for a container's first process.
    #[error("container {container}{}: process already finished: not found", exec_suffix(exec_id))]
    AlreadyFinished { container: String, exec_id: String },

    #[error("building the runtime specification: {source}")]
    Spec { source: oci_spec::OciSpecError },

    /// Docker's own words, which scripts look for.
    #[error(transparent)]
    Name(#[from] crate::engine::NameError),

    #[error(transparent)]
    Reference(#[from] crate::images::reference::ReferenceError),

    #[error(transparent)]
    Platform(#[from] crate::images::platform::PlatformError),

    /// The kernel refused a change of networks.
    #[error("{doing} {what}: {source}")]
    Network { doing: &'static str, what: String, source: io::Error },

    /// In docker's words.
    #[error("driver failed programming external connectivity on endpoint {endpoint}: {source}")]
    Port { endpoint: String, source: crate::network::ports::PortError },

    #[error(transparent)]
    Cni(#[from] crate::network::cni::CniError),

    #[error(transparent)]
    NetworkRefused(#[from] crate::network::refusal::Refusal),

    /// What else there is stands against it.
    #[error(transparent)]
    Conflict(#[from] crate::engine::conflict::Conflict),

    /// Shared by all who waited for the same.
    #[error(transparent)]
    Shared(#[from] std::sync::Arc<Error>),

    /// Shared by all who waited for one pull.
    #[error("{0}")]
    Pull(#[from] std::sync::Arc<crate::images::pull::PullError>),

    #[error(transparent)]
    Push(Box<crate::images::push::PushError>),

    #[error(transparent)]
    Archive(#[from] crate::images::archive::ArchiveError),

    /// A background thread or task of the daemon died; a defect.
    #[error("{what} ended before it answered")]
    Lost { what: &'static str },
}

fn exec_suffix(exec_id: &str) -> String {
    if exec_id.is_empty() { String::new() } else { format!(" exec {exec_id}") }
}

impl Error {
    pub fn not_found(kind: &'static str, name: impl Into<String>) -> Self {
        Self::NotFound { kind, name: name.into() }
    }

    pub fn already_exists(kind: &'static str, name: impl Into<String>) -> Self {
        Self::AlreadyExists { kind, name: name.into() }
    }

    pub fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::InvalidArgument { what: what.into(), why: why.into() }
    }

    pub fn precondition(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::FailedPrecondition { what: what.into(), why: why.into() }
    }

    pub fn unavailable(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unavailable { what: what.into(), why: why.into() }
    }

    /// An I/O error with its context; a full disk becomes its own variant.
    pub fn io(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { doing, path: path.into() }
            }
            _ => Self::Io { doing, path: path.into(), source },
        }
    }

    /// A change of networks that the kernel refused.
    pub fn network(doing: &'static str, what: impl Into<String>, source: io::Error) -> Self {
        Self::Network { doing, what: what.into(), source }
    }

    pub fn oci(source: oci_spec::OciSpecError) -> Self {
        Self::Spec { source }
    }

    /// The message for people: as it is shown to users of the command line, without the words for the code that
    /// containerd's clients look for.
    pub fn for_people(&self) -> String {
        match self {
            Self::NotFound { kind, name } => format!("No such {kind}: {name}"),
            Self::AlreadyExists { kind, name } => format!("{kind} {name} already exists"),
            Self::InvalidArgument { what, why }
            | Self::FailedPrecondition { what, why }
            | Self::Unavailable { what, why }
            | Self::OutOfRange { what, why }
            | Self::PermissionDenied { what, why } => format!("{what}: {why}"),
            Self::Shim { message, .. } => message.clone(),
            Self::Shared(error) => error.for_people(),
            other => other.to_string(),
        }
    }

    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Shared(error) => error.is_not_found(),
            error => matches!(error, Self::NotFound { .. }),
        }
    }

    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::AlreadyExists { .. })
    }

    /// The table: which gRPC code a client sees for which cause.
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } | Self::AlreadyFinished { .. } => Code::NotFound,
            Self::Shim { code, .. } | Self::Plugin { code, .. } => *code,
            Self::AlreadyExists { .. } => Code::AlreadyExists,
            Self::InvalidArgument { .. } => Code::InvalidArgument,
            Self::FailedPrecondition { .. } => Code::FailedPrecondition,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::OutOfRange { .. } => Code::OutOfRange,
            Self::ResourceExhausted { .. } | Self::DiskFull { .. } => Code::ResourceExhausted,
            Self::Unimplemented { .. } => Code::Unimplemented,
            Self::Canceled { .. } => Code::Cancelled,
            Self::Timeout { .. } => Code::DeadlineExceeded,
            Self::PermissionDenied { .. } => Code::PermissionDenied,
            Self::Shared(error) => error.code(),
            Self::Pull(error) => error.code(),
            Self::Push(error) => error.code(),
            Self::Archive(error) => error.code(),
            Self::Damaged { .. } => Code::DataLoss,
            Self::Conflict(conflict) if conflict.is_duplicate() => Code::AlreadyExists,
            Self::Conflict(conflict) if conflict.is_absence() => Code::NotFound,
            Self::Conflict(conflict) if conflict.is_bad_request() => Code::InvalidArgument,
            Self::Name(_) | Self::Reference(_) | Self::Platform(_) => Code::InvalidArgument,
            Self::Conflict(_) | Self::Port { .. } | Self::Cni(_) => Code::FailedPrecondition,
            Self::NetworkRefused(refusal) => refusal.code(),
            Self::Io { .. }
            | Self::Network { .. }
            | Self::Metadata { .. }
            | Self::Record { .. }
            | Self::Spec { .. }
            | Self::Lost { .. } => Code::Internal,
        }
    }
}

impl From<crate::images::push::PushError> for Error {
    fn from(error: crate::images::push::PushError) -> Self {
        match error {
            crate::images::push::PushError::Store(error) => error,
            error => Self::Push(Box::new(error)),
        }
    }
}

/// Longest message of a status in bytes. It travels as a header: clients refuse an answer whose headers are too long.
const MAX_MESSAGE: usize = 4096;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Status::new(error.code(), bounded(error.to_string()))
    }
}

/// The beginning of a message that quotes something very long.
fn bounded(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        message.push('…');
    }
    message
}
