//! One process of the container, from when the shim first hears of it until it is deleted: its state is one enum,
//! and its changes are the methods here.

use std::rc::Rc;
use std::time::{Instant, SystemTime};

use longshore_proto::containerd::v1::types::Status;
use longshore_proto::longshore::shim::v1::ExitRecord;
use oci_spec::runtime::Process as ProcessSpec;

use crate::driver::ExecHandle;
use crate::error::{Error, Result};
use crate::stdio::{Attachment, Client, Input, Io, Paths};

/// Where a process is in its life. `Added → Created → Running → Stopped`; the first process begins as `Created`, and
/// one that cannot be started goes from `Added` or `Created` to `Stopped`.
pub enum Phase {
    /// An exec that was announced; the process is made when it is started.
    Added(Box<ProcessSpec>),
    /// Exists and waits at its gate.
    Created,
    Running,
    Stopped(ExitRecord),
}

/// A call that is answered later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub connection: u32,
    pub stream: u32,
}

impl Caller {
    /// Stands for what the shim does by itself.
    pub const NOBODY: Self = Self { connection: u32::MAX, stream: 0 };
}

/// One process of the container.
pub struct Process {
    /// The id of its container.
    pub container: Rc<str>,
    /// Empty for the first process.
    pub exec_id: String,
    pub paths: Paths,
    pub io: Io,
    pub phase: Phase,
    /// 0 until it exists.
    pub pid: i32,
    /// The runtime's handle of an exec; the first process's is in the container's.
    pub handle: Option<ExecHandle>,
    pub attachments: Vec<Attachment>,
    /// Stdin that clients sent before the process was made.
    pub early_stdin: Vec<(Client, Vec<u8>)>,
    /// Whether stdin ends after that.
    pub early_close: bool,
    /// Calls of `Wait`.
    pub waiters: Vec<Caller>,
    /// Calls of `Delete` that wait for the exit or the last output.
    pub deleters: Vec<Caller>,
    /// The terminal's size as far as it was told before the process is made.
    pub console: Option<(u16, u16)>,
    /// The exit code of a program that could not be executed.
    pub unusable: Option<u8>,
    pub started_at: Option<SystemTime>,
    /// What was recorded of its exit while its start was still going on.
    pub early_record: Option<ExitRecord>,
    /// When it was seen to have exited.
    pub exited: Option<Instant>,
    /// The container's count of out-of-memory kills when it started.
    pub ooms_before: u64,
    /// Stdin ends with the first client that sends it.
    pub stdin_once: bool,
    /// Whether a timer will look again at what a disk refused, or nobody has read.
    pub awaits_retry: bool,
    /// Whether its exit was told.
    pub announced: bool,
}

impl Process {
    pub fn new(container: Rc<str>, exec_id: String, paths: Paths, phase: Phase) -> Self {
        Self {
            container,
            exec_id,
            paths,
            io: Io::default(),
            phase,
            pid: 0,
            handle: None,
            attachments: Vec::new(),
            early_stdin: Vec::new(),
            early_close: false,
            waiters: Vec::new(),
            deleters: Vec::new(),
            console: None,
            unusable: None,
            started_at: None,
            early_record: None,
            exited: None,
            ooms_before: 0,
            stdin_once: false,
            awaits_retry: false,
            announced: false,
        }
    }

    /// Whether it is its container's first process.
    pub fn is_init(&self) -> bool {
        self.exec_id.is_empty()
    }

    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }

    /// Whether there is a process that has not exited.
    pub fn is_alive(&self) -> bool {
        matches!(self.phase, Phase::Created | Phase::Running)
    }

    pub fn exit_record(&self) -> Option<&ExitRecord> {
        match &self.phase {
            Phase::Stopped(record) => Some(record),
            _ => None,
        }
    }

    /// Whether the process was made, so that its stdio is what it is.
    pub fn is_made(&self) -> bool {
        !matches!(self.phase, Phase::Added(_))
    }

    /// Bytes of stdin that wait.
    pub fn waiting_stdin(&self) -> usize {
        let early: usize = self.early_stdin.iter().map(|(_, bytes)| bytes.len()).sum();
        early + self.io.input().map_or(0, Input::waiting)
    }

    /// Gives stdin that came early to the process.
    pub fn push_early_stdin(&mut self) {
        let Some(input) = self.io.input_mut() else { return };
        for (client, bytes) in self.early_stdin.drain(..) {
            input.push(bytes, Some(client));
        }
        if self.early_close {
            input.close();
        }
    }

    /// The state's name, for errors.
    pub fn state(&self) -> &'static str {
        match self.phase {
            Phase::Added(_) | Phase::Created => "created",
            Phase::Running => "running",
            Phase::Stopped(_) => "stopped",
        }
    }

    /// The state as the API names it.
    pub fn status(&self, paused: bool) -> Status {
        match self.phase {
            Phase::Added(_) | Phase::Created => Status::Created,
            Phase::Running if paused => Status::Paused,
            Phase::Running => Status::Running,
            Phase::Stopped(_) => Status::Stopped,
        }
    }

    /// Fails unless the process runs.
    pub fn must_run(&self, operation: &'static str) -> Result<()> {
        match self.phase {
            Phase::Running => Ok(()),
            Phase::Stopped(_) => Err(Error::Finished),
            _ => Err(Error::WrongState { operation, state: self.state() }),
        }
    }

    /// Its process id on the wire.
    pub fn wire_pid(&self) -> u32 {
        u32::try_from(self.pid).unwrap_or(0)
    }
}
