//! Header blocks of SPDY: names and values, deflated with one dictionary and one history for each direction of a connection.
//!
//! What always holds: a block inflates to at most [`MAX_BLOCK`] bytes and [`MAX_HEADERS`] headers, whatever it was deflated from; what
//! cannot be inflated ends the connection, since the history is lost with it.

#![forbid(unsafe_code)]

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;
use super::frame::Broken;

/// Longest inflated block in bytes.
pub const MAX_BLOCK: usize = 64 * 1024;
/// Most headers of a stream.
pub const MAX_HEADERS: usize = 64;

/// What a stream was opened with. Names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value under a name in lower case, empty without one.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value.as_str())
    }

    #[cfg(test)]
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| (name.to_lowercase(), (*value).to_owned())).collect())
    }

    fn parse(mut block: &[u8]) -> Result<Self, Broken> {
        let count = number(&mut block)?;
        if count > MAX_HEADERS {
            return Err(Broken::TooManyHeaders { count });
        }
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            let name = text(&mut block)?.to_ascii_lowercase();
            headers.push((name, text(&mut block)?.to_owned()));
        }
        if !block.is_empty() {
            return Err(Broken::HeaderBlock);
        }
        Ok(Self(headers))
    }

    fn write(&self) -> Vec<u8> {
        let mut block = Vec::new();
        let mut word = |bytes: &[u8]| block.extend_from_slice(bytes);
        word(&length(self.0.len()));
        for (name, value) in &self.0 {
            for part in [name, value] {
                word(&length(part.len()));
                word(part.as_bytes());
            }
        }
        block
    }
}

fn length(of: usize) -> [u8; 4] {
    u32::try_from(of).unwrap_or(u32::MAX).to_be_bytes()
}

fn number(block: &mut &[u8]) -> Result<usize, Broken> {
    let (head, rest) = block.split_first_chunk::<4>().ok_or(Broken::HeaderBlock)?;
    *block = rest;
    usize::try_from(u32::from_be_bytes(*head)).map_err(|_| Broken::HeaderBlock)
}

fn text<'a>(block: &mut &'a [u8]) -> Result<&'a str, Broken> {
    let length = number(block)?;
    let (head, rest) = block.split_at_checked(length).ok_or(Broken::HeaderBlock)?;
    *block = rest;
    std::str::from_utf8(head).map_err(|_| Broken::HeaderBlock)
}

/// The receiving end of one direction.
#[derive(Debug)]
pub struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Inflater {
    /// The headers of one frame.
    pub fn headers(&mut self, deflated: &[u8]) -> Result<Headers, Broken> {
        Headers::parse(&self.inflate(deflated)?)
    }

    fn inflate(&mut self, deflated: &[u8]) -> Result<Vec<u8>, Broken> {
        let mut block = Vec::new();
        let mut piece = [0; 4096];
        let begin = self.0.total_in();
        loop {
            let taken = usize::try_from(self.0.total_in() - begin).map_err(|_| Broken::Inflate)?;
            let rest = deflated.get(taken..).ok_or(Broken::Inflate)?;
            let before = self.0.total_out();
            match self.0.decompress(rest, &mut piece, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(Broken::Inflate),
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(DICTIONARY).map_err(|_| Broken::Inflate)?;
                    continue;
                }
                Err(_) => return Err(Broken::Inflate),
            }
            let made = usize::try_from(self.0.total_out() - before).map_err(|_| Broken::Inflate)?;
            block.extend_from_slice(piece.get(..made).ok_or(Broken::Inflate)?);
            if block.len() > MAX_BLOCK {
                return Err(Broken::TooLong { what: "header block", length: block.len(), most: MAX_BLOCK });
            }
            let taken = usize::try_from(self.0.total_in() - begin).map_err(|_| Broken::Inflate)?;
            if made < piece.len() {
                // Everything that the input makes is out; input that is left makes nothing.
                return if taken == deflated.len() { Ok(block) } else { Err(Broken::Inflate) };
            }
        }
    }
}

/// The sending end of one direction.
#[derive(Debug)]
pub struct Deflater(Compress);

impl Deflater {
    pub fn new() -> Result<Self, Broken> {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(DICTIONARY).map_err(|_| Broken::Deflate)?;
        Ok(Self(compress))
    }

    /// The block of one frame.
    pub fn headers(&mut self, headers: &Headers) -> Result<Vec<u8>, Broken> {
        let block = headers.write();
        // Sync flush ends in an empty stored block; incompressible bytes grow by a few in ten thousand.
        let mut deflated = Vec::with_capacity(block.len() + block.len() / 16 + 64);
        let begin = self.0.total_in();
        loop {
            let taken = usize::try_from(self.0.total_in() - begin).map_err(|_| Broken::Deflate)?;
            let rest = block.get(taken..).ok_or(Broken::Deflate)?;
            self.0.compress_vec(rest, &mut deflated, FlushCompress::Sync).map_err(|_| Broken::Deflate)?;
            if deflated.len() < deflated.capacity() {
                return Ok(deflated);
            }
            deflated.reserve(256);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_as_they_were_with_one_history() {
        let (mut deflater, mut inflater) = (Deflater::new().unwrap(), Inflater::default());
        for headers in [
            Headers::of(&[("streamType", "error")]),
            Headers::default(),
            Headers::of(&[("streamtype", "stdin"), ("x", "")]),
            Headers::of(&[("long", &"0123456789".repeat(3000))]),
        ] {
            let block = deflater.headers(&headers).unwrap();
            assert_eq!(inflater.headers(&block).unwrap(), headers);
        }
    }

    #[test]
    fn a_block_that_inflates_to_too_much_is_refused() {
        let mut deflater = Deflater::new().unwrap();
        let block = deflater.headers(&Headers::of(&[("x", &"a".repeat(10 * MAX_BLOCK))])).unwrap();
        assert!(block.len() < MAX_BLOCK / 8);
        assert!(matches!(Inflater::default().headers(&block), Err(Broken::TooLong { .. })));
    }

    #[test]
    fn too_many_headers_and_lengths_that_lie_are_refused() {
        let mut deflater = Deflater::new().unwrap();
        let many = Headers(vec![(String::new(), String::new()); MAX_HEADERS + 1]);
        let block = deflater.headers(&many).unwrap();
        assert!(matches!(Inflater::default().headers(&block), Err(Broken::TooManyHeaders { count: 65 })));
        assert!(matches!(Headers::parse(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]), Err(Broken::HeaderBlock)));
        assert!(matches!(Headers::parse(&[0, 0, 0, 0, 0]), Err(Broken::HeaderBlock)));
        assert!(matches!(Inflater::default().headers(b"no zlib"), Err(Broken::Inflate)));
    }
}
