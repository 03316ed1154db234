//! What the rest of the daemon sees of a task: its state, its stdio, its end, and the streams of an attach.
//!
//! What always holds: nothing here is a wire type; the shim's messages are translated in `wire.rs`.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use bytes::Bytes;
use jiff::Timestamp;

use crate::any::Any;
use crate::snapshots::Mount;

/// Which process of a task: the container's first one, or one that was added by exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessId<'a> {
    /// The container's first process.
    Init,
    /// A process added by exec, under its exec id.
    Exec(&'a str),
}

impl<'a> ProcessId<'a> {
    /// As the task API writes it: an empty exec id is the first process.
    #[must_use]
    pub fn from_exec_id(exec_id: &'a str) -> Self {
        if exec_id.is_empty() { Self::Init } else { Self::Exec(exec_id) }
    }

    /// The exec id, empty for the first process.
    #[must_use]
    pub fn exec_id(self) -> &'a str {
        match self {
            Self::Init => "",
            Self::Exec(id) => id,
        }
    }
}

/// The states of a process. Transitions: Created → Running ⇄ Paused → Stopped; a start that fails goes from
/// Created to Stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The shim has not answered since the daemon came up.
    Unknown,
    /// Its init waits at the gate.
    Created,
    Running,
    Paused,
    /// It ended, or its shim did.
    Stopped,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255; 128 + n when signal n ended it.
    pub status: u32,
    pub at: Timestamp,
    /// The kernel's out-of-memory killer struck in the container while this process ran.
    pub oom_killed: bool,
}

/// Where a process's stdio goes, as the client wrote it: empty, a FIFO's path, `file://…` or `log://…`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskStdio {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

/// A mount that makes up the container's root, made by the runtime inside the container's mount namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootfsMount {
    pub kind: String,
    pub source: String,
    pub target: String,
    pub options: Vec<String>,
}

impl From<RootfsMount> for Mount {
    fn from(mount: RootfsMount) -> Self {
        Self { kind: mount.kind, source: mount.source, target: mount.target, options: mount.options }
    }
}

impl From<Mount> for RootfsMount {
    fn from(mount: Mount) -> Self {
        Self { kind: mount.kind, source: mount.source, target: mount.target, options: mount.options }
    }
}

/// What a task is created from.
#[derive(Clone, Debug)]
pub struct CreateTask {
    /// The OCI `config.json`, written as it is.
    pub spec: Bytes,
    /// Empty: the spec's `root.path` as it is.
    pub rootfs: Vec<RootfsMount>,
    pub stdio: TaskStdio,
    /// `containerd.runc.v1.Options` or `longshore.shim.v1.CreateOptions`; the type URL is the bare name.
    pub options: Option<Any>,
    /// Name of the runtime, or the path of its shim; empty: ours.
    pub runtime: String,
    /// A folder with the images of a checkpoint to start from.
    pub checkpoint: Option<PathBuf>,
    /// Set: a shim that runs already, such as a sandbox's, is to run the container.
    pub join: Option<Join>,
    /// Set: if the shim is ours, it has all containers of this group, such as a pod's.
    pub group: Option<String>,
}

/// A shim that runs already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Such as `ttrpc+unix:///run/shim.sock`.
    pub address: String,
    /// Version of its task API; 0: 2.
    pub api: u32,
}

/// What an exec is made from.
#[derive(Clone, Debug)]
pub struct ExecTask {
    /// OCI `Process` as JSON under containerd's type URL.
    pub process: Any,
    pub stdio: TaskStdio,
}

/// Which streams of a process a client joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachStreams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// What an attached client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachInput {
    Stdin(Bytes),
    CloseStdin,
    Resize { columns: u32, rows: u32 },
}

/// What an attached client receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachOutput {
    /// From here on no output is missed.
    Attached,
    Stdout(Bytes),
    Stderr(Bytes),
    /// The process ended and its output is drained; the last message.
    Exited(Exit),
}

/// A process as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// The container.
    pub container_id: String,
    /// Empty: the container's first process.
    pub exec_id: String,
    /// In the daemon's pid namespace; 0 before it exists.
    pub pid: u32,
    pub status: Status,
    pub stdio: TaskStdio,
    /// Set when `status` is Stopped.
    pub exit: Option<Exit>,
}

/// What became of a deleted process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    pub pid: u32,
    pub exit: Exit,
}
