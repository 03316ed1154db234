//! What the host's packet filter does for networks and published ports.

use super::endpoint::EndpointState;
use super::record::Network;
use crate::engine::config::ContainerConfig;
use crate::error::Result;

/// A port that is published.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Published {
    pub container_port: u16,
    pub protocol: crate::engine::config::Protocol,
    pub host_ip: std::net::IpAddr,
    pub host_port: u16,
}

/// The host's packet filter.
#[derive(Default)]
pub struct Firewall {}

impl Firewall {
    /// Before the first endpoint of a network, and for each one with an interface after a start of the daemon.
    pub async fn network_up(&self, _network: &Network) -> Result<()> {
        Ok(())
    }

    pub async fn network_down(&self, _network: &Network) -> Result<()> {
        Ok(())
    }

    /// Before a container's process runs.
    pub async fn publish(
        &self,
        _container: &str,
        _config: &ContainerConfig,
        _endpoints: &[EndpointState],
    ) -> Result<Vec<Published>> {
        Ok(Vec::new())
    }

    /// When it has ended.
    pub async fn unpublish(&self, _container: &str) {}

    /// It was connected or disconnected.
    pub async fn endpoints_changed(&self, _container: &str, _endpoints: &[EndpointState]) -> Result<()> {
        Ok(())
    }

    /// It has run since before the daemon was started.
    pub async fn recovered(&self, _container: &str, _pid: u32, _endpoints: &[EndpointState]) -> Result<()> {
        Ok(())
    }
}
