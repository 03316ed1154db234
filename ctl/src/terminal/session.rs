//! Takes part in a process until it ends, the user detaches, or a signal says to leave: stdin in, output out, the
//! terminal's size and signals on. Run, start -a, attach and exec all come through here.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IsTerminal};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use longshore_proto::longshore::engine::v1::containers_client::ContainersClient;
use longshore_proto::longshore::engine::v1::{
    Created, Exited, KillRequest, PullProgress, StartFailure, StdioInput,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tonic::{Response, Status, Streaming};

use super::events::{Event, Request};
use super::input;
use super::keys::{DetachKeys, Scanner};
use super::raw::RawMode;
use super::signals::{self, Signals};
use crate::client::Channel;
use crate::failure::Failure;
use crate::output::print;

/// Stdin chunks on their way; more waits in the pipe or the terminal.
const STDIN_QUEUE: usize = 4;
/// Changes of size on their way; more than a user's hand can make.
const CONTROL_QUEUE: usize = 16;
/// How long the daemon may take to remove a container with `--rm` before we leave it to that.
const TIDYING: Duration = Duration::from_secs(10);
/// Signals kept until the container has started.
const EARLY_SIGNALS: usize = 64;

/// What becomes of signals to the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalPolicy {
    /// They go to the container's process.
    Proxy,
    /// They end the command, as they would end any other; only the terminal is looked after.
    Own,
}

/// How the user takes part.
#[derive(Clone, Debug)]
pub struct Participation {
    pub stdin: bool,
    pub tty: bool,
    pub signals: SignalPolicy,
    pub detach_keys: DetachKeys,
}

/// How a session ended.
pub enum Ending {
    Exited(Exited),
    StartFailed(StartFailure),
    Detached,
    /// A signal ended the command, not the process.
    Signalled(i32),
    /// The stream ended after the process had started; this is how a detached one ends.
    Closed,
}

/// How long a session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// To the process's exit.
    Exit,
    /// On until the daemon has tidied up and ends the stream: a container with `--rm` is gone then.
    StreamEnds,
}

/// What the stages before the first output mean to the verb.
pub trait Stages {
    /// The image is not there.
    fn image_missing(&mut self, _reference: &str) {}
    fn pull(&mut self, _progress: PullProgress) {}
    fn created(&mut self, _created: &Created) -> Result<(), Failure> {
        Ok(())
    }
}

/// For verbs that have none.
pub struct NoStages;

impl Stages for NoStages {}

/// A session that has not begun; signals are ours from here on.
pub struct Session {
    participation: Participation,
    signals: Option<Signals>,
    control: mpsc::Sender<StdioInput>,
    stdin: mpsc::Sender<StdioInput>,
    queues: Option<(mpsc::Receiver<StdioInput>, mpsc::Receiver<StdioInput>)>,
    client: ContainersClient<Channel>,
    /// Whom signals go to, once it is known.
    container: Option<String>,
    started: bool,
    early: VecDeque<i32>,
    raw: Option<RawMode>,
    reads_stdin: bool,
    detached: Option<oneshot::Receiver<()>>,
}

impl Session {
    /// Must be called before any thread is started: they all inherit the blocked signals.
    pub fn new(client: ContainersClient<Channel>, participation: Participation) -> Result<Session, Failure> {
        let signals = match participation.signals {
            SignalPolicy::Proxy => Some(Signals::all()),
            SignalPolicy::Own if participation.tty => Some(Signals::of_terminal()),
            SignalPolicy::Own => None,
        };
        let signals =
            signals.transpose().map_err(|error| Failure::message(format!("catching signals: {error}")))?;
        let (control, control_queue) = mpsc::channel(CONTROL_QUEUE);
        let (stdin, stdin_queue) = mpsc::channel(STDIN_QUEUE);
        Ok(Session {
            participation,
            signals,
            control,
            stdin,
            queues: Some((control_queue, stdin_queue)),
            client,
            container: None,
            started: false,
            early: VecDeque::new(),
            raw: None,
            reads_stdin: false,
            detached: None,
        })
    }

    /// The request stream: `first`, then stdin and changes of size.
    pub fn input<R: Request>(&mut self, first: R) -> Input<R> {
        let (control, stdin) = match self.queues.take() {
            Some((control, stdin)) => (Some(control), Some(stdin)),
            None => (None, None),
        };
        Input { first: Some(first), control, stdin }
    }

    /// Signals go to this container, which exists already.
    pub fn signal_to(&mut self, container: &str) {
        self.container = Some(container.to_string());
    }

    /// Follows the stream that `call` opens to its end.
    pub async fn follow<O>(
        mut self,
        call: impl Future<Output = Result<Response<Streaming<O>>, Status>>,
        stages: &mut dyn Stages,
        until: Until,
    ) -> Result<Ending, Failure>
    where
        Event: From<O>,
    {
        let mut call = std::pin::pin!(call);
        let mut stream = loop {
            tokio::select! {
                response = &mut call => break response?.into_inner(),
                signal = next(self.signals.as_ref()) => if let Some(ending) = self.signal(signal?) {
                    return Ok(ending);
                },
            }
        };
        loop {
            tokio::select! {
                biased;
                signal = next(self.signals.as_ref()) => if let Some(ending) = self.signal(signal?) {
                    return Ok(ending);
                },
                () = fired(&mut self.detached) => return Ok(Ending::Detached),
                message = stream.message() => match message? {
                    Some(message) => if let Some(ending) = self.event(message.into(), stages).await? {
                        self.raw = None;
                        if until == Until::StreamEnds {
                            drop(tokio::time::timeout(TIDYING, stream.message()).await);
                        }
                        return Ok(ending);
                    },
                    None if self.started => return Ok(Ending::Closed),
                    None => return Err(Failure::message("the daemon ended the request without starting anything")),
                },
            }
        }
    }

    async fn event(&mut self, event: Event, stages: &mut dyn Stages) -> Result<Option<Ending>, Failure> {
        match event {
            Event::ImageMissing(reference) => stages.image_missing(&reference),
            Event::Pull(progress) => stages.pull(progress),
            Event::Created(created) => {
                stages.created(&created)?;
                self.container = Some(created.id);
                self.take_terminal()?;
            }
            Event::Started => self.start()?,
            Event::Output(target, bytes) => {
                self.start()?;
                self.write(target, bytes).await?;
            }
            Event::Exited(exited) => return Ok(Some(Ending::Exited(exited))),
            Event::StartFailed(failure) => return Ok(Some(Ending::StartFailed(failure))),
            Event::Unknown => {}
        }
        Ok(None)
    }

    /// Signals pass also while a slow reader of the output is waited for.
    async fn write(&mut self, target: print::Target, bytes: Vec<u8>) -> Result<(), Failure> {
        let mut write = std::pin::pin!(print::forward(target, bytes));
        loop {
            tokio::select! {
                biased;
                written = &mut write => return written,
                signal = next(self.signals.as_ref()) => if let Some(Ending::Signalled(signal)) = self.signal(signal?) {
                    return Err(Failure::Silent { code: code_of(signal) });
                },
            }
        }
    }

    /// The process runs: what was kept for it is delivered.
    fn start(&mut self) -> Result<(), Failure> {
        if self.started {
            return Ok(());
        }
        self.started = true;
        self.take_terminal()?;
        while let Some(signal) = self.early.pop_front() {
            self.forward(signal);
        }
        Ok(())
    }

    /// Makes the terminal raw and reads stdin, once: not before there is somebody to give it to.
    fn take_terminal(&mut self) -> Result<(), Failure> {
        if !self.participation.stdin || self.reads_stdin {
            return Ok(());
        }
        self.reads_stdin = true;
        let on_terminal = self.participation.tty && io::stdin().is_terminal();
        if on_terminal {
            let raw = RawMode::enter()
                .map_err(|error| Failure::message(format!("making the terminal raw: {error}")))?;
            self.raw = Some(raw);
        }
        let scanner = self.participation.tty.then(|| Scanner::new(self.participation.detach_keys.clone()));
        let (detach, detached) = oneshot::channel();
        self.detached = Some(detached);
        input::spawn(scanner, self.stdin.clone(), detach)
            .map_err(|error| Failure::message(format!("starting to read stdin: {error}")))
    }

    /// What a signal means; an ending if it is ours.
    fn signal(&mut self, signal: i32) -> Option<Ending> {
        if signal == signals::WINCH && self.participation.tty {
            self.resize();
            return None;
        }
        let nobody = self.participation.signals == SignalPolicy::Own || self.container.is_none();
        if nobody {
            return signals::ends_command(signal).then_some(Ending::Signalled(signal));
        }
        if self.started {
            self.forward(signal);
        } else if self.early.len() < EARLY_SIGNALS {
            self.early.push_back(signal);
        }
        None
    }

    fn resize(&self) {
        if let Some(size) = super::size() {
            // A full queue holds newer sizes than the daemon has seen; one more makes no difference.
            let _ = self.control.try_send(StdioInput { resize: Some(size), ..StdioInput::default() });
        }
    }

    /// By a request of its own, so that it does not wait behind stdin that the process does not read. That the
    /// process is gone already is no error.
    fn forward(&self, signal: i32) {
        let Some(container) = self.container.clone() else { return };
        let mut client = self.client.clone();
        tokio::spawn(async move {
            drop(client.kill(KillRequest { container, signal: signal.to_string() }).await);
        });
    }
}

/// What a shell reports of a child that a signal ended.
pub fn code_of(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

async fn next(signals: Option<&Signals>) -> Result<i32, Failure> {
    match signals {
        Some(signals) => signals.next().await.map_err(Failure::from),
        None => std::future::pending().await,
    }
}

/// The detach sequence; an end of stdin is none.
async fn fired(detached: &mut Option<oneshot::Receiver<()>>) {
    if let Some(receiver) = detached {
        if receiver.await.is_ok() {
            return;
        }
        *detached = None;
    }
    std::future::pending().await
}

/// The request stream of a session. It ends when the session does.
pub struct Input<R> {
    first: Option<R>,
    control: Option<mpsc::Receiver<StdioInput>>,
    stdin: Option<mpsc::Receiver<StdioInput>>,
}

impl<R: Request + Unpin> Stream for Input<R> {
    type Item = R;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Option<R>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        let this = &mut *self;
        for queue in [&mut this.control, &mut this.stdin] {
            let Some(receiver) = queue else { continue };
            match receiver.poll_recv(context) {
                Poll::Ready(Some(input)) => return Poll::Ready(Some(R::stdio(input))),
                Poll::Ready(None) => *queue = None,
                Poll::Pending => {}
            }
        }
        match self.control.is_none() && self.stdin.is_none() {
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
    }
}
