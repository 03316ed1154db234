//! What is kept of a network, in the table `networks`: fields are only ever added, with defaults.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::cidr::{Cidr, Family};

/// The networks that are always there.
pub const BRIDGE: &str = "bridge";
pub const HOST: &str = "host";
pub const NONE: &str = "none";

/// Who connects the containers of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge interface of the host's.
    #[default]
    Bridge,
    /// Nobody: they have the host's interfaces.
    Host,
    /// Nobody: they have none.
    Null,
}

impl Driver {
    pub fn name(self) -> &'static str {
        match self {
            Driver::Bridge => "bridge",
            Driver::Host => "host",
            Driver::Null => "null",
        }
    }
}

/// Addresses of a network in one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub net: Cidr,
    /// The bridge's own address.
    pub gateway: IpAddr,
    /// Addresses are given out from here; `None`: from all of the subnet.
    #[serde(default)]
    pub range: Option<Cidr>,
    /// Addresses that something else has, by name.
    #[serde(default)]
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// Whether the user asked for this one: fixed addresses are only given where it will not change.
    #[serde(default)]
    pub chosen: Chosen,
}

/// By whom something was chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Chosen {
    #[default]
    ByDaemon,
    ByUser,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// 64 hexadecimal digits.
    pub id: String,
    pub name: String,
    #[serde(default)]
    pub driver: Driver,
    /// Name of the bridge interface; empty for the other drivers.
    #[serde(default)]
    pub bridge: String,
    #[serde(default)]
    pub ipv4: Option<Subnet>,
    #[serde(default)]
    pub ipv6: Option<Subnet>,
    /// Its containers reach each other and the host's bridge address only.
    #[serde(default)]
    pub internal: bool,
    /// Kept for show: it means something to swarms only.
    #[serde(default)]
    pub attachable: bool,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    #[serde(with = "crate::engine::config::stamp")]
    pub created_at: Timestamp,
}

/// Options of the bridge driver.
pub mod option {
    pub const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
    pub const MTU: &str = "com.docker.network.driver.mtu";
    pub const ICC: &str = "com.docker.network.bridge.enable_icc";
    pub const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
    pub const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
    pub const DEFAULT_BRIDGE: &str = "com.docker.network.bridge.default_bridge";
    pub const IFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
}

impl Network {
    /// One of the three that are always there.
    pub fn is_predefined(&self) -> bool {
        matches!(self.name.as_str(), BRIDGE | HOST | NONE)
    }

    /// Whether containers find each other by name here.
    pub fn has_names(&self) -> bool {
        self.driver == Driver::Bridge && !self.is_predefined()
    }

    pub fn subnet(&self, family: Family) -> Option<&Subnet> {
        match family {
            Family::V4 => self.ipv4.as_ref(),
            Family::V6 => self.ipv6.as_ref(),
        }
    }

    pub fn subnets(&self) -> impl Iterator<Item = &Subnet> {
        self.ipv4.iter().chain(&self.ipv6)
    }

    /// Bytes of the longest packet; `None`: the kernel's default.
    pub fn mtu(&self) -> Option<u32> {
        self.options.get(option::MTU).and_then(|text| text.parse().ok())
    }

    /// An option that is on unless it was turned off.
    fn is_on(&self, option: &str) -> bool {
        self.options.get(option).is_none_or(|text| truth(text) != Some(false))
    }

    /// Whether its containers may talk to each other.
    pub fn connects_containers(&self) -> bool {
        self.is_on(option::ICC)
    }

    /// Whether packets that leave the host carry the host's address.
    pub fn masquerades(&self) -> bool {
        self.is_on(option::MASQUERADE)
    }

    /// The address of the host that ports are published on when none is named.
    pub fn host_binding(&self) -> Option<IpAddr> {
        self.options.get(option::HOST_BINDING).and_then(|text| text.parse().ok())
    }
}

/// As Go reads a boolean.
pub fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
