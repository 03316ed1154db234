//! One tar header block: fields read strictly.
//!
//! What always holds: a number that is negative, malformed or too large is an error, never a default.

#![forbid(unsafe_code)]

use tar::Header;

use super::error::Rule;

pub const BLOCK: usize = 512;

/// Octal text, or base 256 where the first bit is set. An empty field is 0.
pub fn number(field: &[u8], what: &'static str) -> Result<u64, Rule> {
    let bad = Rule::BadNumber(what);
    let Some(&first) = field.first() else { return Err(bad) };
    if first & 0x80 != 0 {
        // 0x80: positive; 0xff and anything with the sign bit 0x40: negative.
        if first & 0x40 != 0 {
            return Err(bad);
        }
        let mut value = u64::from(first & 0x3f);
        for &byte in &field[1..] {
            value = value
                .checked_mul(256)
                .and_then(|v| v.checked_add(u64::from(byte)))
                .ok_or(Rule::BadNumber(what))?;
        }
        return Ok(value);
    }
    let text = field.split(|&b| b == 0).next().unwrap_or_default();
    let text = text.trim_ascii();
    let mut value = 0u64;
    for &byte in text {
        if !(b'0'..=b'7').contains(&byte) {
            return Err(bad);
        }
        value = value
            .checked_mul(8)
            .and_then(|v| v.checked_add(u64::from(byte - b'0')))
            .ok_or(Rule::BadNumber(what))?;
    }
    Ok(value)
}

/// Decimal text of an extended header.
pub fn decimal(text: &[u8], what: &'static str) -> Result<u64, Rule> {
    if text.is_empty() || text.len() > 20 || !text.iter().all(u8::is_ascii_digit) {
        return Err(Rule::BadNumber(what));
    }
    std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).ok_or(Rule::BadNumber(what))
}

/// Seconds and nanoseconds of an extended header's time, `seconds[.fraction]`.
pub fn time(text: &[u8]) -> Result<(u64, u32), Rule> {
    let (seconds, fraction) = match text.iter().position(|&b| b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &[][..]),
    };
    let seconds = decimal(seconds, "time")?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(Rule::BadNumber("time"));
    }
    let mut nanos = 0u32;
    for index in 0..9 {
        nanos = nanos * 10 + u32::from(fraction.get(index).copied().unwrap_or(b'0') - b'0');
    }
    Ok((checked_time(seconds)?, nanos))
}

/// Bounded to what file systems keep: beyond the year 2486 ext4 has no times.
pub fn checked_time(seconds: u64) -> Result<u64, Rule> {
    const LATEST: u64 = i32::MAX as u64 + 3 * (1 << 32);
    if seconds > LATEST { Err(Rule::BadNumber("time")) } else { Ok(seconds) }
}

/// A user or group id: u32::MAX means "unchanged" to the kernel, so it is none.
pub fn id(value: u64, what: &'static str) -> Result<u32, Rule> {
    match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(Rule::BadNumber(what)),
    }
}

/// The sum over the block must be as recorded: as unsigned bytes, or signed as historic writers had it.
pub fn check_sum(header: &Header) -> Result<(), Rule> {
    let recorded = number(&header.as_old().cksum, "checksum").map_err(|_| Rule::BadChecksum)?;
    let (mut unsigned, mut signed) = (0u64, 0i64);
    for (index, &byte) in header.as_bytes().iter().enumerate() {
        let byte = if (148..156).contains(&index) { b' ' } else { byte };
        unsigned += u64::from(byte);
        signed += i64::from(byte as i8);
    }
    if recorded == unsigned || i64::try_from(recorded) == Ok(signed) {
        Ok(())
    } else {
        Err(Rule::BadChecksum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0", "mode"), Ok(0o644));
        assert_eq!(number(b"   644 \0", "mode"), Ok(0o644));
        assert_eq!(number(b"\0\0\0\0", "mode"), Ok(0));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0], "size"), Ok(2 << 24));
        assert!(number(b"-1", "size").is_err());
        assert!(number(b"12x", "size").is_err());
        assert!(number(&[0xff; 12], "size").is_err());
        assert!(number(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "size").is_err());
        assert_eq!(time(b"12.5"), Ok((12, 500_000_000)));
        assert!(time(b"-1").is_err());
        assert!(time(b"99999999999999").is_err());
        assert!(id(u64::from(u32::MAX), "uid").is_err());
    }
}
