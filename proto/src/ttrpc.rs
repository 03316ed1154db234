//! ttrpc framing without I/O: bytes to frames and messages to bytes, shared by the daemon and the shim.
//!
//! The format is that of containerd's ttrpc (PROTOCOL.md of github.com/containerd/ttrpc): a ten byte header,
//! big endian (`u32` payload length, `u32` stream, `u8` kind, `u8` flags), then the payload. What always holds
//! here: no input makes a function panic, nothing longer than [`MAX_PAYLOAD`] is buffered, and a payload that
//! is too long costs its own stream only: it is skipped, and the connection goes on.
//!
//! A unary call is one [`Kind::Request`] frame answered by one [`Kind::Response`] frame. A streaming call is a
//! request with [`Flags::REMOTE_CLOSED`] (only the server streams; the payload is its one message) or
//! [`Flags::REMOTE_OPEN`] (the client sends [`Kind::Data`] frames until one with [`Flags::REMOTE_CLOSED`]); the
//! server's messages are data frames whose payload is the bare message, and it ends the stream with a data frame
//! `REMOTE_CLOSED | NO_DATA`, or with a response frame that carries an error.

use std::fmt;
use std::time::Duration;

use prost::Message;

use crate::google::rpc::Status;

/// Bytes of a frame's header.
pub const HEADER_LENGTH: usize = 10;

/// The longest payload of one frame, in bytes. Longer ones are refused on both ends.
pub const MAX_PAYLOAD: usize = 4 << 20;

/// The most payload that a decoder reserves on a header's word alone: a header is ten bytes and may lie.
const RESERVE_AT_ONCE: usize = 64 << 10;

/// A buffer that grew beyond this gives its memory back once it is empty.
const KEEP_BUFFER: usize = 16 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Opens a stream; payload [`Request`].
    Request,
    /// Ends a stream; payload [`Response`].
    Response,
    /// A message of an open stream; the payload is the bare message.
    Data,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Request),
            2 => Some(Self::Response),
            3 => Some(Self::Data),
            _ => None,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Data => 3,
        }
    }
}

/// The flags of a frame; unknown bits are kept and mean nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// None: a unary request, a response, or a data frame after which more follow.
    pub const NONE: Self = Self(0);
    /// The sender will send no more on this stream.
    pub const REMOTE_CLOSED: Self = Self(1);
    /// On a request: the sender will send data frames.
    pub const REMOTE_OPEN: Self = Self(2);
    /// On a data frame: there is no message in it, not even an empty one.
    pub const NO_DATA: Self = Self(4);
    /// The data frame that ends a server's stream well.
    pub const END: Self = Self(1 | 4);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The payload of a request frame.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// Full name of the service, such as `containerd.task.v3.Task`.
    #[prost(string, tag = "1")]
    pub service: String,
    /// Name of the method, such as `Create`.
    #[prost(string, tag = "2")]
    pub method: String,
    /// The encoded request message.
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
    /// The caller gives up after so many nanoseconds; 0: never.
    #[prost(int64, tag = "4")]
    pub timeout_nano: i64,
    /// Headers, such as `containerd-namespace-ttrpc`.
    #[prost(message, repeated, tag = "5")]
    pub metadata: Vec<KeyValue>,
}

impl Request {
    /// The first header with this name, compared without case.
    #[must_use]
    pub fn header(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|kv| kv.key.eq_ignore_ascii_case(key)).map(|kv| kv.value.as_str())
    }
}

/// One header of a request.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct KeyValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// The payload of a response frame.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    /// Absent or code 0 when the call succeeded.
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    /// The encoded response message.
    #[prost(bytes = "vec", tag = "2")]
    pub payload: Vec<u8>,
}

impl Response {
    /// The payload of a call that succeeded, or its error.
    ///
    /// # Errors
    /// The status, if its code is not 0.
    pub fn into_result(self) -> Result<Vec<u8>, CallError> {
        match self.status {
            Some(status) if status.code != 0 => {
                Err(CallError { code: Code::from_number(status.code), message: status.message })
            }
            _ => Ok(self.payload),
        }
    }
}

/// gRPC's status codes, which ttrpc uses too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// The code of a number on the wire; a number that has no name is [`Code::Unknown`].
    #[must_use]
    pub fn from_number(number: i32) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::Canceled,
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            9 => Self::FailedPrecondition,
            10 => Self::Aborted,
            11 => Self::OutOfRange,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            14 => Self::Unavailable,
            15 => Self::DataLoss,
            16 => Self::Unauthenticated,
            _ => Self::Unknown,
        }
    }
}

/// A call that the other side answered with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    /// What kind of failure.
    pub code: Code,
    /// What the other side says.
    pub message: String,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.message, self.code)
    }
}

impl std::error::Error for CallError {}

/// What is wrong with bytes that came in, or with a message that should go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// A payload over [`MAX_PAYLOAD`]. A decoder skips it and goes on with the next frame.
    TooLong {
        /// The stream that it belongs to.
        stream: u32,
        /// Its length in bytes.
        length: usize,
    },
    /// A frame of a kind that the protocol does not have. Its payload is skipped.
    UnknownKind {
        /// The stream that it belongs to.
        stream: u32,
        /// The byte that names the kind.
        kind: u8,
    },
    /// A stream number that a client may not use: even, or not higher than the one before.
    BadStream {
        /// The number.
        stream: u32,
        /// The highest number used before.
        last: u32,
    },
    /// A client used up all stream numbers of its connection and must make a new one.
    StreamsExhausted,
    /// A payload that is no message of the expected type.
    Malformed {
        /// The type's name.
        what: &'static str,
        /// What the decoder says.
        why: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { stream, length } => {
                write!(
                    f,
                    "ttrpc message of {length} bytes on stream {stream} is over the limit of {MAX_PAYLOAD} bytes"
                )
            }
            Self::UnknownKind { stream, kind } => {
                write!(f, "ttrpc frame on stream {stream} has the unknown type {kind}")
            }
            Self::BadStream { stream, last } => {
                write!(
                    f,
                    "ttrpc stream {stream} cannot be opened: numbers are odd and rise, and {last} was used"
                )
            }
            Self::StreamsExhausted => f.write_str("all ttrpc stream numbers of this connection are used"),
            Self::Malformed { what, why } => write!(f, "malformed {what} message: {why}"),
        }
    }
}

impl std::error::Error for Error {}

/// One frame, borrowed from the decoder's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The stream that it belongs to.
    pub stream: u32,
    /// What it is.
    pub kind: Kind,
    /// Its flags.
    pub flags: Flags,
    /// Its payload, at most [`MAX_PAYLOAD`] bytes.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// The payload as a message.
    ///
    /// # Errors
    /// [`Error::Malformed`] with `what` as the name.
    pub fn decode<M: Message + Default>(&self, what: &'static str) -> Result<M, Error> {
        decode(self.payload, what)
    }
}

/// Bytes as a message.
///
/// # Errors
/// [`Error::Malformed`] with `what` as the name.
pub fn decode<M: Message + Default>(bytes: &[u8], what: &'static str) -> Result<M, Error> {
    M::decode(bytes).map_err(|error| Error::Malformed { what, why: error.to_string() })
}

/// Cuts a byte stream into frames.
///
/// Feed it what was read, then call [`Decoder::next_frame`] until it says `None`.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// What of `buffer` was handed out already.
    taken: usize,
    /// How many bytes still to come belong to a refused frame.
    skip: usize,
}

impl Decoder {
    /// A decoder at the start of a connection; it owns no memory until it is fed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over bytes read from the connection.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        bytes = &bytes[skipped..];
        if bytes.is_empty() {
            return;
        }
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more bytes are fed.
    ///
    /// # Errors
    /// [`Error::TooLong`] and [`Error::UnknownKind`]; the frame is skipped, and the decoder goes on behind it.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, Error> {
        let pending = self.buffer.get(self.taken..).unwrap_or_default();
        let Some((header, rest)) = pending.split_first_chunk::<HEADER_LENGTH>() else {
            if pending.is_empty() {
                self.release();
            }
            return Ok(None);
        };
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, flags] = *header;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        if length > MAX_PAYLOAD {
            self.refuse(length);
            return Err(Error::TooLong { stream, length });
        }
        let Some(kind_known) = Kind::from_byte(kind) else {
            self.refuse(length);
            return Err(Error::UnknownKind { stream, kind });
        };
        if rest.len() < length {
            let missing = length - rest.len();
            self.buffer.reserve(missing.min(RESERVE_AT_ONCE));
            return Ok(None);
        }
        let start = self.taken + HEADER_LENGTH;
        self.taken = start + length;
        let payload = self.buffer.get(start..self.taken).unwrap_or_default();
        Ok(Some(Frame { stream, kind: kind_known, flags: Flags(flags), payload }))
    }

    /// Whether a frame has begun and not ended: the end of the connection would cut it.
    #[must_use]
    pub fn is_inside_frame(&self) -> bool {
        self.skip > 0 || self.taken < self.buffer.len()
    }

    /// Bytes that were fed and not handed out.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffer.len() - self.taken
    }

    fn refuse(&mut self, length: usize) {
        let buffered = self.buffer.len() - self.taken;
        let whole = HEADER_LENGTH.saturating_add(length);
        self.taken += buffered.min(whole);
        self.skip = whole.saturating_sub(buffered);
    }

    fn release(&mut self) {
        self.taken = 0;
        if self.buffer.capacity() > KEEP_BUFFER {
            self.buffer = Vec::new();
        } else {
            self.buffer.clear();
        }
    }
}

/// Appends a frame whose payload is raw bytes.
///
/// # Errors
/// [`Error::TooLong`]; nothing was appended.
pub fn encode_raw(
    out: &mut Vec<u8>,
    stream: u32,
    kind: Kind,
    flags: Flags,
    payload: &[u8],
) -> Result<(), Error> {
    put_header(out, stream, kind, flags, payload.len())?;
    out.extend_from_slice(payload);
    Ok(())
}

/// Appends a frame whose payload is a message: a data frame's, or [`Request`] and [`Response`] themselves.
///
/// # Errors
/// [`Error::TooLong`]; nothing was appended.
pub fn encode_message<M: Message>(
    out: &mut Vec<u8>,
    stream: u32,
    kind: Kind,
    flags: Flags,
    message: &M,
) -> Result<(), Error> {
    let length = message.encoded_len();
    put_header(out, stream, kind, flags, length)?;
    // The only error is a full buffer, and a Vec grows.
    message.encode(out).map_err(|_| Error::TooLong { stream, length })
}

/// How a request goes on after its first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// One request, one response.
    Unary,
    /// One request, a stream of messages back.
    ServerStream,
    /// Data frames from the client follow.
    ClientStream,
}

impl Call {
    /// The flags of the request frame.
    #[must_use]
    pub fn flags(self) -> Flags {
        match self {
            Self::Unary => Flags::NONE,
            Self::ServerStream => Flags::REMOTE_CLOSED,
            Self::ClientStream => Flags::REMOTE_OPEN,
        }
    }
}

/// Where a request goes and what it carries besides its message.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Full name of the service.
    pub service: &'a str,
    /// Name of the method.
    pub method: &'a str,
    /// How the call goes on.
    pub call: Call,
    /// When the caller gives up.
    pub timeout: Option<Duration>,
    /// Headers.
    pub metadata: &'a [(&'a str, &'a str)],
}

impl<'a> Target<'a> {
    /// A call without timeout or headers.
    #[must_use]
    pub fn new(service: &'a str, method: &'a str, call: Call) -> Self {
        Self { service, method, call, timeout: None, metadata: &[] }
    }
}

/// Appends the request frame that opens a stream.
///
/// A [`Call::ClientStream`] carries its messages in data frames: pass `()` as the message then.
///
/// # Errors
/// [`Error::TooLong`]; nothing was appended.
pub fn encode_request<M: Message>(
    out: &mut Vec<u8>,
    stream: u32,
    target: Target<'_>,
    message: &M,
) -> Result<(), Error> {
    let request = Request {
        service: target.service.to_owned(),
        method: target.method.to_owned(),
        payload: message.encode_to_vec(),
        timeout_nano: target.timeout.map_or(0, |t| i64::try_from(t.as_nanos()).unwrap_or(i64::MAX)),
        metadata: target
            .metadata
            .iter()
            .map(|(key, value)| KeyValue { key: (*key).to_owned(), value: (*value).to_owned() })
            .collect(),
    };
    encode_message(out, stream, Kind::Request, target.call.flags(), &request)
}

/// Appends the response of a call that succeeded.
///
/// # Errors
/// [`Error::TooLong`]; nothing was appended.
pub fn encode_response<M: Message>(out: &mut Vec<u8>, stream: u32, message: &M) -> Result<(), Error> {
    encode_response_raw(out, stream, message.encode_to_vec())
}

/// As [`encode_response`], with a message that is encoded already.
///
/// # Errors
/// [`Error::TooLong`]; nothing was appended.
pub fn encode_response_raw(out: &mut Vec<u8>, stream: u32, payload: Vec<u8>) -> Result<(), Error> {
    // An explicit zero status: Go's client reads the field without asking whether it is there.
    let response = Response { status: Some(Status::default()), payload };
    encode_message(out, stream, Kind::Response, Flags::NONE, &response)
}

/// Appends the response of a call that failed; it also ends a stream with an error. Never fails: a message that
/// is too long is cut.
pub fn encode_error(out: &mut Vec<u8>, stream: u32, code: Code, message: &str) {
    let mut end = message.len().min(MAX_PAYLOAD / 2);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let text = message.get(..end).unwrap_or_default().to_owned();
    let status = Status { code: code as i32, message: text, ..Status::default() };
    let response = Response { status: Some(status), payload: Vec::new() };
    // Cannot be too long: the text was cut to half of the limit.
    let _ = encode_message(out, stream, Kind::Response, Flags::NONE, &response);
}

/// Appends one message of an open stream.
///
/// # Errors
/// [`Error::TooLong`]; nothing was appended.
pub fn encode_data<M: Message>(out: &mut Vec<u8>, stream: u32, message: &M) -> Result<(), Error> {
    encode_message(out, stream, Kind::Data, Flags::NONE, message)
}

/// Appends one message of an open stream that has a single field of bytes, such as a piece of output: the bytes
/// are copied once.
///
/// # Errors
/// [`Error::TooLong`]; nothing was appended.
pub fn encode_bytes_field(out: &mut Vec<u8>, stream: u32, tag: u32, bytes: &[u8]) -> Result<(), Error> {
    let length = prost::encoding::key_len(tag) + prost::length_delimiter_len(bytes.len()) + bytes.len();
    put_header(out, stream, Kind::Data, Flags::NONE, length)?;
    prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, out);
    prost::encoding::encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends the frame by which either side says that it sends no more on this stream.
pub fn encode_end(out: &mut Vec<u8>, stream: u32) {
    // Cannot be too long: it has no payload.
    let _ = put_header(out, stream, Kind::Data, Flags::END, 0);
}

fn put_header(out: &mut Vec<u8>, stream: u32, kind: Kind, flags: Flags, length: usize) -> Result<(), Error> {
    let word = match u32::try_from(length) {
        Ok(word) if length <= MAX_PAYLOAD => word,
        _ => return Err(Error::TooLong { stream, length }),
    };
    out.reserve(HEADER_LENGTH + length);
    out.extend_from_slice(&word.to_be_bytes());
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&[kind.byte(), flags.0]);
    Ok(())
}

/// The stream numbers of one connection, seen from the side that opens them.
#[derive(Debug, Default)]
pub struct ClientStreams {
    last: u32,
}

impl ClientStreams {
    /// The number of the next stream: 1, 3, 5, …
    ///
    /// # Errors
    /// [`Error::StreamsExhausted`] after 2³¹ streams.
    pub fn open(&mut self) -> Result<u32, Error> {
        let next = if self.last == 0 { Some(1) } else { self.last.checked_add(2) };
        self.last = next.ok_or(Error::StreamsExhausted)?;
        Ok(self.last)
    }
}

/// The stream numbers of one connection, seen from the side that answers.
#[derive(Debug, Default)]
pub struct ServerStreams {
    last: u32,
}

impl ServerStreams {
    /// Accepts the number of a request frame.
    ///
    /// # Errors
    /// [`Error::BadStream`] when it is even or does not rise.
    pub fn accept(&mut self, stream: u32) -> Result<(), Error> {
        if stream % 2 != 1 || stream <= self.last {
            return Err(Error::BadStream { stream, last: self.last });
        }
        self.last = stream;
        Ok(())
    }
}

#[cfg(test)]
#[path = "ttrpc_tests.rs"]
mod tests;
