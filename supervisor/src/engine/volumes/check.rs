//! What a volume may be called and made with, in docker's words.

use std::collections::BTreeMap;

use super::DRIVER;
use crate::error::{Error, Result};

/// Longest name: that of a folder.
const MAX_NAME: usize = 255;

/// Most labels and options, and bytes of all of them.
const MAX_PAIRS: usize = 1024;
const MAX_BYTES: usize = 256 << 10;

pub fn name(name: &str) -> Result<()> {
    let refuse = |why: String| Err(Error::invalid(format!("create {name}"), why));
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    match name.as_bytes() {
        [_] => {
            refuse("volume name is too short, names should be at least two alphanumeric characters".into())
        }
        [first, rest @ ..] if first.is_ascii_alphanumeric() && rest.iter().all(|&byte| allowed(byte)) => {
            if name.len() > MAX_NAME {
                return refuse(format!("the name is longer than {MAX_NAME} bytes"));
            }
            Ok(())
        }
        _ => refuse(format!(
            "{name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. \
             If you intended to pass a host directory, use absolute path"
        )),
    }
}

pub fn driver(name: &str, driver: &str) -> Result<()> {
    if driver.is_empty() || driver == DRIVER {
        return Ok(());
    }
    Err(Error::invalid(
        format!("create {name}"),
        format!("error looking up volume plugin {driver}: plugin \"{driver}\" not found"),
    ))
}

pub fn options(name: &str, options: &BTreeMap<String, String>) -> Result<()> {
    let refuse = |why: String| Err(Error::invalid(format!("create {name}"), why));
    for key in options.keys() {
        match key.as_str() {
            "type" | "o" | "device" => {}
            "size" => {
                return refuse(
                    "the option \"size\" needs project quotas, which this version does not set: \
                     give the volume a file system of its own (type, device)"
                        .into(),
                );
            }
            other => return refuse(format!("invalid option: {other:?}")),
        }
    }
    for (option, needed) in [("device", "type"), ("type", "device"), ("o", "device"), ("o", "type")] {
        if options.contains_key(option) && !options.contains_key(needed) {
            return refuse(format!("missing required option: {needed:?}"));
        }
    }
    bounded(name, options)
}

/// Bounds on labels and options.
pub fn bounded(name: &str, pairs: &BTreeMap<String, String>) -> Result<()> {
    let bytes: usize = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
    for (limit, is, max) in [
        ("labels or options of one volume", pairs.len(), MAX_PAIRS),
        ("bytes of one volume's labels or options", bytes, MAX_BYTES),
    ] {
        if is > max {
            return Err(Error::ResourceExhausted { what: format!("volume {name}"), limit, max: max as u64 });
        }
    }
    match pairs.iter().any(|(key, value)| key.contains('\0') || value.contains('\0')) {
        true => Err(Error::invalid(format!("create {name}"), "a label or option contains NUL")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_options_in_dockers_words() {
        for good in ["ab", "a.b-c_d", "0a"] {
            name(good).unwrap();
        }
        for bad in ["a", "", ".a", "a/b", "-a", "a b", "ä1"] {
            assert!(name(bad).is_err(), "{bad}");
        }
        assert_eq!(
            name("a/b").unwrap_err().for_people(),
            "create a/b: \"a/b\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are \
             allowed. If you intended to pass a host directory, use absolute path"
        );
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        for (given, why) in [
            (pairs(&[("foo", "bar")]), "create vv: invalid option: \"foo\""),
            (pairs(&[("type", "tmpfs")]), "create vv: missing required option: \"device\""),
        ] {
            assert_eq!(options("vv", &given).unwrap_err().for_people(), why);
        }
        options("vv", &pairs(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")])).unwrap();
    }
}
