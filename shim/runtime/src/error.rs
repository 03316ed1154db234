//! What can go wrong in the runtime: each variant names a cause; its text says what was being done, to what, and why.

use std::io;
use std::path::PathBuf;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a runtime operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration asks for something impossible or contradictory; the caller has to change it.
    #[error("config.json: {field}: {why}")]
    InvalidSpec {
        /// Path of the field in `config.json`.
        field: String,
        /// What is wrong with it and what would be right.
        why: String,
    },
    /// The configuration asks for something this version does not do.
    #[error(
        "{feature} is not supported by this version of longshore-runtime; remove it from the configuration"
    )]
    NotBuilt {
        /// What was asked for, by the name of its field.
        feature: String,
    },
    /// The program cannot be executed. The text is the one that scripts know from docker.
    #[error("{message}")]
    Exec {
        /// The program as it was asked for.
        path: String,
        /// What `execve` or the search for the program said: `ENOENT`, `EACCES`, `ENOEXEC`, …
        errno: i32,
        /// `exec: "x": executable file not found in $PATH` and the like.
        message: String,
    },
    /// A step inside the container's first moments failed.
    #[error("{doing}: {}{hint}", errno_text(*.errno))]
    Init {
        /// What was being done and to what, for example `mount "proc" at "/proc"`.
        doing: String,
        /// The kernel's answer.
        errno: i32,
        /// What to do about it, starting with `; `, or nothing.
        hint: &'static str,
    },
    /// A hook failed, or ran longer than its timeout.
    #[error("{kind} hook {path:?}: {why}")]
    Hook {
        /// `createRuntime`, `poststart`, …
        kind: &'static str,
        /// The hook's program.
        path: PathBuf,
        /// How it ended.
        why: String,
    },
    /// A process that was being set up stands still, and was killed.
    #[error("the process that was being set up {why}; it was killed")]
    Stuck {
        /// What is known of it.
        why: String,
    },
    /// A file or folder of the host could not be used.
    #[error("{doing} {path:?}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A system call on no particular file failed.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A limit could not be applied to the container's cgroup.
    #[error("cgroup: write {value:?} to {path:?}: {source}")]
    Cgroup {
        /// The control file.
        path: PathBuf,
        /// What was written.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The host has no cgroup controller for a limit that was asked for.
    #[error(
        "{field}: this host has no usable {controller} cgroup controller; remove the limit, or mount the controller"
    )]
    NoController {
        /// The field that asks for it.
        field: String,
        /// Which controller.
        controller: &'static str,
    },
    /// criu is needed and not there.
    #[error("checkpoint and restore need criu, and there is no {path:?}; install it (Debian's criu)")]
    NoCriu {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// criu could not do it.
    #[error("criu could not {doing} the container: {why} (log: {log:?})")]
    Criu {
        /// dump or restore.
        doing: &'static str,
        /// The end of its log.
        why: String,
        /// All of its log.
        log: PathBuf,
    },
    /// A checkpoint that tries to be more than one.
    #[error("checkpoint refused: {path:?} {why}")]
    UntrustedImage {
        /// What is wrong in it.
        path: PathBuf,
        /// In which way.
        why: String,
    },
    /// The systemd driver was asked for on a host without systemd.
    #[error(
        "the systemd cgroup driver needs a host that runs systemd, and this one does not; use the cgroupfs driver"
    )]
    NoSystemd,
    /// systemd did not do what it was asked for.
    #[error("systemd: {doing} {unit}: {why}")]
    Systemd {
        /// What was asked for.
        doing: &'static str,
        /// Of which unit.
        unit: String,
        /// What systemd said, or how the talk with it failed.
        why: String,
    },
    /// The container's first process is gone, so nothing can be done in it.
    #[error("container is not running")]
    NotRunning,
    /// The operation does not fit the container's state.
    #[error("cannot {operation} a container that is {state}")]
    WrongState {
        /// What was asked.
        operation: &'static str,
        /// In which state the container is.
        state: &'static str,
    },
    /// The process that was being set up died before it reported anything.
    #[error(
        "the container's init process died while it was being set up ({how}); see the kernel log, often the memory limit is too low"
    )]
    InitDied {
        /// Exit status or signal.
        how: String,
    },
}

impl Error {
    /// The exit code that docker users expect for a process that could not be started: 127 if there is no such
    /// program, 126 if it cannot be executed; `None` if the failure is not about the program.
    pub fn exit_code(&self) -> Option<u8> {
        match self {
            Error::Exec { errno: libc::ENOENT | libc::ENOTDIR, .. } => Some(127),
            Error::Exec { .. } => Some(126),
            _ => None,
        }
    }
}

/// The kernel's own words for an errno, without Rust's `(os error n)`.
pub(crate) fn errno_text(errno: i32) -> String {
    let mut text = io::Error::from_raw_os_error(errno).to_string();
    if let Some(at) = text.find(" (os error") {
        text.truncate(at);
    }
    text.make_ascii_lowercase();
    text
}
