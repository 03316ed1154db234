//! Sizes: `512m`, `1g`, `1.5GiB`.

/// Bytes, in powers of 1024: memory.
pub fn memory(text: &str) -> Result<i64, String> {
    parse(text, 1024.0)
}

/// The same, or -1: memory and swap together, for which -1 says "no limit".
pub fn memory_and_swap(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { memory(text) }
}

/// Bytes, in powers of 1000: files.
pub fn file(text: &str) -> Result<i64, String> {
    parse(text, 1000.0)
}

fn parse(text: &str, base: f64) -> Result<i64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let last = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').ok_or_else(invalid)?;
    let (number, suffix) = match text.as_bytes()[last] {
        b' ' => (&text[..last], &text[last + 1..]),
        _ => text.split_at(last + 1),
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(invalid());
    }
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let factor =
        factor(&suffix.to_ascii_lowercase(), base).ok_or_else(|| format!("invalid suffix: '{suffix}'"))?;
    let bytes = number * factor;
    if bytes >= i64::MAX as f64 {
        return Err(format!("invalid size: '{text}' is more than {} bytes", i64::MAX));
    }
    Ok(bytes as i64)
}

fn factor(suffix: &str, base: f64) -> Option<f64> {
    if suffix.is_empty() || suffix == "b" {
        return Some(1.0);
    }
    let power = "kmgtp".find(suffix.chars().next()?)?;
    match &suffix[1..] {
        "" | "b" | "ib" => Some(base.powi(i32::try_from(power).ok()? + 1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("4k", 4096),
            ("512m", 512 << 20),
            ("1g", 1 << 30),
            ("1.5GiB", 3 << 29),
            ("2 kb", 2048),
        ] {
            assert_eq!(memory(text), Ok(bytes), "{text}");
        }
        assert_eq!(file("10m"), Ok(10_000_000));
        for (text, words) in [
            ("", "invalid size: ''"),
            ("abc", "invalid size: 'abc'"),
            ("-1", "invalid size: '-1'"),
            ("1..2", "invalid size: '1..2'"),
            ("5x", "invalid suffix: 'x'"),
            ("5kx", "invalid suffix: 'kx'"),
            ("5é", "invalid suffix: 'é'"),
        ] {
            assert_eq!(memory(text).unwrap_err(), words);
        }
        assert!(memory("99999999999999999999g").is_err());
    }
}
