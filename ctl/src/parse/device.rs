//! `--device`, `--device-cgroup-rule` and the limits of single devices.

use longshore_proto::longshore::engine::v1::{Device, DeviceValue};

use super::size;

/// `PATH[:PATH][:rwm]`, or a CDI name.
pub fn device(text: &str) -> Result<Device, String> {
    if is_cdi(text) {
        return Ok(Device { host_path: text.to_string(), ..Device::default() });
    }
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, permissions) = match parts.as_slice() {
        [source] => (*source, *source, ""),
        [source, mode] if is_mode(mode) => (*source, *source, *mode),
        [source, target] => (*source, *target, ""),
        [_, _, mode] if !is_mode(mode) => return Err(format!("bad mode specified: {mode}")),
        [source, target, mode] => (*source, *target, *mode),
        _ => return Err(format!("bad format for path: {text}")),
    };
    if source.is_empty() {
        return Err(format!("bad format for path: {text}"));
    }
    if !target.starts_with('/') {
        return Err(format!("{target} is not an absolute path"));
    }
    Ok(Device {
        host_path: source.to_string(),
        container_path: if target == source { String::new() } else { target.to_string() },
        permissions: permissions.to_string(),
    })
}

/// Some of `rwm`, each once.
fn is_mode(text: &str) -> bool {
    let mut seen = String::new();
    !text.is_empty()
        && text.chars().all(|c| {
            let fresh = "rwm".contains(c) && !seen.contains(c);
            seen.push(c);
            fresh
        })
}

/// `vendor.com/class=name`.
fn is_cdi(text: &str) -> bool {
    let word = |text: &str, more: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    text.split_once('=').is_some_and(|(kind, name)| {
        kind.split_once('/')
            .is_some_and(|(vendor, class)| word(vendor, "._-") && word(class, "_-") && word(name, "._-:"))
    })
}

/// `c 1:3 rwm`.
pub fn cgroup_rule(text: &str) -> Result<String, String> {
    let number =
        |text: &str| text == "*" || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    let mut words = text.split(' ');
    let kind = words.next().is_some_and(|kind| matches!(kind, "a" | "b" | "c"));
    let numbers = words.next().and_then(|numbers| numbers.split_once(':'));
    let numbers = numbers.is_some_and(|(major, minor)| number(major) && number(minor));
    let access = words.next().is_some_and(|access| {
        (1..=3).contains(&access.len()) && access.bytes().all(|byte| b"rwm".contains(&byte))
    });
    match kind && numbers && access && words.next().is_none() {
        true => Ok(text.to_string()),
        false => Err(format!("invalid device cgroup format '{text}'")),
    }
}

/// `/dev/sda:200` of `--blkio-weight-device`.
pub fn weight(text: &str) -> Result<DeviceValue, String> {
    let (path, value) = of_device(text)?;
    match value.parse::<u16>() {
        Ok(value) if value == 0 || (10..=1000).contains(&value) => {
            Ok(DeviceValue { path: path.to_string(), value: value.into() })
        }
        _ => Err(format!("invalid weight for device: {text}")),
    }
}

/// `/dev/sda:1mb` of `--device-read-bps`.
pub fn bytes_a_second(text: &str) -> Result<DeviceValue, String> {
    let (path, value) = of_device(text)?;
    match size::memory(value) {
        Ok(value) => Ok(DeviceValue { path: path.to_string(), value: value.unsigned_abs() }),
        Err(_) => Err(format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. Number must be \
             a positive integer. Unit is optional and can be kb, mb, or gb"
        )),
    }
}

/// `/dev/sda:1000` of `--device-read-iops`.
pub fn operations_a_second(text: &str) -> Result<DeviceValue, String> {
    let (path, value) = of_device(text)?;
    match value.parse::<u64>() {
        Ok(value) => Ok(DeviceValue { path: path.to_string(), value }),
        Err(_) => Err(format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>. Number must be a \
             positive integer"
        )),
    }
}

fn of_device(text: &str) -> Result<(&str, &str), String> {
    match text.split_once(':') {
        None | Some(("", _)) => Err(format!("bad format: {text}")),
        Some((path, _)) if !path.starts_with("/dev/") => Err(format!("bad format for device path: {text}")),
        Some(pair) => Ok(pair),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        let parts = |text: &str| device(text).map(|d| (d.host_path, d.container_path, d.permissions));
        let three = |a: &str, b: &str, c: &str| Ok((a.to_string(), b.to_string(), c.to_string()));
        assert_eq!(parts("/dev/null"), three("/dev/null", "", ""));
        assert_eq!(parts("/dev/null:r"), three("/dev/null", "", "r"));
        assert_eq!(parts("/dev/null:/dev/x:rw"), three("/dev/null", "/dev/x", "rw"));
        assert_eq!(parts("vendor.com/class=name"), three("vendor.com/class=name", "", ""));
        for (text, words) in [
            ("", "bad format for path: "),
            (":/x", "bad format for path: :/x"),
            ("/a:/b:/c:d", "bad format for path: /a:/b:/c:d"),
            ("/a:/b:foo", "bad mode specified: foo"),
            ("x", "x is not an absolute path"),
            ("/a:rr", "rr is not an absolute path"),
        ] {
            assert_eq!(device(text).unwrap_err(), words);
        }
    }

    #[test]
    fn rules_and_rates() {
        for fine in ["c 1:3 rwm", "a *:* r", "b 8:* mr"] {
            assert!(cgroup_rule(fine).is_ok(), "{fine}");
        }
        for wrong in ["x", "c 1:3 xx", "c 1 r", "c 1:3", "c 1:3 r w", ""] {
            assert_eq!(cgroup_rule(wrong).unwrap_err(), format!("invalid device cgroup format '{wrong}'"));
        }
        assert_eq!(weight("/dev/x:200").unwrap().value, 200);
        assert_eq!(weight("/dev/x:5").unwrap_err(), "invalid weight for device: /dev/x:5");
        assert_eq!(weight("x").unwrap_err(), "bad format: x");
        assert_eq!(weight("x:5").unwrap_err(), "bad format for device path: x:5");
        assert_eq!(bytes_a_second("/dev/x:1mb").unwrap().value, 1 << 20);
        assert!(bytes_a_second("/dev/x:-1").unwrap_err().ends_with("can be kb, mb, or gb"));
        assert_eq!(operations_a_second("/dev/x:9").unwrap().value, 9);
        assert!(operations_a_second("/dev/x:1k").unwrap_err().ends_with("Number must be a positive integer"));
    }
}
