//! The Kubernetes adapter.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// The Kubernetes adapter.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cri {
    /// Where pods' networks come from.
    pub network: PodNetworks,
    /// Where exec, attach and port-forward are served.
    pub stream_address: IpAddr,
    /// 0: chosen by the kernel.
    pub stream_port: u16,
    /// After how many seconds without a byte such a connection ends.
    pub stream_idle_seconds: u64,
    /// Most such connections.
    pub stream_max_connections: usize,
}

/// Where pods' networks come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodNetworks {
    /// From CNI where it is configured, else from the default network.
    #[default]
    Auto,
    /// From CNI; there is none before it is configured.
    Cni,
    /// From the default network, whatever is configured.
    BuiltIn,
}

impl Default for Cri {
    fn default() -> Self {
        Self {
            network: PodNetworks::Auto,
            stream_address: Ipv4Addr::LOCALHOST.into(),
            stream_port: 0,
            stream_idle_seconds: 4 * 60 * 60,
            stream_max_connections: 1000,
        }
    }
}

impl Cri {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let refused =
            |key, value: &dyn ToString, why| Err(ConfigError::Value { key, value: value.to_string(), why });
        if !(1..=100_000).contains(&self.stream_max_connections) {
            return refused(
                "cri.stream_max_connections",
                &self.stream_max_connections,
                "must be 1 to 100000",
            );
        }
        if !(1..=365 * 24 * 60 * 60).contains(&self.stream_idle_seconds) {
            return refused("cri.stream_idle_seconds", &self.stream_idle_seconds, "must be 1 to 31536000");
        }
        Ok(())
    }
}
