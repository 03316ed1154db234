//! What the host's packet filter does for networks and published ports.
//!
//! What always holds: everything is in one table of our own, named by the configuration; no other table is touched, and no
//! packet that another table drops gets through. What is published stays so while no daemon runs.

mod kernel;
mod ruleset;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cidr::Cidr;
use super::endpoint::EndpointState;
use super::ports::{self, Ports, Published};
use super::record::{Driver, Network};
use crate::config::PublishMode;
use crate::engine::config::{PortBinding, Protocol};
use crate::error::{Error, Result};
use kernel::Element;
use longshore_proto::longshore::shim::v1::{HeldPort, held_port};
use ruleset::Outside;

/// What the rules know of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rules {
    bridge: String,
    subnets: Vec<Cidr>,
    internal: bool,
    masquerade: bool,
    /// Whether its containers may talk to each other.
    talk: bool,
}

impl From<&Network> for Rules {
    fn from(network: &Network) -> Rules {
        Rules {
            bridge: network.bridge.clone(),
            subnets: network.subnets().map(|subnet| subnet.net).collect(),
            internal: network.internal,
            masquerade: network.masquerades(),
            talk: network.connects_containers(),
        }
    }
}

/// The host's packet filter.
pub struct Firewall {
    /// Name of our table.
    table: String,
    mode: PublishMode,
    ports: Ports,
    state: Mutex<State>,
    /// Held while `nft` runs: transactions follow one another.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// By network id.
    networks: BTreeMap<String, Rules>,
    /// By container.
    published: BTreeMap<String, Exposure>,
    /// What the rules say now.
    outside: Option<Outside>,
}

/// What one container publishes.
#[derive(Clone, Default)]
struct Exposure {
    ports: Vec<Published>,
    elements: Vec<Element>,
}

impl Firewall {
    pub fn new(config: &crate::config::Network) -> Firewall {
        Firewall {
            table: config.table(),
            mode: config.publish,
            ports: Ports::default(),
            state: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before the first endpoint of a network, and for each one with an interface after a start of the daemon.
    pub async fn network_up(&self, network: &Network) -> Result<()> {
        if network.driver != Driver::Bridge {
            return Ok(());
        }
        let rules = Rules::from(network);
        let before = self.state().networks.insert(network.id.clone(), rules.clone());
        if before.as_ref() == Some(&rules) && self.state().outside.is_some() {
            return Ok(());
        }
        let written = self.write().await;
        if written.is_err() && before.is_none() {
            self.state().networks.remove(&network.id);
        }
        written
    }

    pub async fn network_down(&self, network: &Network) -> Result<()> {
        if self.state().networks.remove(&network.id).is_none() {
            return Ok(());
        }
        self.write().await
    }

    /// Brings the table to what is known.
    async fn write(&self) -> Result<()> {
        let _turn = self.writing.lock().await;
        let networks: Vec<Rules> = self.state().networks.values().cloned().collect();
        if networks.is_empty() {
            self.state().outside = None;
            return kernel::run(&ruleset::removal(&self.table)).await;
        }
        let outside = self.outside()?;
        let networks: Vec<&Rules> = networks.iter().collect();
        kernel::run(&ruleset::text(&self.table, &networks, outside)).await?;
        self.state().outside = Some(outside);
        Ok(())
    }

    fn outside(&self) -> Result<Outside> {
        Ok(match self.mode {
            PublishMode::Translate => Outside::Translated,
            PublishMode::Proxy => Outside::Filtered,
            PublishMode::Auto if kernel::input_is_filtered(&self.table)? => Outside::Filtered,
            PublishMode::Auto => Outside::Translated,
        })
    }

    /// Before a container's process runs: finds and opens ports for its wishes.
    pub async fn publish(
        &self,
        container: &str,
        name: &str,
        wishes: &[PortBinding],
        binding: Option<IpAddr>,
        endpoints: &[EndpointState],
    ) -> Result<Vec<Published>> {
        let everywhere = binding.map_or_else(ports::everywhere, |address| vec![address]);
        let name = |error| Error::Port { endpoint: endpoint_name(name, endpoints), source: error };
        let published = self.ports.take(container, wishes, &everywhere).map_err(name)?;
        let opened = async {
            // The host's firewall may be another than when the rules were written.
            let differs = {
                let outside = self.outside()?;
                self.state().outside != Some(outside)
            };
            // Without endpoints of ours nothing is for the rules to do.
            if differs && !endpoints.is_empty() {
                self.write().await?;
            }
            let elements = elements(&published, endpoints);
            kernel::add(&self.table, &elements)?;
            reflect(endpoints);
            self.state()
                .published
                .insert(container.to_owned(), Exposure { ports: published.clone(), elements });
            Ok(())
        };
        match opened.await {
            Ok(()) => Ok(published),
            Err(error) => {
                self.ports.release(container);
                Err(error)
            }
        }
    }

    /// When it has ended.
    pub fn unpublish(&self, container: &str) {
        let exposure = self.state().published.remove(container);
        if let Some(exposure) = exposure
            && let Err(error) = kernel::remove(&self.table, &exposure.elements)
        {
            tracing::error!(container, %error, "ports of a container that has ended are still translated");
        }
        self.ports.release(container);
    }

    /// It was connected or disconnected.
    pub async fn endpoints_changed(&self, container: &str, endpoints: &[EndpointState]) -> Result<()> {
        let Some(exposure) = self.state().published.get(container).cloned() else { return Ok(()) };
        let new = elements(&exposure.ports, endpoints);
        if new != exposure.elements {
            kernel::change(&self.table, &exposure.elements, &new)?;
            reflect(endpoints);
            let exposure = Exposure { elements: new, ..exposure };
            self.state().published.insert(container.to_owned(), exposure);
        }
        Ok(())
    }

    /// It has run since before the daemon was started. What it publishes is in the table; [`Firewall::settle`] makes sure.
    pub fn recovered(&self, container: &str, published: &[Published], endpoints: &[EndpointState]) {
        if published.is_empty() {
            return;
        }
        self.ports.are_taken(container, published);
        let exposure = Exposure { ports: published.to_vec(), elements: elements(published, endpoints) };
        self.state().published.insert(container.to_owned(), exposure);
    }

    /// After a start of the daemon, when all containers are known: ports of those that have ended meanwhile are closed.
    pub async fn settle(&self) -> Result<()> {
        let (known, elements) = {
            let state = self.state();
            let elements: Vec<Element> =
                state.published.values().flat_map(|exposure| exposure.elements.clone()).collect();
            (!state.networks.is_empty(), elements)
        };
        let _turn = self.writing.lock().await;
        if !known {
            // A table that is left is of networks that are gone.
            return kernel::remove_table(&self.table);
        }
        let mut text = ruleset::forget_published(&self.table);
        elements.iter().for_each(|element| text.push_str(&ruleset::element(&self.table, element)));
        kernel::run(&text).await
    }
}

/// Lets a container reach itself by a published port: where bridges' packets go through the packet filter (br_netfilter), they
/// are sent back to the interface that they came from. Elsewhere the host routes them, and this changes nothing.
fn reflect(endpoints: &[EndpointState]) {
    for endpoint in endpoints.iter().filter(|endpoint| !endpoint.host_interface.is_empty()) {
        let path = format!("/sys/class/net/{}/brport/hairpin_mode", endpoint.host_interface);
        if let Err(error) = std::fs::write(&path, "1") {
            tracing::debug!("{path} cannot be set: {error}: the container may not reach itself by its ports");
        }
    }
}

/// What the shim of a container holds.
pub fn held(published: &[Published], endpoints: &[EndpointState]) -> Vec<HeldPort> {
    let (v4, v6) = targets(endpoints);
    published
        .iter()
        .map(|port| {
            let target = if port.host_ip.is_ipv6() { v6.or(v4) } else { v4.or(v6) };
            HeldPort {
                protocol: match port.protocol {
                    Protocol::Tcp => held_port::Protocol::Tcp,
                    Protocol::Udp => held_port::Protocol::Udp,
                    Protocol::Sctp => held_port::Protocol::Sctp,
                }
                .into(),
                host_ip: port.host_ip.to_string(),
                host_port: port.host_port.into(),
                target_ip: target.map(|target| target.to_string()).unwrap_or_default(),
                target_port: port.container_port.into(),
            }
        })
        .collect()
}

/// The addresses that published ports lead to: those of the network with the way out.
fn targets(endpoints: &[EndpointState]) -> (Option<IpAddr>, Option<IpAddr>) {
    let by_gateway = |endpoint: &&EndpointState| {
        let gateway = endpoint.ipv4.is_some_and(|v4| v4.gateway.is_some());
        (!gateway, std::cmp::Reverse(endpoint.priority), endpoint.name.clone())
    };
    let v4 = endpoints.iter().filter(|endpoint| endpoint.ipv4.is_some()).min_by_key(by_gateway);
    let v6 = endpoints.iter().filter(|endpoint| endpoint.ipv6.is_some()).min_by_key(by_gateway);
    let v4 = v4.and_then(|endpoint| endpoint.ipv4).map(|v4| v4.address.into());
    (v4, v6.and_then(|endpoint| endpoint.ipv6).map(|v6| v6.address.into()))
}

fn elements(published: &[Published], endpoints: &[EndpointState]) -> Vec<Element> {
    let (v4, v6) = targets(endpoints);
    let translated = published.iter().filter_map(|port| {
        let target = if port.host_ip.is_ipv6() { v6 } else { v4 };
        // Loopback addresses are the shim's to serve.
        let target = target.filter(|_| !port.host_ip.is_loopback())?;
        Some(Element {
            protocol: port.protocol.number(),
            host: port.host_ip,
            port: port.host_port,
            target,
            target_port: port.container_port,
        })
    });
    translated.collect()
}

/// As docker names an endpoint in its errors.
fn endpoint_name(name: &str, endpoints: &[EndpointState]) -> String {
    let id = endpoints.first().map(|endpoint| endpoint.id.as_str()).unwrap_or_default();
    format!("{name} ({id})")
}
