//! One ttrpc connection: bytes in and out, and which of its streams are open. It knows nothing of what is said.
//!
//! Bytes to send are collected and go out once a turn of the loop; nothing blocks.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use longshore_proto::ttrpc::{self, Decoder, Flags, Kind, Request, ServerStreams};
use prost::Message;

use crate::error::Error;
use crate::limits;

/// A stream whose answer is still to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Open {
    /// A unary call that is answered later.
    Call,
    /// A subscription to events: of one container, or of all.
    Events(Option<Rc<str>>),
    /// An attach call whose first message has not come yet.
    AttachOpening,
    /// A client attached to the process with this serial number.
    Attached(u32),
}

/// What came in.
pub enum Incoming {
    Request { stream: u32, flags: Flags, request: Request },
    Data { stream: u32, flags: Flags, bytes: Vec<u8> },
    Refused { stream: u32, error: Error },
}

/// What became of an attempt to read or send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All was done that can be done now.
    Done,
    /// The other side has closed, or the connection failed.
    Gone,
}

/// One connection.
pub struct Connection {
    socket: UnixStream,
    decoder: Decoder,
    numbers: ServerStreams,
    /// Streams whose answer is still to come.
    pub streams: BTreeMap<u32, Open>,
    out: Vec<u8>,
    sent: usize,
    /// The process whose waiting stdin keeps this connection from being read.
    pub held_by: Option<u32>,
    /// Whether a request is buffered that must wait.
    pub is_stalled: bool,
    /// Whether the socket may take more; false after it refused, until the loop says so.
    pub has_room: bool,
    /// Whether the loop watches for more to read.
    pub reading: bool,
    /// Whether the loop watches for room to write.
    pub writing: bool,
}

impl Connection {
    /// Takes over a connected socket; it is non-blocking from here on.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            decoder: Decoder::new(),
            numbers: ServerStreams::default(),
            streams: BTreeMap::new(),
            out: Vec::new(),
            sent: 0,
            held_by: None,
            is_stalled: false,
            has_room: true,
            reading: true,
            writing: false,
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads what is there, at most [`limits::TURN`] bytes.
    pub fn receive(&mut self, scratch: &mut [u8]) -> Progress {
        let mut total = 0;
        while total < limits::TURN {
            match self.socket.read(scratch) {
                Ok(0) => return Progress::Gone,
                Ok(count) => {
                    self.decoder.feed(scratch.get(..count).unwrap_or_default());
                    total += count;
                    if count < scratch.len() {
                        return Progress::Done;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Done,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Progress::Gone,
            }
        }
        Progress::Done
    }

    /// The next message, unless this connection must wait: it has too much to take first.
    pub fn next(&mut self) -> Option<Incoming> {
        self.is_stalled = self.must_wait();
        if self.is_stalled {
            return None;
        }
        loop {
            match self.decoder.next_frame() {
                Ok(None) => return None,
                Ok(Some(frame)) => {
                    let (stream, flags) = (frame.stream, frame.flags);
                    match frame.kind {
                        Kind::Data => {
                            return Some(Incoming::Data { stream, flags, bytes: frame.payload.to_vec() });
                        }
                        // A server gets no responses; one that comes means nothing.
                        Kind::Response => {}
                        Kind::Request => {
                            let request = frame.decode::<Request>("ttrpc request");
                            return Some(self.request(stream, flags, request));
                        }
                    }
                }
                Err(error @ ttrpc::Error::TooLong { stream, .. }) => {
                    return Some(Incoming::Refused { stream, error: error.into() });
                }
                // What the protocol does not know is skipped.
                Err(_) => {}
            }
        }
    }

    fn request(&mut self, stream: u32, flags: Flags, request: Result<Request, ttrpc::Error>) -> Incoming {
        if let Err(error) = self.numbers.accept(stream) {
            return Incoming::Refused { stream, error: error.into() };
        }
        match request {
            Ok(_) if self.streams.len() >= limits::STREAMS => {
                let error = Error::Limit { what: "open streams on this connection", limit: limits::STREAMS };
                Incoming::Refused { stream, error }
            }
            Ok(request) => Incoming::Request { stream, flags, request },
            Err(error) => Incoming::Refused { stream, error: error.into() },
        }
    }

    /// Whether requests must wait until the other side has taken what is there, or a process its stdin.
    pub fn must_wait(&self) -> bool {
        self.held_by.is_some() || self.is_full()
    }

    /// Whether so much waits to be sent that output must stop.
    pub fn is_full(&self) -> bool {
        self.waiting() >= limits::WAITING_OUTPUT
    }

    /// Bytes that wait to be sent.
    pub fn waiting(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Answers a unary call, or ends a stream, with success.
    pub fn answer<M: Message>(&mut self, stream: u32, message: &M) {
        self.streams.remove(&stream);
        if let Err(error) = ttrpc::encode_response(&mut self.out, stream, message) {
            self.fail(stream, &error.into());
        }
    }

    /// Answers with bytes that are an encoded message.
    pub fn answer_raw(&mut self, stream: u32, payload: Vec<u8>) {
        self.streams.remove(&stream);
        if let Err(error) = ttrpc::encode_response_raw(&mut self.out, stream, payload) {
            self.fail(stream, &error.into());
        }
    }

    /// Ends a call or stream with an error.
    pub fn fail(&mut self, stream: u32, error: &Error) {
        self.streams.remove(&stream);
        ttrpc::encode_error(&mut self.out, stream, error.code(), &error.to_string());
    }

    /// Sends a message on an open stream.
    pub fn send<M: Message>(&mut self, stream: u32, message: &M) {
        if let Err(error) = ttrpc::encode_data(&mut self.out, stream, message) {
            self.fail(stream, &error.into());
        }
    }

    /// Sends an encoded message on an open stream.
    pub fn send_raw(&mut self, stream: u32, payload: &[u8]) {
        if let Err(error) = ttrpc::encode_raw(&mut self.out, stream, Kind::Data, Flags::NONE, payload) {
            self.fail(stream, &error.into());
        }
    }

    /// Sends a message whose one field holds `bytes`: output is copied once, straight into the buffer.
    pub fn send_bytes(&mut self, stream: u32, tag: u32, bytes: &[u8]) {
        if let Err(error) = ttrpc::encode_bytes_field(&mut self.out, stream, tag, bytes) {
            self.fail(stream, &error.into());
        }
    }

    /// Ends a stream well.
    pub fn end(&mut self, stream: u32) {
        self.streams.remove(&stream);
        ttrpc::encode_end(&mut self.out, stream);
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn flush(&mut self) -> Progress {
        if !self.has_room || self.out.is_empty() {
            return Progress::Done;
        }
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.socket.write(rest) {
                Ok(0) => return Progress::Gone,
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.out.drain(..self.sent);
                    self.sent = 0;
                    self.has_room = false;
                    return Progress::Done;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Progress::Gone,
            }
        }
        self.out.clear();
        self.out.shrink_to(limits::CHUNK / 16);
        self.sent = 0;
        Progress::Done
    }
}
