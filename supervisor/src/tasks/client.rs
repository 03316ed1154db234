//! A ttrpc client over one Unix connection to a shim.
//!
//! What always holds: requests leave in the order in which they were made, several in one write if made in one
//! [`Connection::pipeline`]; a call that is dropped is forgotten; nothing is queued beyond the bounds in
//! `limits.rs`; when the connection ends every call on it ends too. A stream whose receiver does not read stops
//! the whole connection, which is the back-pressure that attached clients need: [`Connection::stalled`] tells.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use longshore_proto::ttrpc::{self, Call, CallError, ClientStreams, Decoder, Flags, Kind, Target};
use prost::Message;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::limits;

/// Why a call has no answer.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The shim answered with an error.
    Refused(CallError),
    /// The connection ended first.
    Closed(Arc<str>),
    /// No answer in time.
    TimedOut(Duration),
    /// The request or the answer breaks the protocol.
    Protocol(ttrpc::Error),
    /// A bound of `limits.rs` was reached: its name and value.
    Limit(&'static str, usize),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => f.write_str(&error.message),
            Self::Closed(why) => write!(f, "the connection to the shim ended: {why}"),
            Self::TimedOut(after) => write!(f, "the shim did not answer within {} s", after.as_secs_f32()),
            Self::Protocol(error) => write!(f, "{error}"),
            Self::Limit(name, max) => write!(f, "limit {name} = {max} reached"),
        }
    }
}

type Payload = Result<Vec<u8>, Failure>;

enum Waiter {
    Unary(oneshot::Sender<Payload>),
    Stream(mpsc::Sender<Payload>),
}

#[derive(Default)]
struct State {
    streams: ClientStreams,
    waiters: HashMap<u32, Waiter>,
    /// Encoded frames that the kernel has not taken yet, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    pumping: bool,
    closed: Option<Arc<str>>,
}

impl State {
    fn queued(&self) -> usize {
        self.out.len() - self.sent
    }
}

/// How a peer wants to be spoken to.
#[derive(Clone, Debug)]
pub struct Dialect {
    /// Full name of its task service.
    pub task: &'static str,
    /// Named in a header of every call, if the peer needs to be told.
    pub namespace: Option<Arc<str>>,
}

impl Dialect {
    /// Our own shims'.
    const OWN: Self = Self { task: super::wire::TASK, namespace: None };
}

/// The header that names the namespace.
const NAMESPACE: &str = "containerd-namespace-ttrpc";

struct Shared {
    stream: UnixStream,
    dialect: Dialect,
    state: Mutex<State>,
    /// Told when `out` was drained or the connection ended.
    drained: Notify,
    /// Told when a receiver does not keep up and the connection waits for it.
    stalled: Notify,
}

/// A connection; clones share it, and it closes when the last clone and the last call on it are gone.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    _reader: Arc<AbortOnDrop>,
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// Registering it with the event loop fails.
    pub fn new(stream: StdUnixStream) -> io::Result<Self> {
        Self::speaking(stream, Dialect::OWN)
    }

    /// Takes over a connected socket to a peer of another dialect.
    ///
    /// # Errors
    /// As [`Connection::new`].
    pub fn speaking(stream: StdUnixStream, dialect: Dialect) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        let shared = Arc::new(Shared {
            stream,
            dialect,
            state: Mutex::new(State::default()),
            drained: Notify::new(),
            stalled: Notify::new(),
        });
        let reader = tokio::spawn(read_loop(shared.clone()));
        Ok(Self { shared, _reader: Arc::new(AbortOnDrop(reader.abort_handle())) })
    }

    /// Makes several calls that leave in one write, in order.
    ///
    /// # Errors
    /// The first error of `calls`, or a bound is reached, or the connection is closed; then none of them was sent.
    pub fn pipeline<T>(
        &self,
        calls: impl FnOnce(&mut Pipeline<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut pipeline =
            Pipeline { connection: self, out: Vec::new(), calls: Vec::new(), frames: Vec::new() };
        let made = calls(&mut pipeline)?;
        let Pipeline { out, calls, frames, .. } = pipeline;
        self.send(out, calls, &frames)?;
        Ok(made)
    }

    /// Gives the calls their stream numbers, which must rise in the order of writing, and writes.
    fn send(&self, mut out: Vec<u8>, calls: Vec<NewCall>, frames: &[NewFrame]) -> Result<(), Failure> {
        let mut state = self.shared.lock();
        if let Some(why) = &state.closed {
            return Err(Failure::Closed(why.clone()));
        }
        if state.waiters.len() + calls.len() > limits::CALLS_PER_CONNECTION {
            return Err(Failure::Limit("calls waiting for one shim", limits::CALLS_PER_CONNECTION));
        }
        if state.queued() > limits::QUEUED_BYTES {
            return Err(Failure::Limit("bytes queued for one shim", limits::QUEUED_BYTES));
        }
        for call in calls {
            let stream = state.streams.open().map_err(Failure::Protocol)?;
            call.stream.store(stream, Ordering::Relaxed);
            state.waiters.insert(stream, call.waiter);
        }
        for frame in frames {
            let number = frame.stream.load(Ordering::Relaxed).to_be_bytes();
            let at = frame.offset + STREAM_OFFSET;
            if let Some(place) = out.get_mut(at..at + number.len()) {
                place.copy_from_slice(&number);
            }
        }
        if state.out.is_empty() {
            state.out = out
        } else {
            state.out.extend_from_slice(&out)
        }
        self.shared.flush(&mut state);
        Ok(())
    }

    /// One call with one answer.
    ///
    /// # Errors
    /// Anything in [`Failure`].
    pub async fn unary<R: Message, A: Message + Default>(
        &self,
        service: &'static str,
        method: &'static str,
        request: &R,
        timeout: Duration,
    ) -> Result<A, Failure> {
        self.pipeline(|p| p.unary(service, method, request, timeout))?.answer().await
    }

    /// The peer's task service.
    pub fn task_service(&self) -> &'static str {
        self.shared.dialect.task
    }

    pub fn dialect(&self) -> Dialect {
        self.shared.dialect.clone()
    }

    /// Returns when the connection has ended.
    pub async fn closed(&self) {
        loop {
            let drained = self.shared.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            if self.shared.lock().closed.is_some() {
                return;
            }
            drained.await;
        }
    }

    /// Returns when a receiver of this connection was found not to keep up.
    pub async fn stalled(&self) {
        self.shared.stalled.notified().await;
    }
}

/// Where the stream number is in a frame's header.
const STREAM_OFFSET: usize = 4;

/// The stream number of a call; 0 until it is sent.
type StreamCell = Arc<AtomicU32>;

struct NewCall {
    stream: StreamCell,
    waiter: Waiter,
}

struct NewFrame {
    offset: usize,
    stream: StreamCell,
}

/// Calls being put together for one write.
pub struct Pipeline<'a> {
    connection: &'a Connection,
    out: Vec<u8>,
    calls: Vec<NewCall>,
    /// The frames in `out` whose headers still lack the stream number.
    frames: Vec<NewFrame>,
}

impl Pipeline<'_> {
    /// A call with one answer, which [`Pending::answer`] waits for at most `timeout`.
    ///
    /// # Errors
    /// The request is too long, or too many calls or bytes wait for the shim.
    pub fn unary<R: Message, A: Message + Default>(
        &mut self,
        service: &'static str,
        method: &'static str,
        request: &R,
        timeout: Duration,
    ) -> Result<Pending<A>, Failure> {
        let (sender, answer) = oneshot::channel();
        let mut target = Target::new(service, method, Call::Unary);
        target.timeout = Some(timeout);
        let stream = self.open(target, request, Waiter::Unary(sender))?;
        let call = OpenCall { connection: self.connection.clone(), stream };
        Ok(Pending { call, answer, timeout, method, message: PhantomData })
    }

    /// A call with one request and a stream of answers.
    ///
    /// # Errors
    /// As [`Pipeline::unary`].
    pub fn server_stream<R: Message, A: Message + Default>(
        &mut self,
        service: &'static str,
        method: &'static str,
        request: &R,
    ) -> Result<Incoming<A>, Failure> {
        let (sender, messages) = mpsc::channel(limits::STREAM_MESSAGES);
        let target = Target::new(service, method, Call::ServerStream);
        let stream = self.open(target, request, Waiter::Stream(sender))?;
        let call = OpenCall { connection: self.connection.clone(), stream };
        Ok(Incoming { call, messages, method, message: PhantomData })
    }

    /// A call with streams both ways, whose first message is `first`.
    ///
    /// # Errors
    /// As [`Pipeline::unary`].
    pub fn duplex<R: Message, A: Message + Default>(
        &mut self,
        service: &'static str,
        method: &'static str,
        first: &R,
    ) -> Result<(Outgoing<R>, Incoming<A>), Failure> {
        let (sender, messages) = mpsc::channel(limits::STREAM_MESSAGES);
        let target = Target::new(service, method, Call::ClientStream);
        let stream = self.open(target, &(), Waiter::Stream(sender))?;
        self.frames.push(NewFrame { offset: self.out.len(), stream: stream.clone() });
        ttrpc::encode_data(&mut self.out, 0, first).map_err(Failure::Protocol)?;
        let call = OpenCall { connection: self.connection.clone(), stream: stream.clone() };
        let outgoing = Outgoing { connection: self.connection.clone(), stream, message: PhantomData };
        Ok((outgoing, Incoming { call, messages, method, message: PhantomData }))
    }

    fn open<R: Message>(
        &mut self,
        target: Target<'_>,
        request: &R,
        waiter: Waiter,
    ) -> Result<StreamCell, Failure> {
        let stream = StreamCell::default();
        self.frames.push(NewFrame { offset: self.out.len(), stream: stream.clone() });
        let encoded = match &self.connection.shared.dialect.namespace {
            None => ttrpc::encode_request(&mut self.out, 0, target, request),
            Some(namespace) => {
                let metadata: &[(&str, &str)] = &[(NAMESPACE, namespace)];
                ttrpc::encode_request(&mut self.out, 0, Target { metadata, ..target }, request)
            }
        };
        encoded.map_err(Failure::Protocol)?;
        self.calls.push(NewCall { stream: stream.clone(), waiter });
        Ok(stream)
    }
}

/// Forgets the call when it is dropped; what still comes for it is skipped.
struct OpenCall {
    connection: Connection,
    stream: StreamCell,
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let stream = self.stream.load(Ordering::Relaxed);
        if stream != 0 {
            self.connection.shared.lock().waiters.remove(&stream);
        }
    }
}

/// A call whose answer is still to come.
pub struct Pending<A> {
    call: OpenCall,
    answer: oneshot::Receiver<Payload>,
    timeout: Duration,
    method: &'static str,
    message: PhantomData<fn() -> A>,
}

impl<A: Message + Default> Pending<A> {
    /// Waits for the answer, as long as the call's timeout.
    ///
    /// # Errors
    /// Anything in [`Failure`].
    pub async fn answer(self) -> Result<A, Failure> {
        let Self { call, answer, timeout, method, .. } = self;
        let payload = match tokio::time::timeout(timeout, answer).await {
            Err(_) => return Err(Failure::TimedOut(timeout)),
            Ok(Err(_)) => return Err(call.connection.shared.why_closed()),
            Ok(Ok(payload)) => payload?,
        };
        ttrpc::decode(&payload, method).map_err(Failure::Protocol)
    }
}

/// The answers of a streaming call.
pub struct Incoming<A> {
    call: OpenCall,
    messages: mpsc::Receiver<Payload>,
    method: &'static str,
    message: PhantomData<fn() -> A>,
}

impl<A: Message + Default> Incoming<A> {
    /// The next message; `None` after the shim ended the stream well. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<A, Failure>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Incoming::next`], for those who write their own futures.
    pub fn poll_next(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<A, Failure>>> {
        self.messages.poll_recv(cx).map(|message| {
            let decoded = message?.and_then(|m| ttrpc::decode(&m, self.method).map_err(Failure::Protocol));
            Some(decoded)
        })
    }

    /// A message that is here already.
    pub fn try_next(&mut self) -> Option<Result<A, Failure>> {
        let message = self.messages.try_recv().ok()?;
        Some(message.and_then(|m| ttrpc::decode(&m, self.method).map_err(Failure::Protocol)))
    }

    /// The connection that the stream runs on.
    pub fn connection(&self) -> &Connection {
        &self.call.connection
    }
}

/// Our side of a streaming call. Dropping it does not end the stream; [`Outgoing::end`] does.
pub struct Outgoing<R> {
    connection: Connection,
    stream: StreamCell,
    message: PhantomData<fn(R)>,
}

impl<R> Clone for Outgoing<R> {
    fn clone(&self) -> Self {
        Self { connection: self.connection.clone(), stream: self.stream.clone(), message: PhantomData }
    }
}

impl<R: Message> Outgoing<R> {
    /// Sends a message, after waiting until the shim has taken most of what was sent before. Cancel safe: a
    /// send that is dropped while it waits was not made.
    ///
    /// # Errors
    /// The connection ended, or the message is too long.
    pub async fn send(&self, message: &R) -> Result<(), Failure> {
        let shared = &self.connection.shared;
        loop {
            let drained = shared.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            {
                let mut state = shared.lock();
                if let Some(why) = &state.closed {
                    return Err(Failure::Closed(why.clone()));
                }
                if state.queued() < limits::STDIN_QUEUED_BYTES {
                    ttrpc::encode_data(&mut state.out, self.number(), message).map_err(Failure::Protocol)?;
                    shared.flush(&mut state);
                    return Ok(());
                }
            }
            drained.await;
        }
    }

    fn number(&self) -> u32 {
        self.stream.load(Ordering::Relaxed)
    }

    /// Sends a message that is short and must not wait. On a connection that ended, or one that is clogged beyond
    /// every bound, it is lost with the rest.
    pub fn post(&self, message: &R) {
        let shared = &self.connection.shared;
        let mut state = shared.lock();
        if state.closed.is_none()
            && state.queued() <= limits::QUEUED_BYTES
            && ttrpc::encode_data(&mut state.out, self.number(), message).is_ok()
        {
            shared.flush(&mut state);
        }
    }

    /// Says that no more messages follow; the daemon's own streams end with their connection.
    #[cfg(test)]
    pub fn end(&self) {
        let shared = &self.connection.shared;
        let mut state = shared.lock();
        if state.closed.is_none() && state.waiters.contains_key(&self.number()) {
            ttrpc::encode_end(&mut state.out, self.number());
            shared.flush(&mut state);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn why_closed(&self) -> Failure {
        Failure::Closed(self.lock().closed.clone().unwrap_or_else(|| "by the daemon".into()))
    }

    /// Gives the kernel what it takes now; the rest is left to a task of its own.
    fn flush(self: &Arc<Self>, state: &mut State) {
        if state.pumping {
            return;
        }
        match self.write_some(state) {
            Ok(()) if state.queued() > 0 => {
                state.pumping = true;
                tokio::spawn(pump(self.clone()));
            }
            Ok(()) => {}
            // The reader sees the same end and tells everyone; here only the queue is given up.
            Err(_) => {
                state.out.clear();
                state.sent = 0;
            }
        }
    }

    fn write_some(&self, state: &mut State) -> io::Result<()> {
        while state.queued() > 0 {
            match self.stream.try_write(&state.out[state.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => state.sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        state.sent = 0;
        if state.out.capacity() > limits::KEPT_BUFFER {
            state.out = Vec::new();
        } else {
            state.out.clear();
        }
        Ok(())
    }

    /// Ends every call that waits.
    fn close(&self, why: &str) {
        let why: Arc<str> = why.into();
        let waiters = {
            let mut state = self.lock();
            state.closed.get_or_insert_with(|| why.clone());
            state.out = Vec::new();
            state.sent = 0;
            std::mem::take(&mut state.waiters)
        };
        for waiter in waiters.into_values() {
            match waiter {
                Waiter::Unary(sender) => drop(sender.send(Err(Failure::Closed(why.clone())))),
                Waiter::Stream(sender) => drop(sender.try_send(Err(Failure::Closed(why.clone())))),
            }
        }
        self.drained.notify_waiters();
    }
}

/// Writes what is queued as the kernel takes it.
async fn pump(shared: Arc<Shared>) {
    loop {
        let ready = shared.stream.writable().await;
        let mut state = shared.lock();
        let wrote = ready.and_then(|()| shared.write_some(&mut state));
        if wrote.is_err() {
            state.out.clear();
            state.sent = 0;
        }
        let done = state.queued() == 0;
        if done {
            state.pumping = false;
        }
        let room = state.queued() < limits::STDIN_QUEUED_BYTES;
        drop(state);
        if room {
            shared.drained.notify_waiters();
        }
        if done {
            return;
        }
    }
}

thread_local! {
    /// Shared by all connections that a worker thread reads, so that an idle connection holds no buffer.
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; limits::READ_BUFFER]);
}

/// Reads frames and hands them to their calls until the connection ends.
async fn read_loop(shared: Arc<Shared>) {
    let mut decoder = Decoder::new();
    let why = loop {
        if let Err(error) = shared.stream.readable().await {
            break error.to_string();
        }
        let read = READ_BUFFER.with_borrow_mut(|buffer| {
            let read = shared.stream.try_read(buffer)?;
            decoder.feed(&buffer[..read]);
            Ok::<_, io::Error>(read)
        });
        match read {
            Ok(0) => break "the shim closed it".to_owned(),
            Ok(_) => dispatch(&shared, &mut decoder).await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => break error.to_string(),
        }
    };
    shared.close(&why);
}

async fn dispatch(shared: &Shared, decoder: &mut Decoder) {
    loop {
        match decoder.next_frame() {
            Ok(None) => return,
            Ok(Some(frame)) => {
                let full = deliver(&mut shared.lock(), frame);
                if let Some((sender, payload)) = full {
                    shared.stalled.notify_one();
                    // The receiver may be gone; then its messages are not wanted.
                    let _ = sender.send(payload).await;
                }
            }
            Err(error) => {
                let (ttrpc::Error::TooLong { stream, .. } | ttrpc::Error::UnknownKind { stream, .. }) = error
                else {
                    continue;
                };
                let waiter = shared.lock().waiters.remove(&stream);
                match waiter {
                    Some(Waiter::Unary(sender)) => drop(sender.send(Err(Failure::Protocol(error)))),
                    Some(Waiter::Stream(sender)) => drop(sender.send(Err(Failure::Protocol(error))).await),
                    None => {}
                }
            }
        }
    }
}

/// Hands a frame to its call; a stream that is full is given back, to be waited for without the lock.
fn deliver(state: &mut State, frame: ttrpc::Frame<'_>) -> Option<(mpsc::Sender<Payload>, Payload)> {
    let last = frame.kind == Kind::Response || frame.flags.contains(Flags::REMOTE_CLOSED);
    let payload = match frame.kind {
        Kind::Response => frame
            .decode::<ttrpc::Response>("Response")
            .map_err(Failure::Protocol)
            .and_then(|response| response.into_result().map_err(Failure::Refused)),
        Kind::Data => Ok(frame.payload.to_vec()),
        Kind::Request => return None,
    };
    let empty = frame.flags.contains(Flags::NO_DATA);
    if !last {
        let Waiter::Stream(sender) = state.waiters.get(&frame.stream)? else { return None };
        if empty {
            return None;
        }
        return try_send(sender.clone(), payload);
    }
    match state.waiters.remove(&frame.stream)? {
        Waiter::Unary(sender) => {
            let _ = sender.send(payload);
            None
        }
        // A stream that ends well with a response has no message in it.
        Waiter::Stream(_) if empty || (frame.kind == Kind::Response && payload.is_ok()) => None,
        Waiter::Stream(sender) => try_send(sender, payload),
    }
}

fn try_send(sender: mpsc::Sender<Payload>, payload: Payload) -> Option<(mpsc::Sender<Payload>, Payload)> {
    match sender.try_send(payload) {
        Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => None,
        Err(mpsc::error::TrySendError::Full(payload)) => Some((sender, payload)),
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
