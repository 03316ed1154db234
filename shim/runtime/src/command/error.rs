//! What can go wrong in the command. Several texts are read by callers of runc, and are runc's.

use std::io;
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is wrong.
    #[error("{why}")]
    Usage { why: String },
    #[error("no such command: {name}; see longshore-runtime --help")]
    NoVerb { name: String },
    #[error("container id cannot be empty")]
    EmptyId,
    #[error(
        "invalid container ID format: {id:?}; letters, digits and _ + - . are allowed, up to 1024 of them"
    )]
    InvalidId { id: String },
    #[error("container does not exist")]
    NotExist,
    #[error("container with given ID already exists")]
    Exists,
    #[error("container not running")]
    NotRunning,
    #[error("container with id {id} is not running")]
    Ended { id: String },
    #[error("container not paused")]
    NotPaused,
    /// The container is in a state that the verb does not fit. The text is the verb's.
    #[error("{0}")]
    Status(&'static str),
    #[error("cannot delete container {id} that is not stopped: {status}")]
    NotStopped { id: String, status: &'static str },
    #[error(
        "container init still running; it was killed but does not end: a process may be stuck in the kernel"
    )]
    StillRunning,
    #[error("another command has been working on the container for {seconds} s; try again when it has ended")]
    Busy { seconds: u64 },
    /// What is kept of a container cannot be trusted.
    #[error("state of the container {path:?} is damaged: {why}; `delete --force` removes what is left of it")]
    State { path: PathBuf, why: String },
    #[error("JSON specification file config.json not found in {bundle:?}")]
    NoConfig { bundle: PathBuf },
    #[error("{path:?} is not what it should be: {source}")]
    Json { path: PathBuf, source: serde_json::Error },
    /// The config or process file asks for something impossible.
    #[error("{0}")]
    Config(&'static str),
    #[error("unable to stat preserved-fd {number} (of {count}): no such file descriptor")]
    NoDescriptor { number: u32, count: u32 },
    #[error("{doing} {path:?}: {source}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{doing}: {source}")]
    System { doing: &'static str, source: io::Error },
    #[error("unknown signal {0:?}")]
    Signal(String),
    #[error("ps failed: {output}")]
    Ps { output: String },
    /// The program's first moments failed; the words before it are runc's.
    #[error("{verb} failed: unable to start container process: {source}")]
    Launch { verb: &'static str, source: longshore_runtime::Error },
    #[error("{verb} failed: {source}")]
    Verb { verb: &'static str, source: Box<Error> },
    #[error(transparent)]
    Runtime(#[from] longshore_runtime::Error),
}

impl Error {
    /// For use with `map_err`.
    pub fn io<E: Into<io::Error>>(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(E) -> Error {
        let path = path.as_ref().to_owned();
        move |source| Error::Io { doing, path, source: source.into() }
    }

    /// For use with `map_err`.
    pub fn system<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Error {
        move |source| Error::System { doing, source: source.into() }
    }

    /// What the command ends with.
    pub fn exit_code(&self) -> i32 {
        match self {
            // A caller must be able to tell it from the exit codes of the process.
            Error::Verb { verb: "exec", .. } | Error::Launch { verb: "exec", .. } => 255,
            _ => 1,
        }
    }

    /// Puts the verb's name before it, as runc does for `create`, `run`, `exec` and `restore`.
    pub fn of_verb(self, verb: &'static str) -> Error {
        match self {
            Error::Runtime(
                source @ (longshore_runtime::Error::Exec { .. }
                | longshore_runtime::Error::Init { .. }
                | longshore_runtime::Error::Hook { .. }
                | longshore_runtime::Error::InitDied { .. }),
            ) => Error::Launch { verb, source },
            other => Error::Verb { verb, source: Box::new(other) },
        }
    }
}
