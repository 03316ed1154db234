//! How a command fails: what is said, and the exit code that goes with it. Messages are docker's, because
//! scripts look for them.

use std::fmt;
use std::io;
use std::path::Path;

use tonic::Status;

use crate::endpoint::Endpoint;

/// The exit code of a shell's child that SIGPIPE ended.
const BROKEN_PIPE: u8 = 141;
/// What docker calls a fault of its own, as opposed to one of the container's process.
pub const OWN_FAULT: u8 = 125;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// The daemon refused.
    Daemon(Box<Status>),
    /// The daemon could not be reached.
    Unreachable { endpoint: Endpoint, source: io::Error },
    /// The daemon went away in the middle of a request.
    Lost { source: Box<Status> },
    /// A flag or an argument makes no sense: the command's help is named after it.
    Usage(String),
    /// Anything else that is the command's own.
    Message(String),
    /// A flag's value makes no sense, which is told as docker tells it: `longshore: ` before it, exit code 125.
    Refused(String),
    /// A message with the exit code that belongs to it.
    Coded { message: String, code: u8 },
    /// The reader of our output went away; there is nobody to tell.
    BrokenPipe,
    /// Everything has been said already.
    Silent { code: u8 },
}

impl Failure {
    pub fn message(text: impl Into<String>) -> Failure {
        Failure::Message(text.into())
    }

    pub fn usage(text: impl Into<String>) -> Failure {
        Failure::Usage(text.into())
    }

    /// Reading or writing `path` failed; the text is the one of Go's `os` package, as docker shows it.
    pub fn file(doing: &str, path: &Path, source: &io::Error) -> Failure {
        Failure::Message(format!("{doing} {}: {}", path.display(), errno_text(source)))
    }

    /// What the daemon said in the course of its work, without docker's words for a refusal.
    pub fn plain(self) -> Failure {
        match self {
            Failure::Daemon(status) if !status.message().is_empty() => Failure::message(status.message()),
            other => other,
        }
    }

    /// `otherwise` is the command's usual exit code for a failure.
    pub fn exit_code(&self, otherwise: u8) -> u8 {
        match self {
            Failure::Coded { code, .. } | Failure::Silent { code } => *code,
            Failure::BrokenPipe => BROKEN_PIPE,
            Failure::Usage(_) | Failure::Refused(_) => OWN_FAULT,
            Failure::Daemon(_) | Failure::Unreachable { .. } | Failure::Lost { .. } | Failure::Message(_) => {
                otherwise
            }
        }
    }

    /// Whether the daemon says that what was named does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Failure::Daemon(status) if status.code() == tonic::Code::NotFound)
    }
}

/// An error number's words without Rust's `(os error N)`, in Go's lower case.
pub fn errno_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Daemon(status) if status.message().is_empty() => {
                write!(f, "Error response from daemon: {}", status.code())
            }
            Failure::Daemon(status) => write!(f, "Error response from daemon: {}", status.message()),
            Failure::Unreachable { endpoint, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                write!(
                    f,
                    "permission denied while trying to connect to the longshore daemon socket at {endpoint}: \
                     be root, or a member of the socket's group"
                )
            }
            Failure::Unreachable { endpoint, source } => write!(
                f,
                "Cannot connect to the longshore daemon at {endpoint} ({}). Is the longshore daemon running? \
                 Start it with 'longshored', or name its socket with -H, LONGSHORE_HOST or a context.",
                errno_text(source)
            ),
            Failure::Lost { source } => write!(
                f,
                "lost the connection to the longshore daemon ({}). Containers run on without it: see \
                 'longshore ps' once it is back",
                root_cause(source)
            ),
            Failure::Usage(text)
            | Failure::Refused(text)
            | Failure::Message(text)
            | Failure::Coded { message: text, .. } => f.write_str(text),
            Failure::BrokenPipe | Failure::Silent { .. } => Ok(()),
        }
    }
}

/// The innermost reason of a broken connection: the outer ones only say "transport error".
fn root_cause(status: &Status) -> String {
    let mut source = std::error::Error::source(status);
    let mut text = status.message().to_string();
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        // A status that the daemon sent has no source; one made here out of a broken connection has.
        if std::error::Error::source(&status).is_some() {
            Failure::Lost { source: Box::new(status) }
        } else {
            Failure::Daemon(Box::new(status))
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
            _ => Failure::Message(errno_text(&error)),
        }
    }
}
