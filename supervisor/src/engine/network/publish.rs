//! Ports of the host that lead to a container: what is asked for, and what is shown of it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::engine::Engine;
use crate::engine::config::{PortBinding, Protocol, Record};
use crate::error::{Error, Result};
use crate::network::ports::{MAX, Published};
use crate::network::sandbox::{Owner, Sandbox};

/// A port of a container as it is shown: exposed, and perhaps published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownPort {
    pub container_port: u16,
    pub protocol: Protocol,
    /// `None`: exposed only.
    pub host: Option<(IpAddr, u16)>,
}

/// `80`, `80/udp`, `8000-8010/tcp`: the first and the last port.
pub fn parse_exposed(text: &str) -> Option<(u16, u16, Protocol)> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = Protocol::parse(protocol)?;
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (0 < first && first <= last).then_some((first, last, protocol))
}

/// What can be refused before anything is looked up.
pub fn check(expose: &[String]) -> Result<()> {
    match expose.iter().find(|text| parse_exposed(text).is_none()) {
        Some(bad) => Err(Error::invalid(
            format!("invalid range format for --expose: {bad}"),
            "write PORT[-PORT][/tcp|udp|sctp]",
        )),
        None => Ok(()),
    }
}

/// Every port that the image, the user or a publication names.
pub fn exposed(record: &Record) -> BTreeSet<(u16, Protocol)> {
    let named = record.exposed.iter().chain(&record.config.expose).filter_map(|text| parse_exposed(text));
    let named = named.flat_map(|(first, last, protocol)| (first..=last).map(move |port| (port, protocol)));
    let published = record.config.publish.iter().map(|wish| (wish.container_port, wish.protocol));
    published.chain(named).take(MAX).collect()
}

/// All that is to be published.
fn wishes(record: &Record) -> Vec<PortBinding> {
    let mut wishes = record.config.publish.clone();
    if record.config.publish_all {
        let named = |port: u16, protocol| {
            let mut explicit = record.config.publish.iter();
            explicit.any(|wish| wish.container_port == port && wish.protocol == protocol)
        };
        let more = exposed(record).into_iter().filter(|(port, protocol)| !named(*port, *protocol));
        wishes.extend(more.map(|(container_port, protocol)| PortBinding {
            container_port,
            protocol,
            ..PortBinding::default()
        }));
    }
    wishes
}

/// What is shown of a container's ports, in the order of their numbers: nothing, unless it runs.
pub fn shown(record: &Record) -> Vec<ShownPort> {
    if !record.state.status.is_live() {
        return Vec::new();
    }
    let published = &record.state.ports;
    let of = |port: u16, protocol: Protocol| {
        published.iter().filter(move |p| p.container_port == port && p.protocol == protocol)
    };
    let mut shown = Vec::new();
    for (container_port, protocol) in exposed(record) {
        let before = shown.len();
        shown.extend(of(container_port, protocol).map(|port| ShownPort {
            container_port,
            protocol,
            host: Some((port.host_ip, port.host_port)),
        }));
        if shown.len() == before {
            shown.push(ShownPort { container_port, protocol, host: None });
        }
    }
    shown
}

/// Whether a filter `publish` or `expose` names one of these: `80`, `80/tcp`, `8000-8080/tcp`.
pub fn filter_takes(text: &str, mut ports: impl Iterator<Item = (u16, Protocol)>) -> bool {
    parse_exposed(text).is_some_and(|(first, last, protocol)| {
        ports.any(|(port, of)| of == protocol && (first..=last).contains(&port))
    })
}

/// Whether a text is one for [`filter_takes`].
pub fn is_filter(text: &str) -> bool {
    parse_exposed(text).is_some()
}

impl Engine {
    /// Opens the ports of a container that is about to start.
    pub(super) async fn open_ports(
        &self,
        owner: &Owner,
        record: &Record,
        sandbox: &mut Sandbox,
    ) -> Result<()> {
        let wishes = wishes(record);
        if !wishes.is_empty() {
            sandbox.publish(owner, &wishes).await?;
        }
        Ok(())
    }

    /// Finds ports for a container whose CNI plugins open them.
    pub(super) async fn reserve_ports(
        &self,
        owner: &Owner,
        record: &Record,
        sandbox: &mut Sandbox,
    ) -> Result<()> {
        let wishes = wishes(record);
        if !wishes.is_empty() {
            sandbox.reserve(owner, &wishes).await?;
        }
        Ok(())
    }

    /// A running container has other addresses: its shim is told where its ports lead now, and that names are asked for.
    pub(super) async fn tell_shim(&self, id: &str, record: &Record) -> Result<()> {
        let request = self.network_options(id, record);
        self.tasks.publish(&self.namespace, id, request).await
    }

    /// What the shim of a container does for its networks.
    pub(in crate::engine) fn network_options(
        &self,
        id: &str,
        record: &Record,
    ) -> longshore_proto::longshore::shim::v1::PublishRequest {
        let state = &record.state;
        let dns = match self.has_names(&state.endpoints) {
            true => self.networks.dns.path(id).display().to_string(),
            false => String::new(),
        };
        let ports = crate::network::firewall::held(&state.ports, &state.endpoints);
        longshore_proto::longshore::shim::v1::PublishRequest { ports, dns }
    }
}

/// As [`shown`], of what was published.
pub fn host_ports(published: &[Published]) -> impl Iterator<Item = (u16, Protocol)> {
    published.iter().map(|port| (port.host_port, port.protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposed_ports_are_read() {
        assert_eq!(parse_exposed("80"), Some((80, 80, Protocol::Tcp)));
        assert_eq!(parse_exposed("53/udp"), Some((53, 53, Protocol::Udp)));
        assert_eq!(parse_exposed("1-3/sctp"), Some((1, 3, Protocol::Sctp)));
        for bad in ["", "0", "x", "3-1", "80/x", "70000", "1-2-3", "-1"] {
            assert_eq!(parse_exposed(bad), None, "{bad}");
        }
    }

    #[test]
    fn filters_take_ports_and_ranges() {
        let ports = [(8080, Protocol::Tcp), (53, Protocol::Udp)];
        for (text, taken) in
            [("8080", true), ("8000-9000/tcp", true), ("53", false), ("53/udp", true), ("x", false)]
        {
            assert_eq!(filter_takes(text, ports.into_iter()), taken, "{text}");
        }
    }
}
