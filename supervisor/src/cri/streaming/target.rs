//! What streaming needs of the rest: processes whose streams can be carried, and ports of pods.
//!
//! What always holds: nothing here knows a protocol of clients.

#![forbid(unsafe_code)]

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::error::Result;
use crate::tasks::{AttachInput, AttachOutput, AttachSender, AttachStream};

/// A process to be run in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    pub container: String,
    pub args: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// A container's first process to be joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    pub container: String,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// Ports of a pod to be forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortForward {
    pub pod: String,
    /// Those of the channels of a WebSocket; a client that speaks SPDY names its ports itself.
    pub ports: Vec<u16>,
}

/// Of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct Size {
    #[serde(rename = "Width")]
    pub columns: u16,
    #[serde(rename = "Height")]
    pub rows: u16,
}

/// What the end of a client's stdin does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdinEnd {
    /// It is the process's, too: for an exec, and for a container that has stdin once.
    Closes,
    /// Others may bring more.
    Stays,
}

/// Where a process's input goes.
pub trait Input: Send + Sync {
    /// Waits while the process does not read what was sent before.
    fn send(&self, input: AttachInput) -> BoxFuture<'_, Result<()>>;
}

impl Input for AttachSender {
    fn send(&self, input: AttachInput) -> BoxFuture<'_, Result<()>> {
        Box::pin(AttachSender::send(self, input))
    }
}

/// A process that is joined. Dropping it detaches.
pub struct Process {
    pub input: Box<dyn Input>,
    /// Ends after [`AttachOutput::Exited`]; an error is the last thing that comes.
    pub output: BoxStream<'static, Result<AttachOutput>>,
    pub stdin_end: StdinEnd,
}

impl Process {
    pub fn new(stream: AttachStream, stdin_end: StdinEnd) -> Self {
        Self { input: Box::new(stream.input), output: stream.output.boxed(), stdin_end }
    }
}

/// Who runs the containers.
pub trait Target: Send + Sync + 'static {
    /// Starts a process; `size` is its terminal's as far as the client has said it. It is also sent as input afterwards.
    fn exec<'a>(&'a self, exec: &'a Exec, size: Option<Size>) -> BoxFuture<'a, Result<Process>>;

    /// Joins a container's first process.
    fn attach<'a>(&'a self, attach: &'a Attach) -> BoxFuture<'a, Result<Process>>;

    /// Connects to a port of a pod on its loopback interface.
    fn connect<'a>(&'a self, pod: &'a str, port: u16) -> BoxFuture<'a, Result<tokio::net::TcpStream>>;
}
