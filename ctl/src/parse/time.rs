//! Points in time for `--since` and `--until`: a span before now (`10m`), RFC 3339 and its shorter forms in local
//! time, or seconds since 1970.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// What `--since` or `--until` says, if it was given.
pub fn instant(text: Option<&str>) -> Result<Option<prost_types::Timestamp>, String> {
    text.map(one).transpose()
}

fn one(text: &str) -> Result<prost_types::Timestamp, String> {
    let time = parse(text, Timestamp::now()).ok_or_else(|| {
        format!(
            "failed to parse value as time or duration: {text:?}: it is neither a time \
             (2013-01-02T13:23:37Z), nor a span (10m), nor Unix seconds"
        )
    })?;
    Ok(prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() })
}

fn parse(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Some(seconds) = unix(text) {
        return Some(seconds);
    }
    if let Some(span) = go_duration(text) {
        return now.checked_sub(span).ok();
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    let local = |time: DateTime| time.to_zoned(TimeZone::system()).ok().map(|zoned| zoned.timestamp());
    if let Some(date) = text.strip_suffix('Z') {
        return date.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    }
    match text.parse::<DateTime>() {
        Ok(time) => local(time),
        Err(_) => local(text.parse::<Date>().ok()?.at(0, 0, 0, 0)),
    }
}

/// `1700000000` or `1700000000.5`.
fn unix(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if seconds.is_empty() || !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    Timestamp::new(seconds.parse().ok()?, format!("{fraction:0<9}").parse().ok()?).ok()
}

/// Go's spans: `1h30m`, `1.5s`, `300ms`.
fn go_duration(text: &str) -> Option<SignedDuration> {
    let mut rest = text;
    let mut nanos = 0_f64;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let unit =
            rest[number..].find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len() - number);
        let amount: f64 = rest[..number].parse().ok()?;
        nanos += amount
            * match &rest[number..number + unit] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &rest[number + unit..];
    }
    // A century is more than any log.
    (!text.is_empty() && nanos < 3.2e18).then(|| SignedDuration::from_nanos(nanos as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let now = Timestamp::new(1_700_000_000, 0).unwrap();
        let seconds = |text: &str| parse(text, now).map(|time| time.as_second());
        assert_eq!(seconds("10m"), Some(1_700_000_000 - 600));
        assert_eq!(seconds("1h30m"), Some(1_700_000_000 - 5400));
        assert_eq!(seconds("1.5s"), Some(1_700_000_000 - 2));
        assert_eq!(seconds("1600000000"), Some(1_600_000_000));
        assert_eq!(parse("1600000000.25", now).unwrap().subsec_millisecond(), 250);
        assert_eq!(seconds("2013-01-02T13:23:37Z"), Some(1_357_133_017));
        assert_eq!(seconds("2013-01-02T13:23:37.5Z"), Some(1_357_133_017));
        assert_eq!(seconds("2013-01-02T13:23:37+01:00"), Some(1_357_133_017 - 3600));
        assert_eq!(seconds("2013-01-02T13:23Z"), Some(1_357_132_980));
        assert!(seconds("2013-01-02T13:23:37").is_some());
        assert!(seconds("2013-01-02").is_some());
        for wrong in ["", "x", "10", "10x", "-5m", "5", "2013-13-01", "99999999999999999999", "9e9h"] {
            if !wrong.bytes().all(|byte| byte.is_ascii_digit()) || wrong.len() > 15 || wrong.is_empty() {
                assert_eq!(seconds(wrong), None, "{wrong}");
            }
        }
    }
}
