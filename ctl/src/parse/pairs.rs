//! `key=value` arguments: labels, filters, log options.

use longshore_proto::longshore::engine::v1::LogConfig;

use super::size;

/// `key[=value]` of a label.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(format!("invalid label '{text}': empty name"));
    }
    Ok((key.to_string(), value.to_string()))
}

/// `key=value` of a filter; the daemon knows the keys.
pub fn filter(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, value)) => Ok(format!("{}={}", key.trim().to_lowercase(), value.trim())),
        None => Err("bad format of filter (expected name=value)".into()),
    }
}

/// One `--log-opt`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LogOption {
    MaxSize(i64),
    MaxFiles(i32),
}

/// `max-size=SIZE` or `max-file=COUNT`.
pub fn log_option(text: &str) -> Result<LogOption, String> {
    match text.split_once('=') {
        Some(("max-size", "-1")) => Ok(LogOption::MaxSize(-1)),
        Some(("max-size", value)) => match size::file(value)? {
            0 => Err("max-size must be more than 0, or -1 for a log that is never rotated".into()),
            bytes => Ok(LogOption::MaxSize(bytes)),
        },
        Some(("max-file", value)) => match value.parse() {
            Ok(count) if count > 0 => Ok(LogOption::MaxFiles(count)),
            _ => Err(format!("max-file must be a number of at least 1, not '{value}'")),
        },
        Some((key, _)) => Err(format!("unknown log opt '{key}': max-size and max-file are known")),
        None => Err(format!("invalid log opt '{text}': expected KEY=VALUE")),
    }
}

/// What all of them come to; later ones win.
pub fn log_config(options: &[LogOption]) -> Option<LogConfig> {
    let mut config = LogConfig::default();
    for option in options {
        match option {
            LogOption::MaxSize(bytes) => config.max_size = *bytes,
            LogOption::MaxFiles(count) => config.max_files = *count,
        }
    }
    (!options.is_empty()).then_some(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(label("a"), Ok(("a".into(), String::new())));
        assert_eq!(label("=x").unwrap_err(), "invalid label '=x': empty name");
        assert_eq!(filter("Label!=x").unwrap(), "label!=x");
        assert!(filter("x").is_err());
        assert_eq!(log_option("max-size=10m"), Ok(LogOption::MaxSize(10_000_000)));
        assert_eq!(log_option("max-size=-1"), Ok(LogOption::MaxSize(-1)));
        assert_eq!(log_option("max-file=3"), Ok(LogOption::MaxFiles(3)));
        for wrong in ["max-size=x", "max-size=0", "max-file=0", "max-file=x", "tag=x", "x", ""] {
            assert!(log_option(wrong).is_err(), "{wrong}");
        }
    }
}
