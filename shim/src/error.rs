//! What can go wrong in the shim, and the one table that maps it to the codes containerd's clients test for.

use std::io;
use std::path::PathBuf;

use longshore_proto::ttrpc::{self, Code};
use longshore_runtime as runtime;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request, or the shim itself, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bytes on a connection that are no valid message.
    #[error(transparent)]
    Wire(#[from] ttrpc::Error),
    /// A service or method that this shim does not have.
    #[error("{service}/{method} is not implemented by this shim")]
    NoMethod { service: String, method: String },
    /// Something that the API knows and this shim does not do.
    #[error("{what} is not supported: {why}")]
    NotBuilt { what: &'static str, why: String },
    /// A task call before `Assign`.
    #[error("this shim waits in the daemon's pool: call longshore.shim.v1.Shim/Assign first")]
    NotAssigned,
    /// A second `Assign`.
    #[error("this shim already serves container {id}")]
    Assigned { id: String },
    /// A name that cannot be one.
    #[error("{what} {value:?} is not valid: {why}")]
    BadName { what: &'static str, value: String, why: &'static str },
    /// A field of a request that cannot be used.
    #[error("{field}: {why}")]
    BadField { field: &'static str, why: String },
    /// A call for another container.
    #[error("no such container: {asked} (this shim serves {ours})")]
    OtherContainer { asked: String, ours: String },
    /// A call for a container that was not created, or is deleted.
    #[error("container {id} has no task")]
    NoTask { id: String },
    /// A call for a sandbox that is not there.
    #[error("no such sandbox: {id}")]
    NoSandbox { id: String },
    /// A call for an exec that is not there.
    #[error("process {exec_id} of container {id} not found")]
    NoProcess { id: String, exec_id: String },
    /// A call that needs a live process.
    #[error("process already finished")]
    Finished,
    /// A second object of the same name.
    #[error("{what} {id} already exists")]
    Exists { what: &'static str, id: String },
    /// A call that does not fit the process's state.
    #[error("cannot {operation} a process that is {state}")]
    WrongState { operation: &'static str, state: &'static str },
    /// A bound of this shim.
    #[error("too many {what}: the limit is {limit}")]
    Limit { what: &'static str, limit: usize },
    /// A caller's own deadline.
    #[error("the caller's deadline passed")]
    Deadline,
    /// `config.json`, or JSON in a request, that cannot be read.
    #[error("{what}: {source}")]
    Json { what: &'static str, source: serde_json::Error },
    /// A command of another OCI runtime.
    #[error("OCI runtime {verb} failed: {runtime}: {why}")]
    Command { runtime: String, verb: &'static str, why: String },
    /// What a daemon's `start`, `delete` or `-info` said.
    #[error("{0}")]
    Usage(String),
    /// A file of the bundle, the log or stdio that cannot be used.
    #[error("{doing} {path:?}: {source}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// A system call on no particular file.
    #[error("{doing}: {source}")]
    System { doing: &'static str, source: io::Error },
    /// A port of the host that cannot be had.
    #[error("hold port {host}/{name} of the host: {source}")]
    Port { name: &'static str, host: std::net::SocketAddr, source: io::Error },
    /// The runtime's own failure.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
}

impl Error {
    /// A system call's failure.
    pub fn system(doing: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::System { doing, source: errno.into() }
    }

    /// A failure with a file.
    pub fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Io { doing, path: path.into(), source: errno.into() }
    }

    /// The code that goes over the wire.
    pub fn code(&self) -> Code {
        match self {
            Self::Wire(ttrpc::Error::TooLong { .. }) | Self::Limit { .. } => Code::ResourceExhausted,
            Self::Usage(_)
            | Self::Wire(_)
            | Self::BadName { .. }
            | Self::BadField { .. }
            | Self::Json { .. } => Code::InvalidArgument,
            Self::NoMethod { .. } | Self::NotBuilt { .. } => Code::Unimplemented,
            Self::NotAssigned | Self::Assigned { .. } | Self::WrongState { .. } => Code::FailedPrecondition,
            Self::OtherContainer { .. }
            | Self::NoTask { .. }
            | Self::NoProcess { .. }
            | Self::NoSandbox { .. }
            | Self::Finished => Code::NotFound,
            Self::Exists { .. } => Code::AlreadyExists,
            Self::Deadline => Code::DeadlineExceeded,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Code::NotFound,
                io::ErrorKind::PermissionDenied => Code::PermissionDenied,
                _ => Code::Unknown,
            },
            Self::Port { .. } => Code::FailedPrecondition,
            Self::System { .. } | Self::Command { .. } => Code::Unknown,
            Self::Runtime(error) => runtime_code(error),
        }
    }
}

/// 127 and 126 of `longshore run` are recovered from the code, if the text begins with `exec`.
fn runtime_code(error: &runtime::Error) -> Code {
    match error.exit_code() {
        Some(127) => return Code::InvalidArgument,
        Some(_) => return Code::PermissionDenied,
        None => {}
    }
    match error {
        runtime::Error::InvalidSpec { .. } => Code::InvalidArgument,
        runtime::Error::NotBuilt { .. } => Code::Unimplemented,
        runtime::Error::NotRunning => Code::NotFound,
        runtime::Error::NoSystemd
        | runtime::Error::WrongState { .. }
        | runtime::Error::NoController { .. } => Code::FailedPrecondition,
        _ => Code::Unknown,
    }
}
