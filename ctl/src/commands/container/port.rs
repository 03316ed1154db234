//! `longshore port`: where the ports of a container are published; and how ports are shown elsewhere.

use longshore_proto::longshore::engine::v1::{ContainerRequest, PublishedPort};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::fields;
use crate::output::print;
use crate::output::value::Value;

#[derive(clap::Args)]
pub struct Args {
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// One port of the container: 80 or 80/udp
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    port: Option<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "List port mappings or a specific mapping for the container";
    const USAGE: &'static str = "CONTAINER [PRIVATE_PORT[/PROTO]]";
    const ARGUMENTS: Arguments = Arguments::Between(1, 2);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let request = ContainerRequest { container: self.container.clone() };
        let found = context.containers().await?.inspect(request).await?.into_inner();
        let ports = found.summary.map(|summary| summary.ports).unwrap_or_default();
        let published = ports.iter().filter(|port| !port.host_ip.is_empty());
        let Some(wanted) = &self.port else {
            let lines = published
                .map(|port| format!("{} -> {}:{}\n", name(port), port.host_ip, port.host_port))
                .collect::<String>();
            print::out(&lines)?;
            return Ok(0);
        };
        let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
        if number.parse::<u16>().is_err() {
            return Err(Failure::message(format!("Error: Invalid port: {number}")));
        }
        let wanted = format!("{number}/{protocol}");
        let lines: String = published
            .filter(|port| name(port) == wanted)
            .map(|port| format!("{}:{}\n", port.host_ip, port.host_port))
            .collect();
        if lines.is_empty() {
            let text = format!("Error: No public port '{wanted}' published for {}", self.container);
            return Err(Failure::message(text));
        }
        print::out(&lines)?;
        Ok(0)
    }
}

/// `80/tcp`.
fn name(port: &PublishedPort) -> String {
    format!("{}/{}", port.container_port, port.protocol)
}

/// The host's address and the protocol.
type Side<'a> = (&'a str, &'a str);

/// The column PORTS of `ps`: docker's, with neighbours that keep their numbers put together.
pub fn summary(ports: &[PublishedPort]) -> String {
    let mut ports: Vec<&PublishedPort> = ports.iter().collect();
    ports.sort_by(|a, b| {
        let key = |port: &PublishedPort| (port.container_port, port.host_ip.clone(), port.host_port);
        key(a).cmp(&key(b)).then_with(|| a.protocol.cmp(&b.protocol))
    });
    let mut groups: Vec<(Side<'_>, (u32, u32))> = Vec::new();
    let (mut shown, mut translated) = (Vec::new(), Vec::new());
    for port in ports {
        let PublishedPort { container_port, protocol, host_ip, host_port } = port;
        if !host_ip.is_empty() && host_port != container_port {
            translated.push(format!("{host_ip}:{host_port}->{container_port}/{protocol}"));
            continue;
        }
        let key = (host_ip.as_str(), protocol.as_str());
        match groups.iter_mut().find(|(other, _)| *other == key) {
            None => groups.push((key, (*container_port, *container_port))),
            Some((_, range)) if range.1.checked_add(1) == Some(*container_port) => range.1 = *container_port,
            Some((_, range)) => {
                shown.push(group(key, *range));
                *range = (*container_port, *container_port);
            }
        }
    }
    shown.extend(groups.into_iter().map(|(key, range)| group(key, range)));
    shown.extend(translated);
    shown.join(", ")
}

fn group((host_ip, protocol): Side<'_>, (first, last): (u32, u32)) -> String {
    let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
    match host_ip {
        "" => format!("{range}/{protocol}"),
        ip => format!("{ip}:{range}->{range}/{protocol}"),
    }
}

/// `Ports` of inspect's NetworkSettings.
pub fn settings(ports: &[PublishedPort]) -> Value {
    let mut map: Vec<(String, Value)> = Vec::new();
    for port in ports {
        let binding = fields! { "HostIp" => port.host_ip.as_str(), "HostPort" => port.host_port.to_string() };
        let name = name(port);
        let place = match map.iter().position(|(other, _)| *other == name) {
            Some(place) => place,
            None => {
                map.push((name, Value::Null));
                map.len() - 1
            }
        };
        if port.host_ip.is_empty() {
            continue;
        }
        match &mut map[place].1 {
            Value::List(bindings) => bindings.push(binding),
            none => *none = Value::List(vec![binding]),
        }
    }
    map.sort_by(|a, b| a.0.cmp(&b.0));
    Value::Map(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(container_port: u32, host: Option<(&str, u32)>) -> PublishedPort {
        let (host_ip, host_port) = host.unwrap_or_default();
        PublishedPort { container_port, protocol: "tcp".to_owned(), host_ip: host_ip.to_owned(), host_port }
    }

    #[test]
    fn ports_are_shown_as_docker_shows_them() {
        let both = [port(80, Some(("0.0.0.0", 8080))), port(80, Some(("::", 8080)))];
        assert_eq!(summary(&both), "0.0.0.0:8080->80/tcp, :::8080->80/tcp");
        let range = [port(81, None), port(80, None), port(90, None)];
        assert_eq!(summary(&range), "80-81/tcp, 90/tcp");
        let kept = [port(80, Some(("0.0.0.0", 80))), port(81, Some(("0.0.0.0", 81)))];
        assert_eq!(summary(&kept), "0.0.0.0:80-81->80-81/tcp");
        assert_eq!(summary(&[]), "");
    }
}
