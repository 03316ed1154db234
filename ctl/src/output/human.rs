//! Sizes, spans and times as docker (its go-units) writes them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
const BINARY: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

/// `12.3MB`: three digits, powers of 1000.
pub fn size(bytes: f64) -> String {
    scaled(bytes, 1000.0, &DECIMAL, 3)
}

/// `12.35MB`: four digits, powers of 1000, as progress bars and network counters show it.
pub fn size_precise(bytes: f64) -> String {
    scaled(bytes, 1000.0, &DECIMAL, 4)
}

/// `1.545GiB`: four digits, powers of 1024.
pub fn bytes(bytes: f64) -> String {
    scaled(bytes, 1024.0, &BINARY, 4)
}

fn scaled(mut amount: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut unit = 0;
    while amount >= base && unit + 1 < units.len() {
        amount /= base;
        unit += 1;
    }
    format!("{}{}", significant(amount, digits), units.get(unit).unwrap_or(&""))
}

/// C's `%.{digits}g` for numbers that need no exponent: no trailing zeros.
fn significant(number: f64, digits: usize) -> String {
    let whole = if number >= 1.0 { number.log10().floor() as usize + 1 } else { 1 };
    let text = format!("{number:.*}", digits.saturating_sub(whole));
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    }
}

/// `3 minutes`, `About an hour`.
pub fn duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

/// `3 minutes ago`.
pub fn ago(time: Option<&prost_types::Timestamp>) -> String {
    match time {
        Some(time) => format!("{} ago", duration(Timestamp::now().as_second() - time.seconds)),
        None => "N/A".into(),
    }
}

/// RFC 3339 in UTC with nine digits at most, as Go's RFC3339Nano; the zero time where there is none.
pub fn rfc3339(time: Option<&prost_types::Timestamp>) -> String {
    time.and_then(timestamp).map_or_else(|| "0001-01-01T00:00:00Z".into(), |time| time.to_string())
}

/// RFC 3339 with whole seconds, in the local time zone, as `history` shows it; empty where there is none.
pub fn rfc3339_seconds(time: Option<&prost_types::Timestamp>) -> String {
    let Some(time) = time.and_then(timestamp) else { return String::new() };
    let text = time.to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    match text.strip_suffix("+00:00") {
        Some(utc) => format!("{utc}Z"),
        None => text,
    }
}

/// RFC 3339 with all nine digits: what `logs -t` puts before a line.
pub fn rfc3339_nine(time: Option<&prost_types::Timestamp>) -> String {
    let time = time.and_then(timestamp).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{time:.9}")
}

/// RFC 3339 with nine digits and the offset of the local time zone: what `events` shows.
pub fn rfc3339_local(time: Option<&prost_types::Timestamp>) -> String {
    let time = time.and_then(timestamp).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(TimeZone::system());
    time.strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string()
}

/// `2026-08-01 12:00:00 +0000 UTC`, in the local time zone, as Go prints a time.
pub fn local(time: Option<&prost_types::Timestamp>) -> String {
    match time.and_then(timestamp) {
        Some(time) => time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string(),
        None => "0001-01-01 00:00:00 +0000 UTC".into(),
    }
}

fn timestamp(time: &prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(time.seconds, time.nanos).ok()
}

/// The first twelve digits of an id, without its algorithm.
pub fn short_id(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits)
}

/// At most `width` characters, the last one `…` when something was left out.
pub fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Text in quotes as Go writes it: on one line, with what cannot be seen escaped.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            '\0'..='\x1f' | '\x7f' => out.push_str(&format!("\\x{:02x}", u32::from(letter))),
            _ if letter.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            _ => out.push(letter),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_in_docker() {
        for (amount, text) in [
            (0.0, "0B"),
            (999.0, "999B"),
            (1000.0, "1kB"),
            (13_256.0, "13.3kB"),
            (4_260_000.0, "4.26MB"),
            (117_000_000.0, "117MB"),
            (1_500_000_000.0, "1.5GB"),
        ] {
            assert_eq!(size(amount), text);
        }
        assert_eq!(bytes(1.5 * 1024.0 * 1024.0), "1.5MiB");
        assert_eq!(bytes(25_162_240_000.0), "23.43GiB");
    }

    #[test]
    fn spans_read_as_in_docker() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86_400 * 2, "2 days"),
            (86_400 * 15, "2 weeks"),
            (86_400 * 70, "2 months"),
            (86_400 * 800, "2 years"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn text_is_cut_by_characters() {
        assert_eq!(ellipsis("\"sh -c 'exit 7; äöü'\"", 20), "\"sh -c 'exit 7; äöü…");
        assert_eq!(ellipsis("short", 20), "short");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
    }

    #[test]
    fn a_command_is_quoted_on_one_line() {
        assert_eq!(
            quoted("sh -c '\n\techo \"a\" \\ ü…\x01\u{85}"),
            r#""sh -c '\n\techo \"a\" \\ ü…\x01\u0085""#
        );
    }

    #[test]
    fn times_have_docker_forms() {
        let time = prost_types::Timestamp { seconds: 1_700_000_000, nanos: 120_000_000 };
        assert_eq!(rfc3339(Some(&time)), "2023-11-14T22:13:20.12Z");
        assert_eq!(rfc3339_nine(Some(&time)), "2023-11-14T22:13:20.120000000Z");
        assert_eq!(rfc3339(None), "0001-01-01T00:00:00Z");
    }
}
