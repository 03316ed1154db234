//! Networks of containers.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::network::cidr::Cidr;

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
            cni_configurations: vec!["/etc/cni/net.d".into()],
            cni_plugins: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
        }
    }
}

/// More would keep the kernel busy with nothing.
const MAX_POOL: usize = 64;

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
        let name = &self.bridge;
        if name.is_empty()
            || name.len() > 15
            || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        {
            return refuse("network.bridge", name, "must be 1 to 15 letters, digits, '-', '_' or '.'");
        }
        let host = |text: &str| {
            text.split('/').next().is_some_and(|a| a.parse::<IpAddr>().is_ok_and(|a| a.is_ipv4()))
        };
        if !self.subnet.is_empty() && (self.subnet.parse::<Cidr>().is_err() || !host(&self.subnet)) {
            return refuse(
                "network.subnet",
                &self.subnet,
                "must be an IPv4 address and a prefix, as in 10.88.0.1/16",
            );
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
        for pool in &self.pools {
            let base = pool.base.parse::<Cidr>();
            if !base.is_ok_and(|base| base.nth(pool.size, 0).is_some()) {
                let value = format!("{{ base = {:?}, size = {} }}", pool.base, pool.size);
                return refuse("network.pools", &value, "must be subnets and a prefix that is not shorter");
            }
        }
        Ok(())
    }
}
