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
#[derive(Clone, Debug, PartialEq)]
pub enum LogOption {
    MaxSize(i64),
    MaxFiles(i32),
    /// One that the daemon's driver knows, or not.
    Other(String, String),
}

/// `max-size=SIZE`, `max-file=COUNT`, or an option of the driver's.
pub fn log_option(text: &str) -> Result<LogOption, String> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("max-size", "-1") => Ok(LogOption::MaxSize(-1)),
        ("max-size", value) => match size::file(value)? {
            0 => Err("max-size must be more than 0, or -1 for a log that is never rotated".into()),
            bytes => Ok(LogOption::MaxSize(bytes)),
        },
        ("max-file", value) => match value.parse() {
            Ok(count) if count > 0 => Ok(LogOption::MaxFiles(count)),
            _ => Err(format!("max-file must be a number of at least 1, not '{value}'")),
        },
        ("", _) => Err(format!("invalid log opt '{text}': expected KEY=VALUE")),
        (key, value) => Ok(LogOption::Other(key.to_string(), value.to_string())),
    }
}

/// What driver and options come to; later ones win.
pub fn log_config(driver: &str, options: &[LogOption]) -> Option<LogConfig> {
    let mut config = LogConfig { driver: driver.to_string(), ..LogConfig::default() };
    for option in options {
        match option {
            LogOption::MaxSize(bytes) => config.max_size = *bytes,
            LogOption::MaxFiles(count) => config.max_files = *count,
            LogOption::Other(key, value) => drop(config.options.insert(key.clone(), value.clone())),
        }
    }
    (!options.is_empty() || !driver.is_empty()).then_some(config)
}

/// `key=value` of an annotation.
pub fn annotation(text: &str) -> Result<(String, String), String> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("", _) => Err(format!("invalid annotation '{text}': empty name")),
        (key, value) => Ok((key.to_string(), value.to_string())),
    }
}

/// `key=value` of a storage option.
pub fn storage_option(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.to_string(), value.to_string())),
        None => Err("invalid storage option".into()),
    }
}

/// The kernel's parameters that belong to a namespace, beside `net.*` and `fs.mqueue.*`.
const SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// `name=value` of a kernel parameter that a container has of its own.
pub fn sysctl(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value))
            if SYSCTLS.contains(&name) || name.starts_with("net.") || name.starts_with("fs.mqueue.") =>
        {
            Ok((name.to_string(), value.to_string()))
        }
        _ => Err(format!("sysctl '{text}' is not allowed")),
    }
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
        assert_eq!(log_option("tag=x"), Ok(LogOption::Other("tag".into(), "x".into())));
        assert_eq!(log_config("", &[]), None);
        assert_eq!(log_config("local", &[]).unwrap().driver, "local");
        assert_eq!(sysctl("net.a="), Ok(("net.a".into(), String::new())));
        for wrong in ["x", "kernel.foo=1", "kernel.shmmax", ""] {
            assert_eq!(sysctl(wrong).unwrap_err(), format!("sysctl '{wrong}' is not allowed"));
        }
        assert_eq!(storage_option("x").unwrap_err(), "invalid storage option");
        assert!(annotation("").is_err());
        for wrong in ["max-size=x", "max-size=0", "max-file=0", "max-file=x", "=x", ""] {
            assert!(log_option(wrong).is_err(), "{wrong}");
        }
    }
}
