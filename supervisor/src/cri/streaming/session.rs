//! An exec or an attach: a client's streams on one side, a process on the other.
//!
//! What always holds: what the process wrote is sent before it is told how it ended; a client that went away is noticed at once, its stdin
//! ends with it, and nothing of the session stays.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::ends::{Inlet, Outlet};
use super::limits;
use super::size::Sizes;
use super::status::{Form, Outcome};
use super::target::{Attach, Exec, Input, Process, Size, StdinEnd, Target};
use crate::tasks::{AttachInput, AttachOutput};

/// How long a process's stdin may take to close when its client is gone.
const CLOSE: Duration = Duration::from_secs(1);

/// What a client asked for.
pub enum Request {
    Exec(Exec),
    Attach(Attach),
}

/// Which streams a client has for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Request {
    pub fn wanted(&self) -> Wanted {
        match self {
            Self::Exec(Exec { tty, stdin, stdout, stderr, .. })
            | Self::Attach(Attach { tty, stdin, stdout, stderr, .. }) => {
                Wanted { stdin: *stdin, stdout: *stdout, stderr: *stderr, tty: *tty }
            }
        }
    }

    async fn start(&self, target: &dyn Target, size: Option<Size>) -> crate::error::Result<Process> {
        match self {
            Self::Exec(exec) => target.exec(exec, size).await,
            Self::Attach(attach) => target.attach(attach).await,
        }
    }

    /// How its end is told; of an attach only that it is over, as other runtimes do.
    fn outcome(&self, code: u32) -> Outcome {
        match self {
            Self::Exec(_) if code != 0 => Outcome::ExitCode(code),
            _ => Outcome::Success,
        }
    }
}

/// A client's streams.
pub struct Streams {
    pub stdin: Option<Inlet>,
    pub stdout: Option<Outlet>,
    pub stderr: Option<Outlet>,
    pub resize: Option<Inlet>,
    pub error: Outlet,
    /// Directions that have nothing to say and end with the others.
    pub idle: Vec<Outlet>,
    pub form: Form,
    pub gone: CancellationToken,
}

/// Carries a session to its end, and tells the client.
pub async fn run(target: &dyn Target, request: &Request, mut streams: Streams) {
    let Some(outcome) = carry(target, request, &mut streams).await else { return };
    for out in [&streams.stdout, &streams.stderr].into_iter().flatten() {
        out.finish().await;
    }
    if let Some(status) = outcome.write(streams.form) {
        let _ = streams.error.send(status).await;
    }
    streams.error.finish().await;
    for out in &streams.idle {
        out.finish().await;
    }
}

/// `None`: the client is gone.
async fn carry(target: &dyn Target, request: &Request, streams: &mut Streams) -> Option<Outcome> {
    let mut sizes = streams.resize.take().map(Sizes::new);
    let first = match &mut sizes {
        Some(sizes) => timeout(limits::FIRST_SIZE, sizes.next()).await.ok().flatten(),
        None => None,
    };
    // Not ended by the client's going: what was begun is known only afterwards.
    let process = match request.start(target, first).await {
        Ok(process) => process,
        Err(error) => {
            let verb =
                if matches!(request, Request::Exec(_)) { "executing command in" } else { "attaching to" };
            return Some(Outcome::Failed(format!("error {verb} container: {}", error.for_people())));
        }
    };
    let Process { input, mut output, stdin_end } = process;
    let stdin = streams.stdin.take();
    // Whether the end of the client's stdin is still to be told to the process.
    let closes = AtomicBool::new(stdin.is_some() && stdin_end == StdinEnd::Closes);
    let feeding = feed(&*input, stdin, &closes, sizes, first);
    let gone = streams.gone.clone();
    let taking = take(&mut output, request, streams);
    let ended = tokio::select! {
        biased;
        outcome = taking => outcome,
        () = feeding => None,
        () = gone.cancelled() => None,
    };
    if ended.is_none() && closes.load(Ordering::Relaxed) {
        let _ = timeout(CLOSE, input.send(AttachInput::CloseStdin)).await;
    }
    ended
}

/// Gives a process its input and its terminal's sizes; never ends, since a process may run on without either.
async fn feed(
    input: &dyn Input,
    stdin: Option<Inlet>,
    closes: &AtomicBool,
    sizes: Option<Sizes>,
    first: Option<Size>,
) {
    let stdin = async {
        let Some(mut stdin) = stdin else { return };
        while let Some(bytes) = stdin.next().await {
            if input.send(AttachInput::Stdin(bytes)).await.is_err() {
                // It takes no more; its end is the session's. What the client still sends is thrown away.
                while stdin.next().await.is_some() {}
                return;
            }
        }
        if closes.load(Ordering::Relaxed) && input.send(AttachInput::CloseStdin).await.is_ok() {
            closes.store(false, Ordering::Relaxed);
        }
    };
    let resize = async {
        let Some(mut sizes) = sizes else { return };
        let mut next = first;
        loop {
            if let Some(Size { columns, rows }) = next {
                let (columns, rows) = (columns.into(), rows.into());
                if input.send(AttachInput::Resize { columns, rows }).await.is_err() {
                    return;
                }
            }
            next = sizes.next().await;
            if next.is_none() {
                return;
            }
        }
    };
    tokio::join!(stdin, resize);
    std::future::pending().await
}

/// Takes a process's output until it ends. `None`: the client is gone.
async fn take(
    output: &mut (impl futures::Stream<Item = crate::error::Result<AttachOutput>> + Unpin),
    request: &Request,
    streams: &mut Streams,
) -> Option<Outcome> {
    loop {
        match output.next().await {
            Some(Ok(AttachOutput::Stdout(bytes))) => send(&mut streams.stdout, bytes, &streams.gone).await?,
            Some(Ok(AttachOutput::Stderr(bytes))) => send(&mut streams.stderr, bytes, &streams.gone).await?,
            Some(Ok(AttachOutput::Attached)) => {}
            Some(Ok(AttachOutput::Exited(exit))) => return Some(request.outcome(exit.status)),
            Some(Err(error)) => return Some(Outcome::Failed(error.for_people())),
            None => return Some(Outcome::Failed("the process's streams ended before it did".into())),
        }
    }
}

/// A stream that the client has reset takes nothing more; the process runs on.
async fn send(out: &mut Option<Outlet>, bytes: Bytes, gone: &CancellationToken) -> Option<()> {
    if let Some(outlet) = out
        && outlet.send(bytes).await.is_err()
    {
        if gone.is_cancelled() {
            return None;
        }
        *out = None;
    }
    Some(())
}
