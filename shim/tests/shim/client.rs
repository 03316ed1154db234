//! A small synchronous ttrpc client: it sends frames, and keeps what comes in sorted by stream.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use longshore_proto::longshore::shim::v1 as shim;
use longshore_proto::ttrpc::{
    self, Call, CallError, ClientStreams, Code, Decoder, Flags, Kind, Response, Target,
};
use prost::Message;

pub const TASK: &str = "containerd.task.v3.Task";
pub const SHIM: &str = "longshore.shim.v1.Shim";

/// What came on a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Data(Vec<u8>),
    End,
    Answer(Result<Vec<u8>, CallError>),
}

pub struct Client {
    pub socket: UnixStream,
    decoder: Decoder,
    numbers: ClientStreams,
    replies: BTreeMap<u32, VecDeque<Reply>>,
    out: Vec<u8>,
}

impl Client {
    pub fn new(socket: UnixStream) -> Self {
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self {
            socket,
            decoder: Decoder::new(),
            numbers: ClientStreams::default(),
            replies: BTreeMap::new(),
            out: Vec::new(),
        }
    }

    /// Queues a request; [`Client::flush`] sends it.
    pub fn queue<M: Message>(&mut self, service: &str, method: &str, call: Call, message: &M) -> u32 {
        let stream = self.numbers.open().unwrap();
        ttrpc::encode_request(&mut self.out, stream, Target::new(service, method, call), message).unwrap();
        stream
    }

    pub fn queue_data<M: Message>(&mut self, stream: u32, message: &M) {
        ttrpc::encode_data(&mut self.out, stream, message).unwrap();
    }

    pub fn flush(&mut self) {
        self.socket.write_all(&self.out).unwrap();
        self.out.clear();
    }

    /// Sends a request at once; gives back its stream.
    pub fn start<M: Message>(&mut self, service: &str, method: &str, message: &M) -> u32 {
        let stream = self.queue(service, method, Call::Unary, message);
        self.flush();
        stream
    }

    /// One call and its answer.
    pub fn call<Q: Message, A: Message + Default>(
        &mut self,
        service: &str,
        method: &str,
        request: &Q,
    ) -> Result<A, CallError> {
        let stream = self.start(service, method, request);
        self.answer(stream)
    }

    pub fn task<Q: Message, A: Message + Default>(
        &mut self,
        method: &str,
        request: &Q,
    ) -> Result<A, CallError> {
        self.call(TASK, method, request)
    }

    /// Waits for the answer of a call.
    pub fn answer<A: Message + Default>(&mut self, stream: u32) -> Result<A, CallError> {
        match self.recv(stream, Duration::from_secs(30)) {
            Some(Reply::Answer(answer)) => answer.map(|bytes| A::decode(bytes.as_slice()).unwrap()),
            other => panic!("no answer on stream {stream}: {other:?}"),
        }
    }

    /// The next thing on a stream; `None` after the time has passed. Panics when the connection ends.
    pub fn recv(&mut self, stream: u32, within: Duration) -> Option<Reply> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(reply) = self.replies.get_mut(&stream).and_then(VecDeque::pop_front) {
                return Some(reply);
            }
            if Instant::now() > deadline {
                return None;
            }
            assert!(self.read_some(), "the shim closed the connection while stream {stream} was open");
        }
    }

    /// Reads what is there; false at the end of the connection.
    pub fn read_some(&mut self) -> bool {
        let mut buffer = [0; 64 << 10];
        match self.socket.read(&mut buffer) {
            Ok(0) => return false,
            Ok(count) => self.decoder.feed(&buffer[..count]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => return true,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::ConnectionReset) => return false,
            Err(error) => panic!("{error}"),
        }
        while let Some(frame) = self.decoder.next_frame().unwrap() {
            let reply = match frame.kind {
                Kind::Response => Reply::Answer(frame.decode::<Response>("Response").unwrap().into_result()),
                Kind::Data if frame.flags.contains(Flags::NO_DATA) => Reply::End,
                Kind::Data => Reply::Data(frame.payload.to_vec()),
                Kind::Request => panic!("a request from the shim"),
            };
            self.replies.entry(frame.stream).or_default().push_back(reply);
        }
        true
    }

    /// Subscribes to events.
    pub fn events(&mut self, after: u64) -> u32 {
        let stream = self.queue(
            SHIM,
            "Events",
            Call::ServerStream,
            &shim::EventsRequest { after, ..Default::default() },
        );
        self.flush();
        stream
    }

    /// The next event.
    pub fn event(&mut self, stream: u32) -> shim::Event {
        match self.recv(stream, Duration::from_secs(20)) {
            Some(Reply::Data(bytes)) => shim::Event::decode(bytes.as_slice()).unwrap(),
            other => panic!("no event: {other:?}"),
        }
    }

    /// Queues an attach call.
    pub fn queue_attach(&mut self, start: shim::AttachStart) -> u32 {
        let stream = self.queue(SHIM, "Attach", Call::ClientStream, &());
        self.queue_data(stream, &shim::AttachInput { start: Some(start), ..Default::default() });
        stream
    }

    pub fn send_stdin(&mut self, stream: u32, bytes: &[u8], close_stdin: bool) {
        self.queue_data(
            stream,
            &shim::AttachInput { stdin: bytes.to_vec(), close_stdin, ..Default::default() },
        );
        self.flush();
    }

    /// The next message of an attach stream; `None` at its end or when nothing came.
    pub fn attached(&mut self, stream: u32, within: Duration) -> Option<shim::attach_output::What> {
        match self.recv(stream, within)? {
            Reply::Data(bytes) => Some(shim::AttachOutput::decode(bytes.as_slice()).unwrap().what.unwrap()),
            Reply::End => None,
            Reply::Answer(answer) => panic!("attach ended: {answer:?}"),
        }
    }

    /// Everything of an attach stream until its end.
    pub fn attach_all(&mut self, stream: u32) -> Attached {
        let mut all = Attached::default();
        use shim::attach_output::What;
        while let Some(what) = self.attached(stream, Duration::from_secs(30)) {
            match what {
                What::Attached(()) => {}
                What::Stdout(bytes) => all.stdout.extend(bytes),
                What::Stderr(bytes) => all.stderr.extend(bytes),
                What::StdinTaken(count) => all.taken += count,
                What::Exited(record) => all.exited = Some(record),
            }
        }
        all
    }
}

/// What an attached client saw.
#[derive(Debug, Default)]
pub struct Attached {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub taken: u64,
    pub exited: Option<shim::ExitRecord>,
}

/// The code of a call that must fail.
pub fn code<T: std::fmt::Debug>(result: Result<T, CallError>) -> Code {
    result.expect_err("must fail").code
}
