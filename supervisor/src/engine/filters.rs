//! `--filter key=value` as ps, images and prune take it: values of one key are alternatives, keys must all match,
//! and a key that is not known is an error that lists those that are.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::error::{Error, Result};

/// Most filters in one request.
pub const MAX_FILTERS: usize = 128;

/// Parsed filters.
#[derive(Debug, Default)]
pub struct Filters {
    by_key: BTreeMap<String, Vec<String>>,
}

impl Filters {
    /// `accepted` are the keys that this request knows.
    pub fn parse(filters: &[String], accepted: &[&str]) -> Result<Filters> {
        if filters.len() > MAX_FILTERS {
            return Err(Error::ResourceExhausted {
                what: "filters".to_owned(),
                limit: "filters of one request",
                max: MAX_FILTERS as u64,
            });
        }
        let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for filter in filters {
            let Some((key, value)) = filter.split_once('=') else {
                return Err(Error::invalid(
                    format!("bad format of filter (expected name=value): {filter:?}"),
                    "no '=' in it",
                ));
            };
            let (key, value) = match key.strip_suffix('!') {
                Some(bare) => (format!("{}!", bare.trim()), value),
                None => (key.trim().to_lowercase(), value),
            };
            if !accepted.contains(&key.as_str()) {
                return Err(Error::invalid(
                    format!("invalid filter '{key}'"),
                    format!("this command knows {}", accepted.join(", ")),
                ));
            }
            by_key.entry(key).or_default().push(value.trim().to_owned());
        }
        Ok(Filters { by_key })
    }

    pub fn has(&self, key: &str) -> bool {
        self.by_key.contains_key(key)
    }

    pub fn values(&self, key: &str) -> &[String] {
        self.by_key.get(key).map_or(&[], Vec::as_slice)
    }

    /// True if the key was not given, or one of its values passes.
    pub fn any(&self, key: &str, mut test: impl FnMut(&str) -> bool) -> bool {
        self.by_key.get(key).is_none_or(|values| values.iter().any(|value| test(value)))
    }

    /// `label=KEY[=VALUE]` and `label!=…`: all of the former, none of the latter.
    pub fn labels<'a>(&self, find: impl Fn(&str) -> Option<&'a String>) -> bool {
        let matches = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => find(key).is_some_and(|have| have == value),
            None => find(wanted).is_some(),
        };
        self.values("label").iter().all(matches) && !self.values("label!").iter().any(matches)
    }

    /// `until=`: created before that moment. A time, a Unix time or a duration back from now.
    pub fn until(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        match self.values("until") {
            [] => Ok(None),
            [one] => moment(one, now).map(Some),
            _ => Err(Error::invalid("filter 'until'", "more than one until filter specified")),
        }
    }

    /// A filter that is true or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let mut answer = None;
        for value in self.values(key) {
            answer = match value.to_ascii_lowercase().as_str() {
                "1" | "t" | "true" => Some(true),
                "0" | "f" | "false" => Some(false),
                _ => {
                    return Err(Error::invalid(
                        format!("invalid filter '{key}={value}'"),
                        "must be true or false",
                    ));
                }
            };
        }
        Ok(answer)
    }
}

/// A moment as people write it: RFC 3339, a date, seconds since 1970, or a duration such as `1h30m` before `now`.
pub fn moment(text: &str, now: Timestamp) -> Result<Timestamp> {
    let refuse = || {
        Error::invalid(format!("time {text:?}"), "give RFC 3339, seconds since 1970, or a duration like 10m")
    };
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(seconds) = text.parse::<f64>() {
        let duration = SignedDuration::try_from_secs_f64(seconds).map_err(|_| refuse())?;
        return Timestamp::UNIX_EPOCH.checked_add(duration).map_err(|_| refuse());
    }
    if let Ok(time) = text.parse::<jiff::civil::DateTime>() {
        return time
            .to_zoned(jiff::tz::TimeZone::system())
            .map(|zoned| zoned.timestamp())
            .map_err(|_| refuse());
    }
    if let Some(duration) = duration(text) {
        return now.checked_sub(duration).map_err(|_| refuse());
    }
    Err(refuse())
}

/// Go's duration form: `1h30m`, `90s`, `1.5h`, `300ms`.
pub fn duration(text: &str) -> Option<SignedDuration> {
    if text.is_empty() {
        return None;
    }
    let mut rest = text;
    let mut total = SignedDuration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|&at| at > 0)?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return None,
        };
        let seconds = number.parse::<f64>().ok()? * scale;
        total = total.checked_add(SignedDuration::try_from_secs_f64(seconds).ok()?)?;
        rest = tail;
    }
    Some(total)
}

/// How long ago, as `ps` says it: `About a minute`, `3 hours`, `2 weeks`.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 if minutes < 60 => format!("{minutes} minutes"),
        _ => match hours {
            0..=1 => "About an hour".to_owned(),
            2..48 => format!("{hours} hours"),
            48..336 => format!("{} days", hours / 24),
            336..1440 => format!("{} weeks", hours / 24 / 7),
            1440..17520 => format!("{} months", hours / 24 / 30),
            _ => format!("{} years", hours / 24 / 365),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(filters: &[&str]) -> Vec<String> {
        filters.iter().map(|&filter| filter.to_owned()).collect()
    }

    #[test]
    fn keys_and_alternatives_and_labels() {
        let filters =
            Filters::parse(&list(&["name=a", "name=b", "label=x", "label=y=1"]), &["name", "label"]).unwrap();
        assert!(filters.any("name", |value| value == "b"));
        assert!(!filters.any("name", |value| value == "c"));
        assert!(filters.any("status", |_| false));
        let labels: BTreeMap<String, String> =
            [("x".to_owned(), String::new()), ("y".to_owned(), "1".to_owned())].into();
        assert!(filters.labels(|key| labels.get(key)));
        let filters = Filters::parse(&list(&["label!=x"]), &["label", "label!"]).unwrap();
        assert!(!filters.labels(|key| labels.get(key)));
        assert!(
            Filters::parse(&list(&["nope=1"]), &["name"])
                .unwrap_err()
                .to_string()
                .contains("invalid filter 'nope'")
        );
        assert!(Filters::parse(&list(&["name"]), &["name"]).is_err());
    }

    #[test]
    fn moments() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        for (text, want) in [
            ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            ("1767225600", "2026-01-01T00:00:00Z"),
            ("24h", "2026-01-01T00:00:00Z"),
            ("1h30m", "2026-01-01T22:30:00Z"),
        ] {
            assert_eq!(moment(text, now).unwrap().to_string(), want, "{text}");
        }
        assert!(moment("soon", now).is_err());
        assert!(moment("", now).is_err());
        assert!(moment("5", now).is_ok());
        assert!(moment("1e400", now).is_err());
    }

    #[test]
    fn how_long_ago() {
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        for (seconds, want) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (46, "46 seconds"),
            (61, "About a minute"),
            (185, "3 minutes"),
            (3700, "About an hour"),
            (7200, "2 hours"),
            (86400 * 3, "3 days"),
            (86400 * 21, "3 weeks"),
            (86400 * 90, "3 months"),
            (86400 * 800, "2 years"),
        ] {
            assert_eq!(ago(now - SignedDuration::from_secs(seconds), now), want);
        }
    }
}
