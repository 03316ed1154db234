//! Frames of SPDY/3.1 as bytes: parsed and written, without I/O.
//!
//! What always holds: parsing bytes of anybody ends, in a frame or in an error that says what is wrong with them; only header blocks have a
//! history (see [`super::headers`]).

#![forbid(unsafe_code)]

use super::headers::{Deflater, Headers, Inflater};

/// Bytes before each frame's payload.
pub const HEAD: usize = 8;
/// Longest payload of a control frame in bytes. Data frames are read piece by piece and need no bound.
pub const MAX_CONTROL: usize = 64 * 1024;
/// Credit of a window before anybody speaks of it.
pub const INITIAL_WINDOW: u32 = 64 * 1024;
/// No window may grow beyond it.
pub const MAX_WINDOW: i64 = 0x7fff_ffff;

const VERSION: u16 = 3;
const FIN: u8 = 1;
const SETTING_INITIAL_WINDOW: u32 = 7;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Why a connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("a frame of SPDY version {0}; 3 is spoken here")]
    Version(u16),
    #[error("a {what} of {length} bytes, longer than {most}")]
    TooLong { what: &'static str, length: usize, most: usize },
    #[error("a {0} frame of a wrong length")]
    Length(&'static str),
    #[error("a header block that cannot be inflated")]
    Inflate,
    #[error("headers that cannot be deflated")]
    Deflate,
    #[error("a header block whose lengths do not fit it, or that is no UTF-8")]
    HeaderBlock,
    #[error("a stream with {count} headers, more than 64")]
    TooManyHeaders { count: usize },
    #[error("stream {0} opened: numbers must be odd and grow")]
    StreamNumber(u32),
    #[error("a frame for stream {0}, which nobody opened")]
    NoSuchStream(u32),
    #[error("a window beyond 2^31 - 1 bytes")]
    Window,
}

/// Why one stream does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    Refused = 3,
    /// Clients' only.
    #[cfg(test)]
    Cancel = 5,
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    Data { stream: u32, fin: bool, length: usize },
    Control { kind: u16, flags: u8, length: usize },
}

impl Head {
    pub fn parse(bytes: [u8; HEAD]) -> Result<Self, Broken> {
        let [a, b, c, d, flags, e, f, g] = bytes;
        let length = usize::from(e) << 16 | usize::from(f) << 8 | usize::from(g);
        if a & 0x80 == 0 {
            let stream = u32::from_be_bytes([a, b, c, d]);
            return Ok(Self::Data { stream, fin: flags & FIN != 0, length });
        }
        let version = u16::from_be_bytes([a & 0x7f, b]);
        if version != VERSION {
            return Err(Broken::Version(version));
        }
        if length > MAX_CONTROL {
            return Err(Broken::TooLong { what: "control frame", length, most: MAX_CONTROL });
        }
        Ok(Self::Control { kind: u16::from_be_bytes([c, d]), flags, length })
    }
}

/// A frame that says something of streams or of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// A stream is opened; `fin`: its opener sends no data.
    Open {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    /// The peer took a stream of ours.
    Reply {
        stream: u32,
        fin: bool,
    },
    Reset {
        stream: u32,
    },
    /// Credit that new streams begin with, if it is said.
    Settings {
        initial_window: Option<u32>,
    },
    Ping(u32),
    GoAway,
    Headers {
        stream: u32,
        fin: bool,
    },
    /// More credit for a stream, or for the connection: 0.
    Window {
        stream: u32,
        delta: u32,
    },
    /// Kinds that a later draft or an extension has; to be ignored.
    Unknown,
}

impl Control {
    pub fn parse(kind: u16, flags: u8, payload: &[u8], inflater: &mut Inflater) -> Result<Self, Broken> {
        let fin = flags & FIN != 0;
        Ok(match kind {
            SYN_STREAM => {
                let (stream, rest) = word(payload, "SYN_STREAM")?;
                let block = rest.get(6..).ok_or(Broken::Length("SYN_STREAM"))?;
                Self::Open { stream: stream & 0x7fff_ffff, fin, headers: inflater.headers(block)? }
            }
            SYN_REPLY => {
                let (stream, block) = word(payload, "SYN_REPLY")?;
                inflater.headers(block)?;
                Self::Reply { stream: stream & 0x7fff_ffff, fin }
            }
            HEADERS => {
                let (stream, block) = word(payload, "HEADERS")?;
                inflater.headers(block)?;
                Self::Headers { stream: stream & 0x7fff_ffff, fin }
            }
            RST_STREAM => Self::Reset { stream: pair(payload, "RST_STREAM")?.0 & 0x7fff_ffff },
            SETTINGS => Self::Settings { initial_window: settings(payload)? },
            PING => match payload.try_into() {
                Ok(id) => Self::Ping(u32::from_be_bytes(id)),
                Err(_) => return Err(Broken::Length("PING")),
            },
            GOAWAY => {
                pair(payload, "GOAWAY")?;
                Self::GoAway
            }
            WINDOW_UPDATE => {
                let (stream, delta) = pair(payload, "WINDOW_UPDATE")?;
                Self::Window { stream: stream & 0x7fff_ffff, delta: delta & 0x7fff_ffff }
            }
            _ => Self::Unknown,
        })
    }
}

fn word<'a>(payload: &'a [u8], kind: &'static str) -> Result<(u32, &'a [u8]), Broken> {
    let (head, rest) = payload.split_first_chunk::<4>().ok_or(Broken::Length(kind))?;
    Ok((u32::from_be_bytes(*head), rest))
}

fn pair(payload: &[u8], kind: &'static str) -> Result<(u32, u32), Broken> {
    let (first, rest) = word(payload, kind)?;
    let (second, rest) = word(rest, kind)?;
    if rest.is_empty() { Ok((first, second)) } else { Err(Broken::Length(kind)) }
}

fn settings(payload: &[u8]) -> Result<Option<u32>, Broken> {
    let (count, entries) = word(payload, "SETTINGS")?;
    if usize::try_from(count).ok().and_then(|count| count.checked_mul(8)) != Some(entries.len()) {
        return Err(Broken::Length("SETTINGS"));
    }
    let mut initial = None;
    for entry in entries.chunks_exact(8) {
        let (key, value) = pair(entry, "SETTINGS")?;
        if key & 0x00ff_ffff == SETTING_INITIAL_WINDOW {
            if i64::from(value) > MAX_WINDOW {
                return Err(Broken::Window);
            }
            initial = Some(value);
        }
    }
    Ok(initial)
}

/// The first bytes of a data frame.
#[must_use]
pub fn data(stream: u32, fin: bool, length: usize) -> [u8; HEAD] {
    let [a, b, c, d] = (stream & 0x7fff_ffff).to_be_bytes();
    let [_, e, f, g] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [a, b, c, d, u8::from(fin), e, f, g]
}

#[must_use]
pub fn reset(stream: u32, why: Reset) -> Vec<u8> {
    control(RST_STREAM, 0, &[&stream.to_be_bytes(), &(why as u32).to_be_bytes()])
}

#[must_use]
pub fn ping(id: u32) -> Vec<u8> {
    control(PING, 0, &[&id.to_be_bytes()])
}

/// `last`: the last stream that was taken; `clean`: nothing was wrong.
#[must_use]
pub fn go_away(last: u32, clean: bool) -> Vec<u8> {
    control(GOAWAY, 0, &[&last.to_be_bytes(), &u32::from(!clean).to_be_bytes()])
}

#[must_use]
pub fn window(stream: u32, delta: u32) -> Vec<u8> {
    control(WINDOW_UPDATE, 0, &[&stream.to_be_bytes(), &delta.to_be_bytes()])
}

/// That a stream is taken, without headers of ours.
pub fn reply(stream: u32, deflater: &mut Deflater) -> Result<Vec<u8>, Broken> {
    let block = deflater.headers(&Headers::default())?;
    Ok(control(SYN_REPLY, 0, &[&stream.to_be_bytes(), &block]))
}

/// As a client does it.
#[cfg(test)]
pub fn open(stream: u32, headers: &Headers, deflater: &mut Deflater) -> Vec<u8> {
    let block = deflater.headers(headers).unwrap();
    control(SYN_STREAM, 0, &[&stream.to_be_bytes(), &[0; 6], &block])
}

fn control(kind: u16, flags: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let [_, e, f, g] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let [a, b] = (VERSION | 0x8000).to_be_bytes();
    let [c, d] = kind.to_be_bytes();
    let mut frame = Vec::with_capacity(HEAD + length);
    frame.extend_from_slice(&[a, b, c, d, flags, e, f, g]);
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame
}

/// Parses whatever bytes as the frames of one connection, for fuzzers. Returns how many frames they made.
pub fn parse_all(mut bytes: &[u8]) -> Result<usize, Broken> {
    let mut inflater = Inflater::default();
    let mut frames = 0;
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() {
        let (length, control) = match Head::parse(*head)? {
            Head::Data { length, .. } => (length, None),
            Head::Control { kind, flags, length } => (length, Some((kind, flags))),
        };
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        if let Some((kind, flags)) = control {
            Control::parse(kind, flags, payload, &mut inflater)?;
        }
        bytes = rest;
        frames += 1;
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(bytes: &[u8], inflater: &mut Inflater) -> Control {
        let (head, payload) = bytes.split_first_chunk::<HEAD>().unwrap();
        let Head::Control { kind, flags, length } = Head::parse(*head).unwrap() else { panic!("data") };
        assert_eq!(length, payload.len());
        Control::parse(kind, flags, payload, inflater).unwrap()
    }

    #[test]
    fn frames_come_back_as_they_were() {
        let (mut deflater, mut inflater) = (Deflater::new().unwrap(), Inflater::default());
        let headers = Headers::of(&[("streamType", "stdout")]);
        let opened = parsed(&open(3, &headers, &mut deflater), &mut inflater);
        assert_eq!(opened, Control::Open { stream: 3, fin: false, headers });
        let replied = parsed(&reply(5, &mut deflater).unwrap(), &mut inflater);
        assert_eq!(replied, Control::Reply { stream: 5, fin: false });
        assert_eq!(parsed(&reset(7, Reset::Cancel), &mut inflater), Control::Reset { stream: 7 });
        assert_eq!(parsed(&ping(9), &mut inflater), Control::Ping(9));
        assert_eq!(parsed(&go_away(9, true), &mut inflater), Control::GoAway);
        assert_eq!(parsed(&window(0, 4096), &mut inflater), Control::Window { stream: 0, delta: 4096 });
        let head = Head::parse(data(11, true, 70_000)).unwrap();
        assert_eq!(head, Head::Data { stream: 11, fin: true, length: 70_000 });
    }

    #[test]
    fn hostile_heads_and_settings_are_refused() {
        assert_eq!(Head::parse([0x80, 2, 0, 1, 0, 0, 0, 0]), Err(Broken::Version(2)));
        let long = Head::parse([0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]);
        assert!(matches!(long, Err(Broken::TooLong { length: 0x00ff_ffff, .. })));
        assert_eq!(settings(&[0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 1]), Err(Broken::Length("SETTINGS")));
        assert_eq!(settings(&[0xff, 0xff, 0xff, 0xff]), Err(Broken::Length("SETTINGS")));
        assert_eq!(settings(&[0, 0, 0, 1, 0, 0, 0, 7, 0xff, 0, 0, 0]), Err(Broken::Window));
        assert_eq!(settings(&[0, 0, 0, 1, 1, 0, 0, 7, 0, 0, 1, 0]), Ok(Some(256)));
    }

    proptest! {
        #[test]
        fn no_frame_makes_the_parser_panic(
            frames in proptest::collection::vec((0..12u16, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..6),
            noise in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut bytes = Vec::new();
            for (kind, flags, payload) in &frames {
                bytes.extend(control(*kind, *flags, &[payload]));
            }
            bytes.extend(&noise);
            let _ = parse_all(&bytes);
            let _ = parse_all(&noise);
        }

        #[test]
        fn header_blocks_with_damage_end_in_an_error_or_headers(
            value in "[a-z0-9]{0,200}", at in any::<proptest::sample::Index>(), with in any::<u8>(),
        ) {
            let mut frame = open(1, &Headers::of(&[("streamType", &value)]), &mut Deflater::new().unwrap());
            let index = at.index(frame.len());
            frame[index] ^= with;
            let _ = parse_all(&frame);
        }
    }
}
