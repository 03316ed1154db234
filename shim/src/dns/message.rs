//! DNS messages (RFC 1035), as far as a resolver of few names needs them: a question is read, an answer written.
//!
//! What always holds: any bytes may come; nothing here panics, and nothing grows beyond what came in.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes of the fixed header.
pub const HEADER: usize = 12;
/// The longest answer over UDP to whoever does not say that longer ones are fine.
const PLAIN_UDP: usize = 512;
/// The longest message over TCP.
pub const LONGEST: usize = 65_535;
/// Seconds for which an answer may be kept: as docker's.
const TTL: u32 = 600;

const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    A,
    Aaaa,
    Ptr,
    Other,
}

/// How an answer ends that has no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Ok = 0,
    Malformed = 1,
    Failed = 2,
    NotBuilt = 4,
}

/// A record of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    /// A name, labels between dots.
    Ptr(String),
}

/// A message with one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub id: u16,
    flags: u16,
    /// In lower case, without the dot at the end.
    pub name: String,
    pub kind: Kind,
    is_internet: bool,
    /// Where the question ends in the message.
    end: usize,
    /// The longest answer that is taken over UDP.
    room: usize,
}

impl Question {
    /// Reads a message. `Err`: there is nothing to say to it, or only this code.
    pub fn parse(message: &[u8]) -> Result<Question, Option<Code>> {
        let word = |at: usize| -> Option<u16> {
            Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
        };
        let (Some(id), Some(flags), Some(questions), Some(extra)) = (word(0), word(2), word(4), word(10))
        else {
            return Err(None);
        };
        // What is a response is answered by nobody, or two servers may talk for ever.
        if message.len() < HEADER || flags & RESPONSE != 0 {
            return Err(None);
        }
        if flags & OPCODE != 0 {
            return Err(Some(Code::NotBuilt));
        }
        if questions != 1 {
            return Err(Some(Code::Malformed));
        }
        let (name, after) = read_name(message, HEADER).ok_or(Some(Code::Malformed))?;
        let (Some(kind), Some(class)) = (word(after), word(after + 2)) else {
            return Err(Some(Code::Malformed));
        };
        let kind = match kind {
            1 => Kind::A,
            28 => Kind::Aaaa,
            12 => Kind::Ptr,
            _ => Kind::Other,
        };
        let end = after + 4;
        let room = if extra == 1 { edns_room(message, end) } else { None };
        let room = room.unwrap_or(PLAIN_UDP).max(PLAIN_UDP);
        Ok(Question { id, flags, name, kind, is_internet: class == 1, end, room })
    }

    /// Whether it is about the internet, as all names here are.
    pub fn is_ours(&self) -> bool {
        self.is_internet
    }

    /// The address that a PTR question is about.
    pub fn reverse(&self) -> Option<std::net::IpAddr> {
        reverse(&self.name)
    }

    /// An answer to the question in `message`, with the records that fit.
    pub fn answer(&self, message: &[u8], code: Code, records: &[Record], room: Room) -> Vec<u8> {
        let limit = match room {
            Room::Udp => self.room,
            Room::Tcp => LONGEST,
        };
        let mut out = Vec::with_capacity(PLAIN_UDP);
        out.extend(self.id.to_be_bytes());
        let flags = RESPONSE | RECURSION_AVAILABLE | (self.flags & RECURSION_DESIRED) | code as u16;
        out.extend(flags.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        out.extend(message.get(HEADER..self.end).unwrap_or_default());
        let mut count: u16 = 0;
        for record in records {
            let before = out.len();
            if !write(&mut out, record) || out.len() > limit {
                out.truncate(before);
                out[2..4].copy_from_slice(&(flags | TRUNCATED).to_be_bytes());
                break;
            }
            count += 1;
        }
        out[6..8].copy_from_slice(&count.to_be_bytes());
        out
    }
}

/// How an answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Udp,
    Tcp,
}

/// An answer that only says what is wrong, to a message of which no more than the header could be read.
pub fn refusal(message: &[u8], code: Code) -> Vec<u8> {
    let mut out = message.get(..2).unwrap_or(&[0, 0]).to_vec();
    out.extend((RESPONSE | code as u16).to_be_bytes());
    out.extend([0; 8]);
    out
}

/// Whether bytes are an answer to the question that was sent as these.
pub fn answers(answer: &[u8], id: u16, question: &[u8], end: usize) -> bool {
    let is_answer = answer.len() >= HEADER && answer[2] & 0x80 != 0 && answer[..2] == id.to_be_bytes();
    let asked = question.get(HEADER..end).unwrap_or_default();
    // An error may come without the question.
    let said = u16::from_be_bytes([answer.get(4).copied().unwrap_or(0), answer.get(5).copied().unwrap_or(0)]);
    let same = answer.get(HEADER..end).is_some_and(|said| said.eq_ignore_ascii_case(asked));
    is_answer && (same || said == 0)
}

/// Whether an answer says that this server cannot help, so that the next may be asked.
pub fn is_failure(answer: &[u8]) -> bool {
    // SERVFAIL and REFUSED.
    matches!(answer.get(3).map(|byte| byte & 15), Some(2 | 5))
}

impl Question {
    pub fn end(&self) -> usize {
        self.end
    }
}

/// A name at a place of a message, and where what follows it begins. A question's name comes first, so there is nothing that
/// it could point to.
fn read_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        if length > 63 {
            return None;
        }
        let label = message.get(at..at + length)?;
        at += length;
        if !name.is_empty() {
            name.push('.');
        }
        for byte in label {
            // What is no letter of a host's name matches none here, and is passed on as it came.
            match byte {
                b'.' | 0x80.. => name.push('\u{fffd}'),
                byte => name.push(char::from(byte.to_ascii_lowercase())),
            }
        }
        if at > HEADER + 255 {
            return None;
        }
    }
}

/// What the EDNS record (RFC 6891) says after the question, if that is all there is.
fn edns_room(message: &[u8], at: usize) -> Option<usize> {
    match message.get(at..at + 5)? {
        [0, 0, 41, high, low] => Some(usize::from(u16::from_be_bytes([*high, *low])).min(4096)),
        _ => None,
    }
}

fn write(out: &mut Vec<u8>, record: &Record) -> bool {
    let (kind, data) = match record {
        Record::A(address) => (1u16, address.octets().to_vec()),
        Record::Aaaa(address) => (28, address.octets().to_vec()),
        Record::Ptr(name) => match write_name(name) {
            Some(name) => (12, name),
            None => return false,
        },
    };
    // The name is the question's.
    out.extend([0xc0, HEADER as u8]);
    out.extend(kind.to_be_bytes());
    out.extend(1u16.to_be_bytes());
    out.extend(TTL.to_be_bytes());
    out.extend((data.len() as u16).to_be_bytes());
    out.extend(data);
    true
}

/// `None`: the name cannot be one in DNS.
fn write_name(name: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        out.push(length);
        out.extend(label.as_bytes());
    }
    out.push(0);
    (out.len() <= 255).then_some(out)
}

fn reverse(name: &str) -> Option<std::net::IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut parts = digits.split('.');
        for octet in octets.iter_mut().rev() {
            *octet = parts.next()?.parse().ok()?;
        }
        return parts.next().is_none().then(|| Ipv4Addr::from(octets).into());
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut value: u128 = 0;
    let mut count = 0;
    for digit in digits.split('.').collect::<Vec<_>>().into_iter().rev() {
        if digit.len() != 1 || count == 32 {
            return None;
        }
        value = value << 4 | u128::from(char::to_digit(digit.chars().next()?, 16)?);
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from(value).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(write_name(name).unwrap());
        message.extend(kind.to_be_bytes());
        message.extend(1u16.to_be_bytes());
        message
    }

    #[test]
    fn a_question_is_read_and_answered() {
        let message = ask("Web.Example", 1);
        let question = Question::parse(&message).unwrap();
        assert_eq!((question.name.as_str(), question.kind, question.id), ("web.example", Kind::A, 0x1234));
        let answer = question.answer(&message, Code::Ok, &[Record::A(Ipv4Addr::new(10, 0, 0, 2))], Room::Udp);
        assert_eq!(answer[..12], [0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(answer[answer.len() - 4..], [10, 0, 0, 2]);
        assert!(answers(&answer, 0x1234, &message, question.end()));
        assert!(!answers(&answer, 0x1235, &message, question.end()));
    }

    #[test]
    fn too_many_records_are_said_to_be_truncated() {
        let message = ask("web", 1);
        let question = Question::parse(&message).unwrap();
        let records = vec![Record::A(Ipv4Addr::LOCALHOST); 100];
        let answer = question.answer(&message, Code::Ok, &records, Room::Udp);
        assert!(answer.len() <= 512 && answer[2] & 2 != 0);
        let answer = question.answer(&message, Code::Ok, &records, Room::Tcp);
        assert_eq!((answer[7], answer[2] & 2), (100, 0));
    }

    #[test]
    fn reverse_names() {
        assert_eq!(reverse("2.0.18.172.in-addr.arpa"), Some(Ipv4Addr::new(172, 18, 0, 2).into()));
        assert_eq!(reverse("1.2.0.18.172.in-addr.arpa"), None);
        let nibbles: Vec<String> = format!("{:032x}", u128::from("fd00::2".parse::<Ipv6Addr>().unwrap()))
            .chars()
            .rev()
            .map(String::from)
            .collect();
        let name = format!("{}.ip6.arpa", nibbles.join("."));
        assert_eq!(reverse(&name), Some("fd00::2".parse::<Ipv6Addr>().unwrap().into()));
    }

    #[test]
    fn responses_and_pointers_get_no_records() {
        let mut response = ask("a", 1);
        response[2] |= 0x80;
        assert_eq!(Question::parse(&response), Err(None));
        let mut pointer = ask("a", 1);
        pointer[12] = 0xc0;
        assert_eq!(Question::parse(&pointer), Err(Some(Code::Malformed)));
    }

    proptest::proptest! {
        #[test]
        fn hostile_packets_never_panic(bytes: Vec<u8>, name in ".{0,80}") {
            if let Ok(question) = Question::parse(&bytes) {
                let answer = question.answer(&bytes, Code::Ok, &[Record::Ptr(name)], Room::Udp);
                assert!(answer.len() <= 4096);
            }
            let mut shaped = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
            shaped.extend(&bytes);
            if let Ok(question) = Question::parse(&shaped) {
                question.reverse();
                question.answer(&shaped, Code::Failed, &[], Room::Tcp);
                answers(&bytes, 1, &shaped, question.end());
            }
            refusal(&bytes, Code::Malformed);
            is_failure(&bytes);
        }
    }
}
