//! Makes the HTTP/2 header `:authority` acceptable to our server, in the bytes that a client sends.
//!
//! gRPC's C core (Python, C++, Ruby, PHP) names a Unix socket's path there, with `%2F` for `/`. Go's server takes anything; ours
//! resets the stream, before any of our code sees it. Nobody here looks at the authority, so characters that no host name has are
//! replaced by `-`, one for one: the client's compression table and ours stay alike.
//!
//! What always holds: no byte is changed but those of a plainly written `:authority`, and none is added or removed.

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const NAME: &[u8] = b":authority";
/// Index of `:authority` in the static table.
const INDEX: u8 = 1;

/// Where one connection's stream of bytes is.
#[derive(Debug)]
pub struct Authority {
    place: Place,
    block: Block,
}

#[derive(Debug)]
enum Place {
    /// So many bytes of the preface have been seen.
    Preface(usize),
    /// A frame's head: what there is of it.
    Head { bytes: [u8; 9], filled: usize },
    /// The pad length of a HEADERS frame comes next.
    Pad { left: usize, priority: bool },
    /// Bytes before the header block, the block, and bytes after it.
    Headers { before: usize, block: usize, after: usize },
    /// What is left of a frame that is none of our business.
    Other(usize),
    /// This is no HTTP/2.
    Foreign,
}

/// Where a header block is, in the representation of RFC 7541.
#[derive(Clone, Copy, Debug)]
enum Block {
    Start,
    /// The rest of an integer that is of no interest; then this.
    Integer(After),
    NameLength,
    Name {
        left: usize,
        matched: usize,
        plain: bool,
    },
    ValueLength {
        authority: bool,
    },
    /// The rest of a length whose first bytes gave `value`.
    Length {
        value: usize,
        shift: u32,
        plain: bool,
        of: Text,
    },
    Value {
        left: usize,
        scrub: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum After {
    Start,
    Value,
}

#[derive(Clone, Copy, Debug)]
enum Text {
    Name,
    Value { authority: bool },
}

impl Default for Authority {
    fn default() -> Self {
        Self { place: Place::Preface(0), block: Block::Start }
    }
}

impl Authority {
    /// Goes over the next bytes of the connection.
    pub fn scrub(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let used = match &mut self.place {
                Place::Foreign => return,
                Place::Other(left) => {
                    let used = bytes.len().min(*left);
                    *left -= used;
                    if *left == 0 {
                        self.next_frame();
                    }
                    used
                }
                Place::Headers { before, block, after } => {
                    let in_block = *before == 0 && *block > 0;
                    let left = if *before > 0 {
                        before
                    } else if in_block {
                        block
                    } else {
                        after
                    };
                    let used = bytes.len().min(*left);
                    *left -= used;
                    if in_block {
                        bytes[..used].iter_mut().for_each(|byte| self.block.step(byte));
                    }
                    if matches!(self.place, Place::Headers { before: 0, block: 0, after: 0 }) {
                        self.next_frame();
                    }
                    used
                }
                _ => {
                    self.step(bytes[0]);
                    1
                }
            };
            bytes = &mut bytes[used..];
        }
    }

    fn next_frame(&mut self) {
        self.place = Place::Head { bytes: [0; 9], filled: 0 };
    }

    /// One byte of what is neither a payload nor a header block.
    fn step(&mut self, byte: u8) {
        match &mut self.place {
            Place::Preface(seen) => {
                if byte != PREFACE[*seen] {
                    self.place = Place::Foreign;
                    return;
                }
                *seen += 1;
                if *seen == PREFACE.len() {
                    self.next_frame();
                }
            }
            Place::Head { bytes, filled } => {
                bytes[*filled] = byte;
                *filled += 1;
                if *filled == bytes.len() {
                    let head = *bytes;
                    self.frame(head);
                }
            }
            Place::Pad { left, priority } => {
                let before = if *priority { 5 } else { 0 };
                let after = usize::from(byte);
                let left = *left;
                self.place = match left.checked_sub(before + after) {
                    Some(block) => Place::Headers { before, block, after },
                    // Padding that is longer than its frame: the server will refuse it.
                    None => Place::Other(left),
                };
                if left == 0 {
                    self.next_frame();
                }
            }
            Place::Headers { .. } | Place::Other(_) | Place::Foreign => {}
        }
    }

    fn frame(&mut self, head: [u8; 9]) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        if kind == HEADERS {
            self.block = Block::Start;
        }
        self.place = match kind {
            HEADERS if flags & PADDED != 0 && length > 0 => {
                Place::Pad { left: length - 1, priority: flags & PRIORITY != 0 }
            }
            HEADERS => {
                let before = if flags & PRIORITY != 0 { length.min(5) } else { 0 };
                Place::Headers { before, block: length - before, after: 0 }
            }
            CONTINUATION => Place::Headers { before: 0, block: length, after: 0 },
            _ => Place::Other(length),
        };
        if length == 0 {
            self.next_frame();
        }
    }
}

impl Block {
    fn step(&mut self, byte: &mut u8) {
        *self = match *self {
            Self::Start => Self::begin(*byte),
            Self::Integer(after) if *byte & 0x80 != 0 => Self::Integer(after),
            Self::Integer(After::Start) => Self::Start,
            Self::Integer(After::Value) => Self::ValueLength { authority: false },
            Self::NameLength => Self::length(*byte, Text::Name),
            Self::ValueLength { authority } => Self::length(*byte, Text::Value { authority }),
            Self::Length { value, shift, plain, of } => {
                let value =
                    value.saturating_add(usize::from(*byte & 0x7f).checked_shl(shift).unwrap_or(usize::MAX));
                if *byte & 0x80 == 0 {
                    Self::text(value, plain, of)
                } else {
                    Self::Length { value, shift: shift.saturating_add(7), plain, of }
                }
            }
            Self::Name { left, matched, plain } => {
                let matched = if NAME.get(matched) == Some(&*byte) { matched + 1 } else { NAME.len() + 1 };
                if left > 1 {
                    Self::Name { left: left - 1, matched, plain }
                } else {
                    Self::ValueLength { authority: plain && matched == NAME.len() }
                }
            }
            Self::Value { left, scrub } => {
                if scrub && !(byte.is_ascii_alphanumeric() || *byte == b'.') {
                    *byte = b'-';
                }
                if left > 1 { Self::Value { left: left - 1, scrub } } else { Self::Start }
            }
        };
    }

    /// The first byte of a header field.
    fn begin(byte: u8) -> Self {
        let (mask, after) = match byte {
            0x80.. => (0x7f, After::Start),
            0x40.. => (0x3f, After::Value),
            0x20.. => (0x1f, After::Start),
            _ => (0x0f, After::Value),
        };
        match (byte & mask, after) {
            (index, after) if index == mask => Self::Integer(after),
            (_, After::Start) => Self::Start,
            (0, After::Value) => Self::NameLength,
            (index, After::Value) => Self::ValueLength { authority: index == INDEX },
        }
    }

    fn length(byte: u8, of: Text) -> Self {
        let (value, plain) = (usize::from(byte & 0x7f), byte & 0x80 == 0);
        if value == 0x7f { Self::Length { value, shift: 0, plain, of } } else { Self::text(value, plain, of) }
    }

    fn text(length: usize, plain: bool, of: Text) -> Self {
        match of {
            Text::Name if length == 0 => Self::ValueLength { authority: false },
            Text::Name => Self::Name { left: length, matched: 0, plain },
            Text::Value { .. } if length == 0 => Self::Start,
            Text::Value { authority } => Self::Value { left: length, scrub: authority && plain },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn literal(first: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
        let length = |text: &[u8]| match text.len() {
            short @ ..0x7f => vec![u8::try_from(short).unwrap()],
            long => {
                let rest = long - 0x7f;
                vec![0x7f, u8::try_from(rest & 0x7f).unwrap() | 0x80, u8::try_from(rest >> 7).unwrap()]
            }
        };
        let name = if name.is_empty() { Vec::new() } else { [length(name), name.to_vec()].concat() };
        [vec![first], name, length(value), value.to_vec()].concat()
    }

    /// A connection with this authority, in every way in which it can be framed.
    fn connections(authority: &[u8]) -> Vec<Vec<u8>> {
        let path = literal(0x44, b"", b"/a%2Fb/c");
        let other = literal(0x40, b":authoritative", b"x%y");
        let indexed = literal(0x41, b"", authority);
        let named = literal(0x00, b":authority", authority);
        let size = vec![0x3f, 0xe1, 0x1f];
        let block = [size, vec![0x83, 0x86], path, indexed, other, named, vec![0xff, 0x80, 0x01]].concat();
        let settings = frame(4, 0, &[0; 6]);
        let data = frame(0, 1, b"\x41\x03%%%");
        let framed = [
            frame(1, 4, &block),
            frame(1, 4 | 0x20, &[b"\0\0\0\0\x10".as_slice(), &block].concat()),
            frame(1, 4 | 8, &[b"\x03".as_slice(), &block, b"%%%"].concat()),
            frame(1, 4 | 8 | 0x20, &[b"\x02\0\0\0\0\x10".as_slice(), &block, b"%%"].concat()),
            [frame(1, 0, &block[..9]), frame(9, 0, &block[9..30]), frame(9, 4, &block[30..])].concat(),
        ];
        let whole = |headers: Vec<u8>| {
            let twice = [headers.clone(), data.clone(), frame(6, 0, &[1; 8]), headers].concat();
            [PREFACE, &settings, &twice].concat()
        };
        framed.into_iter().map(whole).collect()
    }

    fn check(authority: &[u8], wanted: &[u8]) {
        for (sent, wanted) in connections(authority).into_iter().zip(connections(wanted)) {
            for step in [1, 2, 7, 31, sent.len()] {
                let mut bytes = sent.clone();
                let mut scrubber = Authority::default();
                bytes.chunks_mut(step).for_each(|chunk| scrubber.scrub(chunk));
                assert_eq!(bytes, wanted, "in steps of {step}");
            }
        }
    }

    #[test]
    fn a_path_as_authority_is_made_a_name_and_nothing_else_changes() {
        check(b"run%2Flongshore%2Fl_1.sock", b"run-2Flongshore-2Fl-1.sock");
        check(b"localhost", b"localhost");
        let long = "/very/long".repeat(30);
        check(long.as_bytes(), long.replace('/', "-").as_bytes());
    }

    #[test]
    fn what_is_no_http2_is_left_alone() {
        for sent in
            [&b"GET / HTTP/1.1\r\nHost: a%b\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n%%%%%%%%%%%%"]
        {
            let mut bytes = sent.to_vec();
            Authority::default().scrub(&mut bytes);
            assert_eq!(bytes, sent);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_depend_on_how_they_arrive(bytes: Vec<u8>, steps in 1usize..40) {
            let sent = [PREFACE, &bytes].concat();
            let (mut whole, mut parts) = (sent.clone(), sent);
            Authority::default().scrub(&mut whole);
            let mut scrubber = Authority::default();
            parts.chunks_mut(steps).for_each(|chunk| scrubber.scrub(chunk));
            proptest::prop_assert_eq!(whole, parts);
        }
    }
}
