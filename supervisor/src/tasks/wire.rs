//! Between the shim's messages and the daemon's own types.

#![forbid(unsafe_code)]

use jiff::Timestamp;
use longshore_proto::containerd::task::v3::{CreateTaskRequest, ExecProcessRequest, StateResponse};
use longshore_proto::containerd::types::Mount;
use longshore_proto::containerd::v1::types::Status as WireStatus;
use longshore_proto::longshore::shim::v1 as shim;

use super::client::Failure;
use super::limits;
use super::types::{AttachInput, AttachStreams, CreateTask, ExecTask, Exit, RootfsMount, Status, TaskStdio};
use crate::error::Error;
use tonic::Code;

/// The task service of a shim.
pub const TASK: &str = "containerd.task.v3.Task";
/// What our shims answer beyond it.
pub const SHIM: &str = "longshore.shim.v1.Shim";

/// A time on the wire; out of range becomes the epoch.
pub fn timestamp(wire: Option<&prost_types::Timestamp>) -> Timestamp {
    wire.and_then(|t| Timestamp::new(t.seconds, t.nanos).ok()).unwrap_or_default()
}

/// A time for the wire.
pub fn wire_timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}

/// What a failed call means to whoever asked: `step` is what the shim was asked to do.
pub fn failure(container: &str, step: &'static str, failure: &Failure) -> Error {
    let code = match failure {
        Failure::Refused(error) => Code::from_i32(error.code as i32),
        Failure::Closed(_) => Code::Unavailable,
        Failure::TimedOut(_) => Code::DeadlineExceeded,
        Failure::Protocol(_) => Code::Internal,
        Failure::Limit(..) => Code::ResourceExhausted,
    };
    Error::Shim { container: container.to_owned(), step, code, message: failure.to_string() }
}

impl From<&RootfsMount> for Mount {
    fn from(mount: &RootfsMount) -> Self {
        Self {
            r#type: mount.kind.clone(),
            source: mount.source.clone(),
            target: mount.target.clone(),
            options: mount.options.clone(),
        }
    }
}

pub fn create_request(id: &str, bundle: &str, task: &CreateTask) -> CreateTaskRequest {
    CreateTaskRequest {
        id: id.to_owned(),
        bundle: bundle.to_owned(),
        rootfs: task.rootfs.iter().map(Mount::from).collect(),
        terminal: task.stdio.terminal,
        stdin: task.stdio.stdin.clone(),
        stdout: task.stdio.stdout.clone(),
        stderr: task.stdio.stderr.clone(),
        options: task.options.clone().map(Into::into),
        checkpoint: task
            .checkpoint
            .as_ref()
            .map(|folder| folder.to_string_lossy().into_owned())
            .unwrap_or_default(),
        ..CreateTaskRequest::default()
    }
}

pub fn exec_request(id: &str, exec_id: &str, exec: &ExecTask) -> ExecProcessRequest {
    ExecProcessRequest {
        id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        terminal: exec.stdio.terminal,
        stdin: exec.stdio.stdin.clone(),
        stdout: exec.stdio.stdout.clone(),
        stderr: exec.stdio.stderr.clone(),
        spec: Some(exec.process.clone().into()),
    }
}

pub fn attach_start(id: &str, exec_id: &str, streams: AttachStreams) -> shim::AttachInput {
    let AttachStreams { stdin, stdout, stderr } = streams;
    let window = u32::try_from(limits::ATTACH_WINDOW).unwrap_or(u32::MAX);
    let (id, exec_id) = (id.to_owned(), exec_id.to_owned());
    let start = shim::AttachStart { exec_id, stdin, stdout, stderr, window, id };
    shim::AttachInput { start: Some(start), ..shim::AttachInput::default() }
}

pub fn attach_input(input: &AttachInput) -> shim::AttachInput {
    let mut wire = shim::AttachInput::default();
    match input {
        AttachInput::Stdin(bytes) => wire.stdin = bytes.to_vec(),
        AttachInput::CloseStdin => wire.close_stdin = true,
        AttachInput::Resize { columns, rows } => {
            wire.resize = Some(shim::WindowSize { columns: *columns, rows: *rows });
        }
    }
    wire
}

pub fn exit(record: &shim::ExitRecord) -> Exit {
    Exit {
        status: record.exit_status,
        at: timestamp(record.exited_at.as_ref()),
        oom_killed: record.oom_killed,
    }
}

/// The stdio that a shim was asked for.
pub fn stdio_of_request(request: &CreateTaskRequest) -> TaskStdio {
    TaskStdio {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    }
}

/// The stdio that a shim says a process has.
pub fn stdio_of_state(state: &StateResponse) -> TaskStdio {
    TaskStdio {
        stdin: state.stdin.clone(),
        stdout: state.stdout.clone(),
        stderr: state.stderr.clone(),
        terminal: state.terminal,
    }
}

/// The status that a shim says a process has.
pub fn status(wire: WireStatus) -> Status {
    match wire {
        WireStatus::Unknown => Status::Unknown,
        WireStatus::Created => Status::Created,
        WireStatus::Running => Status::Running,
        WireStatus::Stopped => Status::Stopped,
        WireStatus::Paused | WireStatus::Pausing => Status::Paused,
    }
}
