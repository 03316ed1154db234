//! Networks of containers.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::network::cidr::{Cidr, Family};

/// Networks of containers.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// Name of the default network's interface.
    pub bridge: String,
    /// The default network's address on the host and its subnet, `ADDRESS/PREFIX`; empty: chosen.
    pub subnet: String,
    /// Namespaces on the default network that wait for a container.
    pub pool_size: usize,
    /// Subnets for networks whose user names none, in order.
    pub pools: Vec<Pool>,
    /// Name of the table of the packet filter; empty: after the default network's interface.
    pub table: String,
    /// How other machines come to published ports.
    pub publish: PublishMode,
    /// What becomes of packets of others once the host passes packets on for our sake.
    pub forward: ForwardMode,
    /// Where CNI configurations are.
    pub cni_configurations: Vec<PathBuf>,
    /// Where CNI plugins are.
    pub cni_plugins: Vec<PathBuf>,
}

/// How packets of other machines come to a published port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// Translated, unless somebody else's rules filter the host's input.
    #[default]
    Auto,
    /// Translated before the host's input rules could see them.
    Translate,
    /// Through the host's input rules, to the port that the shim holds.
    Proxy,
}

/// What becomes of packets between interfaces of others on a host that passed nothing on before us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ForwardMode {
    /// They are dropped: the host is a router for our networks only.
    #[default]
    Auto,
    /// They are none of our business.
    Leave,
}

/// A stock of subnets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    pub base: String,
    /// Prefix of each.
    pub size: u8,
}

impl Default for Network {
    fn default() -> Self {
        let pool = |base: &str, size| Pool { base: base.into(), size };
        Self {
            bridge: "longshore0".into(),
            subnet: String::new(),
            pool_size: 2,
            pools: vec![
                pool("172.17.0.0/16", 16),
                pool("172.18.0.0/15", 16),
                pool("172.20.0.0/14", 16),
                pool("172.24.0.0/13", 16),
                pool("192.168.0.0/16", 20),
            ],
            table: String::new(),
            publish: PublishMode::Auto,
            forward: ForwardMode::Auto,
            cni_configurations: vec!["/etc/cni/net.d".into()],
            cni_plugins: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
        }
    }
}

/// More would keep the kernel busy with nothing.
const MAX_POOL: usize = 64;

/// More are looked through for each network that is made.
const MAX_POOLS: usize = 256;

/// Whether an interface may be called so, in the kernel's files and in rules of the packet filter, too.
pub fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !matches!(name, "." | ".." | "all" | "default")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Whether containers can have addresses of it.
fn is_usable(net: &Cidr, longest: u8) -> bool {
    let first = net.first();
    (8..=longest).contains(&net.prefix())
        && !(first.is_loopback() || first.is_multicast() || first.is_unspecified())
}

impl Network {
    /// The table of the packet filter that is ours.
    pub fn table(&self) -> String {
        match (self.table.as_str(), self.bridge.as_str()) {
            ("", "longshore0") => "longshore".to_owned(),
            // Daemons with bridges of their own do not share a table.
            ("", bridge) => format!("longshore-{bridge}"),
            (table, _) => table.to_owned(),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key, value: &str, why| Err(ConfigError::Value { key, value: value.to_owned(), why });
        if !is_interface_name(&self.bridge) {
            let why =
                "must be 1 to 15 letters, digits, '-', '_' or '.', and not '.', '..', 'all' or 'default'";
            return refuse("network.bridge", &self.bridge, why);
        }
        if !self.subnet.is_empty() {
            let address = self.subnet.split('/').next().and_then(|text| text.parse::<IpAddr>().ok());
            let net = self.subnet.parse::<Cidr>().ok().filter(|net| is_usable(net, 30));
            let is_host = |address: &IpAddr, net: &Cidr| address.is_ipv4() && *address != net.last();
            if !address.zip(net).is_some_and(|(address, net)| is_host(&address, &net)) {
                let why = "must be an IPv4 address and a prefix of 8 to 30, as in 10.88.0.1/16";
                return refuse("network.subnet", &self.subnet, why);
            }
        }
        let table = &self.table;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        let begins = table.bytes().next().is_none_or(|byte| byte.is_ascii_alphabetic());
        if !begins || table.len() > 64 || !table.bytes().all(is_plain) {
            let why = "must be at most 64 letters, digits, '-', '_' or '.', a letter first";
            return refuse("network.table", table, why);
        }
        if self.pool_size > MAX_POOL {
            return refuse("network.pool_size", &self.pool_size.to_string(), "must be at most 64");
        }
        if self.pools.len() > MAX_POOLS {
            return refuse("network.pools", &self.pools.len().to_string(), "must be at most 256");
        }
        for pool in &self.pools {
            let base = pool.base.parse::<Cidr>().ok();
            let longest = |base: &Cidr| if base.family() == Family::V4 { 30 } else { 126 };
            let is_good = |base: Cidr| {
                is_usable(&base, longest(&base))
                    && pool.size <= longest(&base)
                    && base.nth(pool.size, 0).is_some()
            };
            if !base.is_some_and(is_good) {
                let value = format!("{{ base = {:?}, size = {} }}", pool.base, pool.size);
                return refuse("network.pools", &value, "must be subnets and a prefix that is not shorter");
            }
        }
        let folders = |key, paths: &[PathBuf]| match paths.iter().find(|path| !path.is_absolute()) {
            Some(path) => refuse(key, &path.display().to_string(), "must be absolute paths"),
            None => Ok(()),
        };
        folders("network.cni_configurations", &self.cni_configurations)?;
        folders("network.cni_plugins", &self.cni_plugins)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_interface_subnet_or_path_can_be_is_refused() {
        let check = |change: fn(&mut Network)| {
            let mut network = Network::default();
            change(&mut network);
            network.check().is_ok()
        };
        assert!(check(|_| {}));
        assert!(check(|n| n.bridge = "br-0.1_x".into()));
        assert!(check(|n| n.subnet = "10.88.0.1/16".into()));
        assert!(!check(|n| n.bridge = "..".into()));
        assert!(!check(|n| n.bridge = "all".into()));
        assert!(!check(|n| n.bridge = "a\" drop".into()));
        assert!(!check(|n| n.bridge = "sixteen-letters-".into()));
        assert!(!check(|n| n.bridge = "a*".into()));
        assert!(!check(|n| n.subnet = "10.88.0.255/24".into()));
        assert!(!check(|n| n.subnet = "10.88.0.1/31".into()));
        assert!(!check(|n| n.subnet = "127.0.0.1/8".into()));
        assert!(!check(|n| n.subnet = "fd00::1/64".into()));
        assert!(!check(|n| n.table = "a b".into()));
        assert!(!check(|n| n.pools = vec![Pool { base: "10.0.0.0/8".into(), size: 31 }]));
        assert!(!check(|n| n.pools = vec![Pool { base: "224.0.0.0/8".into(), size: 24 }]));
        assert!(check(|n| n.pools = vec![Pool { base: "fd00::/48".into(), size: 64 }]));
        assert!(!check(|n| n.cni_plugins = vec!["bin".into()]));
    }
}
