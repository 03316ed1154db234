//! Where a container's output goes, as `--log-driver` and `--log-opt` say. The files of `json-file` and `local` are the same, a text
//! that is rotated; they differ in when, and in whether what was rotated away is compressed.

use std::fmt::Write as _;

use crate::engine::config::{LogConfig, Record};
use crate::error::{Error, Result};

/// Options of `json-file`.
const JSON_FILE: [&str; 10] = [
    "max-file",
    "max-size",
    "compress",
    "labels",
    "labels-regex",
    "env",
    "env-regex",
    "tag",
    "mode",
    "max-buffer-size",
];

/// Options of `local`.
const LOCAL: [&str; 5] = ["max-file", "max-size", "compress", "mode", "max-buffer-size"];

/// Bytes that `mode=non-blocking` keeps for a disk that takes none.
const BUFFER: u64 = 1 << 20;

/// Most bytes that may be asked for that.
const LARGEST_BUFFER: u64 = 64 << 20;

/// Most files of one log.
const MAX_FILES: u32 = 1000;

/// A driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    JsonFile,
    Local,
    None,
}

impl Driver {
    /// Empty: the first.
    pub fn parse(name: &str) -> Result<Driver> {
        match name {
            "" | "json-file" => Ok(Driver::JsonFile),
            "local" => Ok(Driver::Local),
            "none" => Ok(Driver::None),
            other => Err(Error::invalid(
                format!("logger: no log driver named '{other}' is registered"),
                "use json-file, local or none",
            )),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Driver::JsonFile => "json-file",
            Driver::Local => "local",
            Driver::None => "none",
        }
    }
}

/// What the shim does with the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files {
    /// Bytes; `None`: never rotated.
    pub max_size: Option<u64>,
    pub max_files: u32,
    /// Whether files that were rotated away are compressed.
    pub compressed: bool,
    /// Bytes that are kept of what a disk refuses before lines are dropped; `None`: the container waits for the disk.
    pub buffer: Option<u64>,
}

/// Completes what the user asked for with the daemon's defaults, so that later changes of those do not matter.
pub fn completed(asked: LogConfig, own: &crate::config::Engine) -> LogConfig {
    let driver = if asked.driver.is_empty() { own.log_driver.clone() } else { asked.driver.clone() };
    let (max_size, max_files) = match driver.as_str() {
        "local" => (20_000_000, 5),
        _ => (own.log_max_size, own.log_max_files),
    };
    let options = &asked.options;
    let size = options.get("max-size").and_then(|text| file_size(text));
    let files = options.get("max-file").and_then(|text| text.parse::<i32>().ok());
    LogConfig {
        max_size: match (asked.max_size, size) {
            (0, Some(size)) => size,
            (0, None) => i64::try_from(max_size).unwrap_or(i64::MAX),
            (given, _) => given,
        },
        max_files: match (asked.max_files, files) {
            (0, Some(files)) => files,
            (0, None) => i32::try_from(max_files).unwrap_or(i32::MAX),
            (given, _) => given,
        },
        driver,
        options: asked.options,
    }
}

/// Refuses what no driver here does.
pub fn check(log: &LogConfig) -> Result<()> {
    let driver = Driver::parse(&log.driver)?;
    let known: &[&str] = match driver {
        Driver::JsonFile => &JSON_FILE,
        Driver::Local => &LOCAL,
        // Docker does not look at options that nobody reads.
        Driver::None => return Ok(()),
    };
    if let Some(unknown) = log.options.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(Error::invalid(
            format!("unknown log opt '{unknown}' for {} log driver", driver.name()),
            format!("it has {}", known.join(", ")),
        ));
    }
    if log.max_size < -1 || log.max_files < 0 {
        return Err(Error::invalid("log options", "max-size must be -1 or more and max-file 0 or more"));
    }
    let option = |key: &str| log.options.get(key).map(String::as_str);
    if let Some(text) = option("max-size")
        && file_size(text).is_none_or(|size| size == 0)
    {
        return Err(Error::invalid(
            format!("invalid size: '{text}'"),
            "max-size is a number with k, m or g, or -1",
        ));
    }
    if let Some(text) = option("max-file")
        && text.parse::<u32>().map_or(true, |files| files == 0 || files > MAX_FILES)
    {
        return Err(Error::invalid(
            "max-file cannot be less than 1",
            format!("'{text}' is not a number from 1 to {MAX_FILES}"),
        ));
    }
    match option("mode") {
        None | Some("" | "blocking" | "non-blocking") => {}
        Some(other) => {
            return Err(Error::invalid(
                format!("logger: logging mode not supported: {other}"),
                "use blocking or non-blocking",
            ));
        }
    }
    if let Some(text) = option("max-buffer-size") {
        if option("mode") != Some("non-blocking") {
            return Err(Error::invalid(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
                "leave it out, or give that mode",
            ));
        }
        let fits = |size: i64| u64::try_from(size).is_ok_and(|size| (1..=LARGEST_BUFFER).contains(&size));
        if !memory_size(text).is_some_and(fits) {
            return Err(Error::invalid(format!("invalid size: '{text}'"), "max-buffer-size is at most 64m"));
        }
    }
    for key in ["labels-regex", "env-regex"] {
        if let Some(text) = option(key) {
            pattern(text).map_err(|error| Error::invalid(format!("log opt {key}"), error.to_string()))?;
        }
    }
    match option("compress") {
        None
        | Some("true" | "false" | "1" | "0" | "t" | "f" | "T" | "F" | "TRUE" | "FALSE" | "True" | "False") => {
        }
        Some(other) => {
            return Err(Error::invalid(format!("log opt compress: '{other}'"), "must be true or false"));
        }
    }
    let one = option("max-file") == Some("1") || log.max_files == 1;
    let unbounded = option("max-size") == Some("-1") || log.max_size == -1;
    if is_true(option("compress")) && (one || unbounded) {
        return Err(Error::invalid(
            "compress cannot be true when max-file is less than 2 or max-size is not set",
            "raise them or leave compress out",
        ));
    }
    Ok(())
}

/// Whether there is anything to read.
pub fn is_readable(log: &LogConfig) -> bool {
    Driver::parse(&log.driver).is_ok_and(|driver| driver != Driver::None)
}

/// `None`: nothing is kept.
pub fn files(log: &LogConfig) -> Option<Files> {
    let driver = Driver::parse(&log.driver).ok()?;
    let option = |key: &str| log.options.get(key).map(String::as_str);
    let max_size = u64::try_from(log.max_size).ok().filter(|&size| size > 0);
    let max_files = u32::try_from(log.max_files).unwrap_or(1).clamp(1, MAX_FILES);
    let wanted = match driver {
        Driver::None => return None,
        Driver::JsonFile => is_true(option("compress")),
        Driver::Local => option("compress").is_none() || is_true(option("compress")),
    };
    let buffer = || option("max-buffer-size").and_then(memory_size).and_then(|size| u64::try_from(size).ok());
    Some(Files {
        max_size,
        max_files,
        compressed: wanted && max_files > 1 && max_size.is_some(),
        buffer: (option("mode") == Some("non-blocking")).then(|| buffer().unwrap_or(BUFFER)),
    })
}

/// What `logs --details` writes before each line: labels, variables and the tag that the log options name.
pub fn details(record: &Record, id: &str) -> String {
    let log = &record.config.log;
    let option = |key: &str| log.options.get(key).map_or("", String::as_str);
    let listed = |list: &str, key: &str| list.split(',').any(|one| !one.is_empty() && one == key);
    let matches =
        |text: &str, key: &str| !text.is_empty() && pattern(text).is_ok_and(|pattern| pattern.is_match(key));
    let mut pairs = std::collections::BTreeMap::new();
    for (key, value) in &record.config.labels {
        if listed(option("labels"), key) || matches(option("labels-regex"), key) {
            pairs.insert(key.clone(), value.clone());
        }
    }
    for (key, value) in record.process_env.iter().filter_map(|variable| variable.split_once('=')) {
        if listed(option("env"), key) || matches(option("env-regex"), key) {
            pairs.insert(key.to_owned(), value.to_owned());
        }
    }
    if !option("tag").is_empty() {
        pairs.insert("tag".to_owned(), tag(option("tag"), record, id));
    }
    let pairs: Vec<String> =
        pairs.iter().map(|(key, value)| format!("{}={}", escaped(key), escaped(value))).collect();
    pairs.join(",")
}

/// The fields that tags are written with.
fn tag(template: &str, record: &Record, id: &str) -> String {
    let fields = [
        ("{{.ID}}", id.get(..12).unwrap_or(id)),
        ("{{.FullID}}", id),
        ("{{.Name}}", record.name.as_str()),
        ("{{.ImageName}}", record.config.image.as_str()),
        ("{{.ImageFullID}}", record.image_id.as_str()),
        ("{{.ImageID}}", record.image_id.get(7..19).unwrap_or(&record.image_id)),
        ("{{.DaemonName}}", "longshore"),
    ];
    fields.iter().fold(template.to_owned(), |text, (field, value)| text.replace(field, value))
}

/// As in the query of a URL.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte))
            }
            b' ' => escaped.push('+'),
            other => drop(write!(escaped, "%{other:02X}")),
        }
    }
    escaped
}

fn pattern(text: &str) -> Result<regex::Regex, regex::Error> {
    regex::RegexBuilder::new(text).size_limit(1 << 20).build()
}

fn is_true(text: Option<&str>) -> bool {
    matches!(text, Some("true" | "1" | "t" | "T" | "TRUE" | "True"))
}

/// `10m`, `512k`, `1g`, `1024`, `-1`, with this thousand.
fn size(text: &str, thousand: u64) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let lower = text.trim().to_ascii_lowercase();
    let bare = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let power = match bare.as_bytes().last()? {
        b'k' => 1,
        b'm' => 2,
        b'g' => 3,
        b't' => 4,
        _ => 0,
    };
    let digits = if power == 0 { bare } else { &bare[..bare.len() - 1] };
    let unit = thousand.pow(power);
    if let Ok(whole) = digits.trim().parse::<u64>() {
        return i64::try_from(whole.checked_mul(unit)?).ok();
    }
    let number: f64 = digits.trim().parse().ok()?;
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    let bytes = (number * unit as f64) as i64;
    (number.is_finite() && number >= 0.0).then_some(bytes)
}

/// Of a file, as docker reads it.
fn file_size(text: &str) -> Option<i64> {
    size(text, 1000)
}

/// Of memory, as docker reads it.
fn memory_size(text: &str) -> Option<i64> {
    size(text, 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(driver: &str, options: &[(&str, &str)]) -> LogConfig {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        LogConfig { driver: driver.to_owned(), options, ..LogConfig::default() }
    }

    #[test]
    fn sizes_are_read() {
        for (text, want) in [("10m", 10 << 20), ("1.5k", 1536), ("7", 7), ("2GB", 2 << 30), ("-1", -1)] {
            assert_eq!(memory_size(text), Some(want), "{text}");
        }
        assert_eq!(file_size("10m"), Some(10_000_000));
        for bad in ["", "x", "-2", "1x"] {
            assert!(file_size(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn drivers_have_their_own_defaults() {
        let own = crate::config::Engine::default();
        let json = files(&completed(log("", &[]), &own)).unwrap();
        assert_eq!((json.max_size, json.max_files, json.compressed), (Some(10 << 20), 5, false));
        let local = files(&completed(log("local", &[("max-file", "3")]), &own)).unwrap();
        assert_eq!((local.max_size, local.max_files, local.compressed), (Some(20_000_000), 3, true));
        assert_eq!(files(&log("none", &[])), None);
        let never = files(&completed(log("json-file", &[("max-size", "-1")]), &own)).unwrap();
        assert_eq!(never.max_size, None);
    }

    #[test]
    fn what_is_not_there_is_refused_in_dockers_words() {
        let refused =
            |driver: &str, options: &[(&str, &str)]| check(&log(driver, options)).unwrap_err().to_string();
        assert!(refused("syslog", &[]).starts_with("logger: no log driver named 'syslog' is registered"));
        assert!(
            refused("json-file", &[("foo", "1")])
                .starts_with("unknown log opt 'foo' for json-file log driver")
        );
        assert!(refused("local", &[("tag", "1")]).starts_with("unknown log opt 'tag' for local log driver"));
        assert!(refused("", &[("max-file", "0")]).starts_with("max-file cannot be less than 1"));
        assert!(refused("", &[("mode", "x")]).starts_with("logger: logging mode not supported: x"));
        assert!(
            refused("", &[("max-buffer-size", "1m")]).contains("only supported with 'mode=non-blocking'")
        );
        assert!(
            refused("", &[("compress", "true"), ("max-file", "1")]).starts_with("compress cannot be true")
        );
        check(&log("none", &[("foo", "1")])).unwrap();
        check(&log("local", &[("max-size", "1m"), ("mode", "non-blocking"), ("max-buffer-size", "2m")]))
            .unwrap();
    }
}
