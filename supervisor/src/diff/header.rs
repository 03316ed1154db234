//! One tar header, with an extended (PAX) one before it for what its fields cannot hold.
//!
//! What always holds: the bytes depend on the entry alone; no user or group name of the host is written.

use super::stream::BLOCK;

/// What fits in an extended header, in bytes: readers refuse longer ones.
pub const MAX_RECORDS: usize = 1 << 20;
const NAME: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

impl Kind {
    fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::HardLink => b'1',
            Self::Symlink => b'2',
            Self::Character => b'3',
            Self::Block => b'4',
            Self::Directory => b'5',
            Self::Fifo => b'6',
        }
    }
}

/// An entry's header.
#[derive(Clone, Debug)]
pub struct Header {
    /// A directory's ends with a slash.
    pub name: Vec<u8>,
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u64,
    /// Of the data that follow.
    pub size: u64,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Records of the extended header, in order.
    pub records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Header {
    /// The blocks that go before the entry's data; `Err` with the size of an extended header that readers would refuse.
    pub fn encode(&self) -> Result<Vec<u8>, usize> {
        let mut records = Vec::new();
        let mut field = |key: &str, value: &[u8]| record(&mut records, key.as_bytes(), value);
        let plain = |text: &[u8]| text.len() <= NAME && text.is_ascii();
        if !plain(&self.name) {
            field("path", &self.name);
        }
        if !plain(&self.link) {
            field("linkpath", &self.link);
        }
        for (key, value, digits) in [
            ("uid", u64::from(self.uid), 7),
            ("gid", u64::from(self.gid), 7),
            ("size", self.size, 11),
            ("mtime", self.mtime, 11),
        ] {
            if !fits(value, digits) {
                field(key, value.to_string().as_bytes());
            }
        }
        for (key, value) in &self.records {
            record(&mut records, key, value);
        }
        let mut out = Vec::with_capacity(2 * BLOCK + records.len());
        if records.len() > MAX_RECORDS {
            return Err(records.len());
        }
        if !records.is_empty() {
            let extended = Header {
                name: b"././@PaxHeader".to_vec(),
                kind: Kind::File,
                mode: 0o644,
                uid: 0,
                gid: 0,
                mtime: 0,
                size: records.len() as u64,
                link: Vec::new(),
                device: (0, 0),
                records: Vec::new(),
            };
            extended.block(b'x', &mut out);
            out.extend_from_slice(&records);
            out.resize(out.len().next_multiple_of(BLOCK), 0);
        }
        self.block(self.kind.flag(), &mut out);
        Ok(out)
    }

    fn block(&self, flag: u8, out: &mut Vec<u8>) {
        let mut block = [0u8; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &shown(&self.name));
        put(100, octal(self.mode.into(), 7).as_bytes());
        put(108, octal(self.uid.into(), 7).as_bytes());
        put(116, octal(self.gid.into(), 7).as_bytes());
        put(124, octal(self.size, 11).as_bytes());
        put(136, octal(self.mtime, 11).as_bytes());
        put(148, b"        ");
        put(156, &[flag]);
        put(157, &shown(&self.link));
        put(257, b"ustar\x0000");
        put(329, octal(self.device.0.into(), 7).as_bytes());
        put(337, octal(self.device.1.into(), 7).as_bytes());
        let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
        block[148..154].copy_from_slice(octal(sum, 6).as_bytes());
        block[154] = 0;
        out.extend_from_slice(&block);
    }
}

fn fits(value: u64, digits: u32) -> bool {
    value < 1 << (3 * digits)
}

/// Digits with leading zeros; all zeros for what does not fit, which is in the extended header then.
fn octal(value: u64, digits: usize) -> String {
    let value = if fits(value, digits as u32) { value } else { 0 };
    format!("{value:0digits$o}")
}

/// What of a name readers without extended headers see.
fn shown(name: &[u8]) -> Vec<u8> {
    name.iter().take(NAME).map(|&byte| if byte.is_ascii() { byte } else { b'_' }).collect()
}

/// `length key=value\n`, where the length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}
