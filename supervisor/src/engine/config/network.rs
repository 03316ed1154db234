//! How a container is connected.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of a container's network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum NetworkMode {
    /// A namespace of its own on the default bridge.
    #[default]
    Default,
    /// A namespace of its own with the loopback device only.
    None,
    /// The host's.
    Host,
    /// The one of another container, by name or id.
    Container(String),
    /// A namespace of its own that a CNI configuration of this name sets up.
    Cni(String),
    /// A namespace of its own on the network of this name or id.
    Named(String),
}

impl From<String> for NetworkMode {
    fn from(text: String) -> NetworkMode {
        match text.as_str() {
            "" | "default" => NetworkMode::Default,
            "none" => NetworkMode::None,
            "host" => NetworkMode::Host,
            other => match other.split_once(':') {
                Some(("container", name)) => NetworkMode::Container(name.to_owned()),
                Some(("cni", name)) => NetworkMode::Cni(name.to_owned()),
                _ => NetworkMode::Named(text),
            },
        }
    }
}

impl From<NetworkMode> for String {
    fn from(mode: NetworkMode) -> String {
        mode.to_string()
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetworkMode::Default => f.write_str("default"),
            NetworkMode::None => f.write_str("none"),
            NetworkMode::Host => f.write_str("host"),
            NetworkMode::Container(name) => write!(f, "container:{name}"),
            NetworkMode::Cni(name) => write!(f, "cni:{name}"),
            NetworkMode::Named(name) => f.write_str(name),
        }
    }
}

/// What a container asks of one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// Name or id; empty: the one of the network mode.
    pub network: String,
    pub aliases: Vec<String>,
    pub ipv4: String,
    pub ipv6: String,
    pub mac: String,
    pub link_local: Vec<String>,
    /// `container:alias`.
    pub links: Vec<String>,
    pub driver_options: BTreeMap<String, String>,
    /// The network with the highest has the default route.
    pub gateway_priority: i32,
}

/// A port of the container that the host answers on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortBinding {
    pub container_port: u16,
    pub protocol: Protocol,
    /// Empty: all addresses.
    pub host_ip: String,
    /// The first free one of this range; both 0: any.
    pub host_port_first: u16,
    pub host_port_last: u16,
}

/// Of a published port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub fn parse(text: &str) -> Option<Protocol> {
        match text.to_ascii_lowercase().as_str() {
            "" | "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            "sctp" => Some(Protocol::Sctp),
            _ => None,
        }
    }

    /// As it is in packets.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_back() {
        for text in ["default", "none", "host", "container:web", "cni:lab", "backend"] {
            assert_eq!(NetworkMode::from(text.to_owned()).to_string(), text);
        }
        assert_eq!(NetworkMode::from(String::new()), NetworkMode::Default);
    }
}
