//! `--publish` and `--expose`: ports, ranges and protocols.

use std::net::{IpAddr, Ipv6Addr};

use longshore_proto::longshore::engine::v1::PortBinding;

const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// What one `-p` publishes: `[[ADDRESS:][HOST[-HOST]]:]PORT[-PORT][/PROTOCOL]`, or `published=…,target=…,protocol=…`.
pub fn publish(text: &str) -> Result<Vec<PortBinding>, String> {
    match text.contains('=') {
        true => short_form(&long_form(text)),
        false => short_form(text),
    }
}

/// The short form of a long one.
fn long_form(text: &str) -> String {
    let (mut published, mut target, mut protocol) = ("", "", "tcp");
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("published", value)) => published = value,
            Some(("target", value)) => target = value,
            Some(("protocol", value)) => protocol = value,
            // The mode is a cluster's concern.
            Some((key, _)) if !key.is_empty() => {}
            _ => return field.to_string(),
        }
    }
    format!("{published}:{target}/{protocol}")
}

fn short_form(text: &str) -> Result<Vec<PortBinding>, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (address, host, container) = match parts.as_slice() {
        [container] => (String::new(), "", *container),
        [host, container] => (String::new(), *host, *container),
        [address @ .., host, container] => (address.join(":"), *host, *container),
        [] => (String::new(), "", ""),
    };
    let (protocol, container) = split_protocol(container);
    let host_ip = host_address(&address)?;
    if container.is_empty() {
        return Err(format!("no port specified: {text}<empty>"));
    }
    let (first, last) = range(container).map_err(|_| format!("invalid containerPort: {container}"))?;
    let hosts = match host {
        "" => None,
        host => Some(range(host).map_err(|_| format!("invalid hostPort: {host}"))?),
    };
    if let Some((host_first, host_last)) = hosts
        && last - first != host_last - host_first
        && first != last
    {
        return Err(format!("invalid ranges specified for container and host Ports: {container} and {host}"));
    }
    let protocol = protocol.to_ascii_lowercase();
    if !PROTOCOLS.contains(&protocol.as_str()) {
        return Err(format!("invalid proto: {protocol}"));
    }
    Ok((first..=last)
        .map(|port| {
            let (host_port_first, host_port_last) = match hosts {
                None => (0, 0),
                Some(range) if first == last => range,
                Some((host_first, _)) => (host_first + (port - first), host_first + (port - first)),
            };
            PortBinding {
                container_port: port.into(),
                protocol: protocol.clone(),
                host_ip: host_ip.clone(),
                host_port_first: host_port_first.into(),
                host_port_last: host_port_last.into(),
            }
        })
        .collect())
}

fn host_address(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let bare = match text.strip_prefix('[') {
        None => text,
        Some(inner) => inner
            .strip_suffix(']')
            .ok_or_else(|| format!("invalid IP address {text}: address {text}:: missing ']' in address"))?,
    };
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => Ok("::".into()),
        Ok(address) => Ok(address.to_string()),
        Err(_) => Err(format!("invalid IP address: {bare}")),
    }
}

/// The ports of one `--expose`: `80/tcp`.
pub fn expose(text: &str) -> Result<Vec<String>, String> {
    if text.contains(':') {
        return Err(format!("invalid port format for --expose: {text}"));
    }
    let (protocol, ports) = split_protocol(text);
    let (first, last) =
        range(ports).map_err(|why| format!("invalid range format for --expose: {text}, error: {why}"))?;
    let protocol = protocol.to_ascii_lowercase();
    if !PROTOCOLS.contains(&protocol.as_str()) {
        return Err(format!("invalid proto: {protocol}"));
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// `80/udp` as (`udp`, `80`).
fn split_protocol(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        None => ("tcp", text),
        Some(("", _)) => ("tcp", ""),
        Some((ports, protocol)) => match protocol.split('/').next() {
            None | Some("") => ("tcp", ports),
            Some(protocol) => (protocol, ports),
        },
    }
}

/// `80` or `80-90`.
fn range(text: &str) -> Result<(u16, u16), String> {
    if text.is_empty() {
        return Err("empty string specified for ports".into());
    }
    let mut bounds = text.split('-');
    let first = number(bounds.next().unwrap_or_default())?;
    let last = match bounds.next() {
        None => first,
        Some(last) => number(last)?,
    };
    match bounds.next() {
        Some(_) => Err(format!("invalid range specified for port: {text}")),
        None if last < first => Err(format!("invalid range specified for port: {text}")),
        None => Ok((first, last)),
    }
}

fn number(text: &str) -> Result<u16, String> {
    let syntax = || format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(syntax());
    }
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {text:?}: value out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> (u32, String, String, u32, u32) {
        let all = publish(text).unwrap();
        assert_eq!(all.len(), 1, "{text}");
        let port = all.into_iter().next().unwrap();
        (port.container_port, port.protocol, port.host_ip, port.host_port_first, port.host_port_last)
    }

    #[test]
    fn published() {
        let tcp =
            |container, ip: &str, first, last| (container, "tcp".to_string(), ip.to_string(), first, last);
        assert_eq!(one("80"), tcp(80, "", 0, 0));
        assert_eq!(one("8080:80"), tcp(80, "", 8080, 8080));
        assert_eq!(one("8080-8090:80"), tcp(80, "", 8080, 8090));
        assert_eq!(one("127.0.0.1:8080:80"), tcp(80, "127.0.0.1", 8080, 8080));
        assert_eq!(one("127.0.0.1::80"), tcp(80, "127.0.0.1", 0, 0));
        assert_eq!(one("[::1]:80:81/tcp"), tcp(81, "::1", 80, 80));
        assert_eq!(one("::1:80:81"), tcp(81, "::1", 80, 80));
        assert_eq!(one("80:80/UDP").1, "udp");
        assert_eq!(one("80/"), tcp(80, "", 0, 0));
        assert_eq!(one("published=81,target=80,protocol=udp").1, "udp");
        let range = publish("8000-8002:80-82").unwrap();
        let pairs: Vec<_> = range.iter().map(|port| (port.container_port, port.host_port_first)).collect();
        assert_eq!(pairs, [(80, 8000), (81, 8001), (82, 8002)]);
    }

    #[test]
    fn docker_s_words() {
        for (text, words) in [
            ("", "no port specified: <empty>"),
            ("80:", "no port specified: 80:<empty>"),
            ("x", "invalid containerPort: x"),
            ("70000", "invalid containerPort: 70000"),
            ("90-80", "invalid containerPort: 90-80"),
            ("x:80", "invalid hostPort: x"),
            ("1.2.3:80:80", "invalid IP address: 1.2.3"),
            (":80:80:80", "invalid IP address: :80"),
            ("localhost:80:80", "invalid IP address: localhost"),
            ("[::1:80:80", "invalid IP address [::1: address [::1:: missing ']' in address"),
            ("80-90:80-85", "invalid ranges specified for container and host Ports: 80-85 and 80-90"),
            ("80:80-81", "invalid ranges specified for container and host Ports: 80-81 and 80"),
            ("80/xyz", "invalid proto: xyz"),
            ("published=80", "no port specified: 80:/tcp<empty>"),
            ("published=80,target=x", "invalid containerPort: x"),
        ] {
            assert_eq!(publish(text).unwrap_err(), words, "{text}");
        }
    }

    #[test]
    fn exposed() {
        assert_eq!(expose("80").unwrap(), ["80/tcp"]);
        assert_eq!(expose("80-81/udp").unwrap(), ["80/udp", "81/udp"]);
        for (text, words) in [
            (
                "x",
                "invalid range format for --expose: x, error: strconv.ParseUint: parsing \"x\": invalid syntax",
            ),
            ("80:80", "invalid port format for --expose: 80:80"),
            (
                "90-80",
                "invalid range format for --expose: 90-80, error: invalid range specified for port: 90-80",
            ),
            ("", "invalid range format for --expose: , error: empty string specified for ports"),
            ("80/foo", "invalid proto: foo"),
        ] {
            assert_eq!(expose(text).unwrap_err(), words, "{text}");
        }
    }
}
