//! The part of nftables' netlink interface (linux/netfilter/nf_tables.h) that changes elements of maps and makes a small
//! table: a batch of messages goes out as one datagram, and the kernel does all of it or nothing.
//!
//! What always holds: a batch is well-formed whatever it is made from; answers may be any bytes. Only [`socket`] does I/O.

pub mod conntrack;
pub mod socket;

/// `NETLINK_NETFILTER` answers of one batch fit in so many bytes.
const ANSWER: usize = 64 << 10;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NEWTABLE: u16 = SUBSYSTEM << 8;
const DELTABLE: u16 = SUBSYSTEM << 8 | 2;
const NEWCHAIN: u16 = SUBSYSTEM << 8 | 3;
const GETCHAIN: u16 = SUBSYSTEM << 8 | 4;
const NEWRULE: u16 = SUBSYSTEM << 8 | 6;
const GETRULE: u16 = SUBSYSTEM << 8 | 7;
const NEWSETELEM: u16 = SUBSYSTEM << 8 | 12;
const DELSETELEM: u16 = SUBSYSTEM << 8 | 14;

const NESTED: u16 = 0x8000;
/// The first 32-bit register.
const REGISTERS: u32 = 8;

/// Address families of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Inet = 1,
    Ipv4 = 2,
    Ipv6 = 10,
}

/// Places where a base chain hooks in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Input = 1,
    Output = 3,
}

/// A base chain as the kernel tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaseChain {
    pub family: u8,
    pub table: String,
    /// `NF_INET_*`.
    pub hook: u32,
    /// Whether what no rule decides is dropped.
    pub drops: bool,
}

/// Messages that the kernel takes as one transaction.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    messages: u32,
}

impl Default for Batch {
    fn default() -> Self {
        let mut batch = Self { bytes: Vec::with_capacity(1024), messages: 0 };
        batch.control(BATCH_BEGIN);
        batch
    }
}

impl Batch {
    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages == 1
    }

    /// A table; one that is there is fine.
    pub fn add_table(&mut self, family: Family, table: &str) {
        self.message(NEWTABLE, NLM_F_CREATE, family, |body| text(body, 1, table));
    }

    /// Removes a table with all that is in it; it must be there.
    pub fn delete_table(&mut self, family: Family, table: &str) {
        self.message(DELTABLE, 0, family, |body| text(body, 1, table));
    }

    /// A base chain of the type `nat`.
    pub fn add_nat_chain(&mut self, family: Family, table: &str, chain: &str, hook: Hook, priority: i32) {
        self.message(NEWCHAIN, NLM_F_CREATE, family, |body| {
            text(body, 1, table);
            text(body, 3, chain);
            nested(body, 4, |hooks| {
                attribute(hooks, 1, &(hook as u32).to_be_bytes());
                attribute(hooks, 2, &priority.to_be_bytes());
            });
            text(body, 7, "nat");
        });
    }

    /// A rule at the end of a chain of an IPv4 table: what goes to this port of this address goes to another port of it.
    pub fn redirect_port(&mut self, table: &str, chain: &str, protocol: u8, from: ([u8; 4], u16), to: u16) {
        let (address, port) = from;
        self.message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, Family::Ipv4, |body| {
            text(body, 1, table);
            text(body, 2, chain);
            nested(body, 4, |list| {
                expression(list, "meta", |meta| {
                    attribute(meta, 1, &REGISTERS.to_be_bytes());
                    // NFT_META_L4PROTO
                    attribute(meta, 2, &16u32.to_be_bytes());
                });
                equals(list, &[protocol]);
                // Destination address in the network header, destination port in the transport header.
                payload(list, 1, 16, 4);
                equals(list, &address);
                payload(list, 2, 2, 2);
                equals(list, &port.to_be_bytes());
                immediate(list, REGISTERS, &address);
                immediate(list, REGISTERS + 1, &to.to_be_bytes());
                expression(list, "nat", |nat| {
                    // NFT_NAT_DNAT to an address and a port
                    attribute(nat, 1, &1u32.to_be_bytes());
                    attribute(nat, 2, &(Family::Ipv4 as u32).to_be_bytes());
                    attribute(nat, 3, &REGISTERS.to_be_bytes());
                    attribute(nat, 5, &(REGISTERS + 1).to_be_bytes());
                });
            });
        });
    }

    /// An element of a map, each as its fields, every one of which the kernel pads to four bytes. Fails if it is there with
    /// other data.
    pub fn add_element(&mut self, family: Family, table: &str, map: &str, key: &[&[u8]], data: &[&[u8]]) {
        self.message(NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL, family, |body| {
            elements(body, table, map, key, Some(data));
        });
    }

    /// Removes an element of a map; it must be there.
    pub fn delete_element(&mut self, family: Family, table: &str, map: &str, key: &[&[u8]]) {
        self.message(DELSETELEM, 0, family, |body| elements(body, table, map, key, None));
    }

    /// What is sent.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.control(BATCH_END);
        self.bytes
    }

    fn control(&mut self, kind: u16) {
        let start = self.begin(kind, NLM_F_REQUEST, 0);
        // The subsystem, in the family's resource id.
        self.bytes[start + HEADER + 2..start + HEADER + 4].copy_from_slice(&SUBSYSTEM.to_be_bytes());
        self.end(start);
    }

    fn message(&mut self, kind: u16, flags: u16, family: Family, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.begin(kind, NLM_F_REQUEST | NLM_F_ACK | flags, family as u8);
        fill(&mut self.bytes);
        self.end(start);
    }

    fn begin(&mut self, kind: u16, flags: u16, family: u8) -> usize {
        let start = self.bytes.len();
        header(&mut self.bytes, kind, flags, self.messages, family);
        self.messages += 1;
        start
    }

    fn end(&mut self, start: usize) {
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// What is sent to have all chains told.
#[must_use]
pub fn list_chains() -> Vec<u8> {
    single(GETCHAIN, NLM_F_REQUEST | NLM_F_DUMP, 0, |_| {})
}

/// What is sent to have all rules of a table told.
#[must_use]
pub fn list_rules(family: Family, table: &str) -> Vec<u8> {
    single(GETRULE, NLM_F_REQUEST | NLM_F_DUMP, family as u8, |body| text(body, 1, table))
}

/// Reads one datagram of the answer to [`list_rules`]; true: there are no more.
pub fn count_rules(datagram: &[u8], count: &mut usize) -> bool {
    let mut rest = datagram;
    while let Some((kind, _, next)) = split(rest) {
        rest = next;
        match kind {
            NLMSG_DONE | NLMSG_ERROR => return true,
            kind => *count += usize::from(kind == NEWRULE),
        }
    }
    datagram.is_empty()
}

/// One message by itself.
fn single(kind: u16, flags: u16, family: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    header(&mut bytes, kind, flags, 0, family);
    fill(&mut bytes);
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes
}

/// What a datagram of answers to a batch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// So many messages were done.
    Done(u32),
    /// The kernel refused with this errno, and did nothing of the batch.
    Refused(i32),
}

/// Reads one datagram of answers to a batch.
#[must_use]
pub fn verdict(datagram: &[u8]) -> Verdict {
    let mut done = 0;
    let mut rest = datagram;
    while let Some((kind, body, next)) = split(rest) {
        rest = next;
        if kind != NLMSG_ERROR {
            continue;
        }
        match body.get(..4).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes) {
            Some(0) => done += 1,
            Some(code) => return Verdict::Refused(code.saturating_neg()),
            None => return Verdict::Refused(libc_eio()),
        }
    }
    Verdict::Done(done)
}

/// So many answers come to a finished batch if the kernel takes it.
#[must_use]
pub fn answers_to(batch: &[u8]) -> u32 {
    let mut count = 0;
    let mut rest = batch;
    while let Some((kind, _, next)) = split(rest) {
        rest = next;
        count += u32::from(kind != BATCH_BEGIN && kind != BATCH_END);
    }
    count
}

/// Reads one datagram of the answer to [`list_chains`]; true: there are no more.
pub fn take_chains(datagram: &[u8], found: &mut Vec<BaseChain>) -> bool {
    let mut rest = datagram;
    while let Some((kind, body, next)) = split(rest) {
        rest = next;
        match kind {
            NLMSG_DONE | NLMSG_ERROR => return true,
            NEWCHAIN => found.extend(base_chain(body)),
            _ => {}
        }
    }
    datagram.is_empty()
}

fn base_chain(body: &[u8]) -> Option<BaseChain> {
    let mut chain = BaseChain { family: *body.first()?, ..BaseChain::default() };
    let mut is_base = false;
    for (kind, value) in attributes(body.get(4..)?) {
        match kind {
            1 => {
                chain.table = String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned()
            }
            4 => {
                let number = attributes(value).find(|(kind, _)| *kind == 1).map(|(_, value)| value);
                chain.hook = u32::from_be_bytes(number?.try_into().ok()?);
                is_base = true;
            }
            // NF_DROP is 0.
            5 => chain.drops = value == [0; 4],
            _ => {}
        }
    }
    is_base.then_some(chain)
}

fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & !NESTED;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn libc_eio() -> i32 {
    5
}

/// The next message of a buffer: type, body, and what comes after it.
fn split(buffer: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let head = buffer.get(..HEADER)?;
    let length = u32::from_ne_bytes(head[..4].try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes([head[4], head[5]]);
    let body = buffer.get(HEADER..length)?;
    Some((kind, body, buffer.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn header(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, family: u8) {
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend([family, 0, 0, 0]);
}

fn elements(body: &mut Vec<u8>, table: &str, map: &str, key: &[&[u8]], data: Option<&[&[u8]]>) {
    text(body, 1, table);
    text(body, 2, map);
    nested(body, 3, |list| {
        nested(list, 1, |element| {
            nested(element, 1, |value| attribute(value, 1, &fields(key)));
            if let Some(data) = data {
                nested(element, 2, |value| attribute(value, 1, &fields(data)));
            }
        });
    });
}

fn fields(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend_from_slice(field);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    // A single field is not padded.
    if let [only] = fields {
        bytes.truncate(only.len());
    }
    bytes
}

fn expression(list: &mut Vec<u8>, name: &str, fill: impl FnOnce(&mut Vec<u8>)) {
    nested(list, 1, |element| {
        text(element, 1, name);
        nested(element, 2, fill);
    });
}

/// Compares the first register.
fn equals(list: &mut Vec<u8>, bytes: &[u8]) {
    expression(list, "cmp", |cmp| {
        attribute(cmp, 1, &REGISTERS.to_be_bytes());
        attribute(cmp, 2, &0u32.to_be_bytes());
        nested(cmp, 3, |value| attribute(value, 1, bytes));
    });
}

/// Loads part of a header into the first register.
fn payload(list: &mut Vec<u8>, base: u32, offset: u32, length: u32) {
    expression(list, "payload", |load| {
        for (kind, value) in [(1, REGISTERS), (2, base), (3, offset), (4, length)] {
            attribute(load, kind, &value.to_be_bytes());
        }
    });
}

fn immediate(list: &mut Vec<u8>, register: u32, bytes: &[u8]) {
    expression(list, "immediate", |load| {
        attribute(load, 1, &register.to_be_bytes());
        nested(load, 2, |value| attribute(value, 1, bytes));
    });
}

fn text(body: &mut Vec<u8>, kind: u16, value: &str) {
    attribute(body, kind, &[value.as_bytes(), b"\0"].concat());
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // Nothing here is that long; what would be is left out rather than cut.
    let Ok(length) = u16::try_from(value.len() + 4) else { return };
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn nested(body: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = body.len();
    body.extend([0; 4]);
    fill(body);
    let length = u16::try_from(body.len() - start).unwrap_or(u16::MAX);
    body[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    body[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_framed_and_counted() {
        let mut batch = Batch::default();
        assert!(batch.is_empty());
        batch.add_table(Family::Ipv4, "t");
        batch.redirect_port("t", "c", 17, ([127, 0, 0, 11], 53), 40_000);
        let bytes = batch.finish();
        assert_eq!(answers_to(&bytes), 2);
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn fields_are_padded_unless_alone() {
        assert_eq!(fields(&[&[6], &[0, 80]]), [6, 0, 0, 0, 0, 80, 0, 0]);
        assert_eq!(fields(&[&[1, 2]]), [1, 2]);
    }

    proptest::proptest! {
        #[test]
        fn no_answer_panics(bytes: Vec<u8>) {
            let _ = verdict(&bytes);
            let _ = answers_to(&bytes);
            take_chains(&bytes, &mut Vec::new());
            count_rules(&bytes, &mut 0);
        }
    }
}
