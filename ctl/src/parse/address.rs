//! Addresses and names: `--dns`, `--dns-search`, `--add-host`, `--mac-address`.

use std::net::IpAddr;

/// The address that stands for the host's.
const HOST_GATEWAY: &str = "host-gateway";

/// Longest domain name.
const MAX_DOMAIN: usize = 255;

/// A name server.
pub fn dns(text: &str) -> Result<String, String> {
    match text.trim().parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => Err(format!("IP address is not correctly formatted: {text}")),
    }
}

/// A search domain; `.` for none.
pub fn domain(text: &str) -> Result<String, String> {
    let name = text.trim_matches(' ');
    if name == "." {
        return Ok(name.to_string());
    }
    let label = |label: &str| {
        let inside = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.chars().all(inside)
    };
    let labels = name.strip_suffix('.').unwrap_or(name);
    let sound = name.len() < MAX_DOMAIN
        && name.chars().any(|c| c.is_ascii_alphabetic())
        && labels.split('.').all(label);
    if sound { Ok(name.to_string()) } else { Err(format!("{text} is not a valid domain")) }
}

/// `name:address` out of `name:address`, `name=address` or either with the address in brackets.
pub fn extra_host(text: &str) -> Result<String, String> {
    let bad = || format!("bad format for add-host: {text:?}");
    let (name, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(bad)?;
    if name.is_empty() || name.contains(':') {
        return Err(bad());
    }
    if address == HOST_GATEWAY {
        return Ok(format!("{name}:{address}"));
    }
    let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']')).unwrap_or(address);
    match bare.trim().parse::<IpAddr>() {
        Ok(address) => Ok(format!("{name}:{address}")),
        Err(_) => Err(format!("invalid IP address in add-host: {bare:?}")),
    }
}

/// `92:d0:c6:0a:29:33`, also with dashes.
pub fn mac(text: &str) -> Result<String, String> {
    let pairs: Vec<&str> = text.trim().split([':', '-']).collect();
    let pair = |pair: &&str| pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
    match pairs.len() == 6 && pairs.iter().all(pair) {
        true => Ok(pairs.join(":").to_ascii_lowercase()),
        false => Err(format!("{text} is not a valid mac address")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_and_domains() {
        assert_eq!(dns("1.2.3.4").unwrap(), "1.2.3.4");
        assert_eq!(dns("2001:DB8::1").unwrap(), "2001:db8::1");
        assert_eq!(dns("1.2.3").unwrap_err(), "IP address is not correctly formatted: 1.2.3");
        for fine in [".", "example.com", "a.b.", "x-y"] {
            assert!(domain(fine).is_ok(), "{fine}");
        }
        for wrong in ["", "a b", "-a", "a..b", "12", &"a".repeat(300)] {
            assert_eq!(domain(wrong).unwrap_err(), format!("{wrong} is not a valid domain"));
        }
    }

    #[test]
    fn hosts() {
        for (text, host) in [
            ("x:1.2.3.4", "x:1.2.3.4"),
            ("x=1.2.3.4", "x:1.2.3.4"),
            ("x:::1", "x:::1"),
            ("x=[::1]", "x:::1"),
            ("x:host-gateway", "x:host-gateway"),
        ] {
            assert_eq!(extra_host(text).unwrap(), host);
        }
        for (text, words) in [
            ("x", "bad format for add-host: \"x\""),
            (":1.2.3.4", "bad format for add-host: \":1.2.3.4\""),
            ("a:b=1.2.3.4", "bad format for add-host: \"a:b=1.2.3.4\""),
            ("x:", "invalid IP address in add-host: \"\""),
            ("x:1.2.3.400", "invalid IP address in add-host: \"1.2.3.400\""),
        ] {
            assert_eq!(extra_host(text).unwrap_err(), words);
        }
    }

    #[test]
    fn hardware_addresses() {
        assert_eq!(mac("92-D0-c6-0a-29-33").unwrap(), "92:d0:c6:0a:29:33");
        for wrong in ["x", "", "92:d0:c6:0a:29:33:44", "9:d0:c6:0a:29:33"] {
            assert_eq!(mac(wrong).unwrap_err(), format!("{wrong} is not a valid mac address"));
        }
    }
}
