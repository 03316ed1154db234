//! HTTP/2 by hand on a Unix socket: for load that costs the client almost nothing, and for clients that misbehave.
//!
//! Requests are written as literals without a compression table, and the peer is told that we have none, so that headers
//! are bytes that can be compared.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What every HTTP/2 connection may send at first.
const FIRST_WINDOW: i64 = 65535;
/// What we let the peer send without asking again.
const WINDOW: u32 = 0x7fff_0000;

/// A frame as it came.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Whether the peer is done with the stream.
    pub fn ends(&self) -> bool {
        self.kind == RST_STREAM || matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// A connection.
pub struct Connection {
    stream: UnixStream,
    /// What came and was not looked at yet is from `at` to `end`.
    received: Vec<u8>,
    at: usize,
    end: usize,
    /// Bytes of data that we may still send, all streams together.
    pub window: i64,
    /// Bytes of data that came since the peer was last given room.
    taken: u32,
    next: u32,
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(9 + payload.len());
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header that is put into no table.
pub fn header(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        let length = text.len();
        if length < 0x7f {
            block.push(length as u8);
        } else {
            block.push(0x7f);
            let mut rest = length - 0x7f;
            while rest >= 0x80 {
                block.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            block.push(rest as u8);
        }
        block.extend_from_slice(text.as_bytes());
    }
}

/// The headers of a gRPC call.
pub fn call_headers(path: &str, namespace: &str) -> Vec<u8> {
    let mut block = Vec::new();
    let pseudo = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")];
    let plain =
        [("content-type", "application/grpc"), ("te", "trailers"), ("containerd-namespace", namespace)];
    for (name, value) in pseudo.into_iter().chain(plain).filter(|(_, value)| !value.is_empty()) {
        header(&mut block, name, value);
    }
    block
}

/// A message with its prefix.
pub fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

impl Connection {
    pub fn open(socket: &Path) -> io::Result<Connection> {
        Self::with_window(socket, WINDOW)
    }

    /// Lets the peer send so much on a stream, and on all of them together no less than HTTP/2's first window.
    pub fn with_window(socket: &Path, window: u32) -> io::Result<Connection> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut settings = Vec::new();
        for (name, value) in [(1u16, 0u32), (2, 0), (4, window)] {
            settings.extend_from_slice(&name.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        }
        let mut hello = PREFACE.to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &settings));
        if i64::from(window) > FIRST_WINDOW {
            let more = window - FIRST_WINDOW as u32;
            hello.extend(frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes()));
        }
        stream.write_all(&hello)?;
        Ok(Connection {
            stream,
            received: Vec::new(),
            at: 0,
            end: 0,
            window: FIRST_WINDOW,
            taken: 0,
            next: 1,
        })
    }

    pub fn socket(&self) -> &UnixStream {
        &self.stream
    }

    /// The number for the next stream.
    pub fn number(&mut self) -> u32 {
        let number = self.next;
        self.next += 2;
        number
    }

    /// Appends a whole call to `out`; its stream.
    pub fn call(&mut self, out: &mut Vec<u8>, headers: &[u8], message: &[u8]) -> u32 {
        let stream = self.number();
        out.extend(frame(HEADERS, END_HEADERS, stream, headers));
        out.extend(frame(DATA, END_STREAM, stream, message));
        self.window -= message.len() as i64;
        stream
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Whether a frame is there without waiting for the socket.
    pub fn has_frame(&self) -> bool {
        self.length().is_some_and(|length| self.end - self.at >= length)
    }

    fn length(&self) -> Option<usize> {
        let head = self.received[..self.end].get(self.at..self.at + 9)?;
        Some(9 + (usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])))
    }

    /// Reads what the socket has, once.
    pub fn fill(&mut self) -> io::Result<usize> {
        self.received.copy_within(self.at..self.end, 0);
        (self.at, self.end) = (0, self.end - self.at);
        if self.end == self.received.len() {
            self.received.resize(self.end + 256 * 1024, 0);
        }
        let count = self.stream.read(&mut self.received[self.end..])?;
        self.end += count;
        Ok(count)
    }

    /// The next frame; what keeps the connection going (settings, pings, windows) is answered on the way, and shown, too.
    pub fn read(&mut self) -> io::Result<Frame> {
        self.next_frame(true)
    }

    /// As [`Self::read`], for load that costs the client almost nothing: the payload is passed over.
    pub fn skim(&mut self) -> io::Result<Frame> {
        self.next_frame(false)
    }

    fn next_frame(&mut self, payload: bool) -> io::Result<Frame> {
        while !self.has_frame() {
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let length = self.length().unwrap_or(9);
        let bytes = &self.received[self.at..self.at + length];
        let stream = u32::from_be_bytes([bytes[5] & 0x7f, bytes[6], bytes[7], bytes[8]]);
        let (kind, flags) = (bytes[3], bytes[4]);
        let kept = if payload || !matches!(kind, DATA | HEADERS) { &bytes[9..] } else { &[] };
        let frame = Frame { kind, flags, stream, payload: kept.to_vec() };
        self.at += length;
        self.keep_going(&frame, length - 9)?;
        Ok(frame)
    }

    fn keep_going(&mut self, received: &Frame, length: usize) -> io::Result<()> {
        let number = || match received.payload[..] {
            [a, b, c, d, ..] => u32::from_be_bytes([a, b, c, d]),
            _ => 0,
        };
        match received.kind {
            SETTINGS if received.flags & ACK == 0 => self.write(&frame(SETTINGS, ACK, 0, &[])),
            PING if received.flags & ACK == 0 => self.write(&frame(PING, ACK, 0, &received.payload)),
            WINDOW_UPDATE if received.stream == 0 => {
                self.window += i64::from(number());
                Ok(())
            }
            DATA => {
                self.taken += length as u32;
                if self.taken < WINDOW / 2 {
                    return Ok(());
                }
                let taken = std::mem::take(&mut self.taken);
                self.write(&frame(WINDOW_UPDATE, 0, 0, &taken.to_be_bytes()))
            }
            _ => Ok(()),
        }
    }
}
