//! What the host's packet filter does for networks and published ports.
//!
//! What always holds: everything is in one table of our own, named by the configuration; no other table is touched, and no
//! packet that another table drops gets through. What is published stays so while no daemon runs. A table that somebody
//! emptied is noticed at the next start of a container, and written again.

pub mod forwarding;
mod kernel;
mod ruleset;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cidr::Cidr;
use super::endpoint::EndpointState;
use super::ports::{self, Ports, Published};
use super::record::{Driver, Network};
use crate::config::PublishMode;
use crate::engine::config::{PortBinding, Protocol};
use crate::error::{Error, Result};
use forwarding::{Forwarding, Ours};
use kernel::{Element, Leads, StalePort};
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
    pub forwarding: Forwarding,
    runtime: tokio::runtime::Handle,
    state: Mutex<State>,
    /// Held while the table is changed: transactions follow one another.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// By network id.
    networks: BTreeMap<String, Rules>,
    /// By container.
    published: BTreeMap<String, Exposure>,
    /// What the table says now; `None`: it is not there, or not known.
    written: Option<Written>,
}

/// What the rules were made of, besides networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    outside: Outside,
    forwarding: Ours,
    /// How many there are.
    rules: usize,
}

/// What becomes of published ports when the rules are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maps {
    /// They stay as they are.
    Kept,
    /// They are made to be what is known.
    Anew,
}

/// What one container publishes.
#[derive(Clone, Default)]
struct Exposure {
    ports: Vec<Published>,
    elements: Vec<Element>,
}

impl Firewall {
    pub fn new(config: &crate::config::Network, state: &Path) -> Firewall {
        Firewall {
            table: config.table(),
            mode: config.publish,
            ports: Ports::default(),
            forwarding: Forwarding::open(state, config.forward),
            runtime: tokio::runtime::Handle::current(),
            state: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before the first endpoint of a network.
    pub async fn network_up(&self, network: &Network) -> Result<()> {
        if network.driver != Driver::Bridge {
            return Ok(());
        }
        let rules = Rules::from(network);
        let before = self.state().networks.insert(network.id.clone(), rules.clone());
        let forwarding = self.forwarding.ours();
        let stands = |written: Written| written.forwarding == forwarding;
        if before.as_ref() == Some(&rules) && self.state().written.is_some_and(stands) {
            return Ok(());
        }
        let written = self.write(Maps::Kept).await;
        if written.is_err() && before.is_none() {
            self.state().networks.remove(&network.id);
        }
        written
    }

    pub async fn network_down(&self, network: &Network) -> Result<()> {
        if self.state().networks.remove(&network.id).is_none() {
            return Ok(());
        }
        self.write(Maps::Kept).await
    }

    /// Whether there are no networks.
    pub fn has_none(&self) -> bool {
        self.state().networks.is_empty()
    }

    /// After a start of the daemon, when all containers are known: one transaction brings the table from whatever it says to
    /// these networks and the ports of the containers that run.
    pub async fn recover(&self, networks: &[std::sync::Arc<Network>]) -> Result<()> {
        {
            let mut state = self.state();
            for network in networks.iter().filter(|network| network.driver == Driver::Bridge) {
                state.networks.insert(network.id.clone(), Rules::from(&**network));
            }
        }
        self.rewrite().await
    }

    /// Writes all of it.
    pub async fn rewrite(&self) -> Result<()> {
        self.write(Maps::Anew).await
    }

    async fn write(&self, maps: Maps) -> Result<()> {
        let _turn = self.writing.lock().await;
        self.write_now(maps).await
    }

    /// Brings the table to what is known. The caller has the turn.
    async fn write_now(&self, maps: Maps) -> Result<()> {
        let forwarding = self.forwarding.ours();
        let (networks, elements) = {
            let state = self.state();
            (state.networks.values().cloned().collect::<Vec<Rules>>(), state.elements())
        };
        if networks.is_empty() && !forwarding.any() {
            self.state().written = None;
            return kernel::remove_table(&self.table);
        }
        let outside = self.outside()?;
        let networks: Vec<&Rules> = networks.iter().collect();
        let mut text = ruleset::text(&self.table, &networks, outside, forwarding);
        let rules = ruleset::count(&text);
        if maps == Maps::Anew {
            text.push_str(&ruleset::published(&self.table, &elements));
        }
        kernel::run(&text).await?;
        self.state().written = Some(Written { outside, forwarding, rules });
        if maps == Maps::Anew {
            // Of containers that have ended meanwhile.
            let now = self.state().elements();
            let gone: Vec<Element> = elements.into_iter().filter(|one| !now.contains(one)).collect();
            kernel::remove(&self.table, &gone)?;
        }
        Ok(())
    }

    /// Before a container starts: rules that somebody took away (`nft flush ruleset`) are written again.
    pub async fn ensure(&self) -> Result<()> {
        let is_whole = || -> Result<bool> {
            let written = self.state().written;
            match written {
                Some(written) => Ok(kernel::count_rules(&self.table)? == written.rules),
                None => Ok(true),
            }
        };
        if is_whole()? {
            return Ok(());
        }
        // They may have been on their way.
        let _turn = self.writing.lock().await;
        if is_whole()? {
            return Ok(());
        }
        tracing::warn!(
            "the packet filter's table {} is not as it was written, and is written again",
            self.table
        );
        self.write_now(Maps::Anew).await
    }

    /// Changes elements; where the table is gone it is written again first. The caller has the turn.
    async fn change(&self, remove: &[Element], add: &[Element]) -> Result<()> {
        let change = || match remove {
            [] => kernel::add(&self.table, add),
            remove => kernel::change(&self.table, remove, add),
        };
        match change() {
            Err(error) if kernel::is_missing(&error) => {
                tracing::warn!("the packet filter's table {} is gone, and is written again", self.table);
                self.write_now(Maps::Anew).await?;
                change()
            }
            done => done,
        }
    }

    /// Ports for datagrams have come to lead elsewhere, or nowhere: who goes on sending is not led to where they led before.
    fn forget_flows(&self, elements: &[Element], leads: Leads) {
        let ports = StalePort::of(elements, leads);
        if ports.is_empty() {
            return;
        }
        let subnets: Vec<Cidr> =
            self.state().networks.values().flat_map(|rules| rules.subnets.clone()).collect();
        // A host may have very many flows to look at.
        self.runtime.spawn_blocking(move || {
            let ours = |address: &IpAddr| subnets.iter().any(|subnet| subnet.contains(address));
            if let Err(error) = kernel::forget_flows(&ports, ours) {
                tracing::warn!("flows to ports that lead elsewhere now cannot be ended: {error}");
            }
        });
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
                self.state().written.is_none_or(|written| written.outside != outside)
            };
            let _turn = self.writing.lock().await;
            // Without endpoints of ours nothing is for the rules to do.
            if differs && !endpoints.is_empty() {
                self.write_now(Maps::Kept).await?;
            }
            let elements = elements(&published, endpoints);
            self.change(&[], &elements).await?;
            reflect(endpoints);
            self.forget_flows(&elements, Leads::There);
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
        if let Some(exposure) = exposure {
            if let Err(error) = kernel::remove(&self.table, &exposure.elements) {
                tracing::error!(container, %error, "ports of a container that has ended are still translated");
            }
            self.forget_flows(&exposure.elements, Leads::Nowhere);
        }
        self.ports.release(container);
    }

    /// It was connected or disconnected.
    pub async fn endpoints_changed(&self, container: &str, endpoints: &[EndpointState]) -> Result<()> {
        let Some(exposure) = self.state().published.get(container).cloned() else { return Ok(()) };
        let new = elements(&exposure.ports, endpoints);
        if new != exposure.elements {
            let _turn = self.writing.lock().await;
            self.change(&exposure.elements, &new).await?;
            reflect(endpoints);
            self.forget_flows(&new, Leads::There);
            let exposure = Exposure { elements: new, ..exposure };
            self.state().published.insert(container.to_owned(), exposure);
        }
        Ok(())
    }

    /// It has run since before the daemon was started. What it publishes is in the table; [`Firewall::recover`] makes sure.
    pub fn recovered(&self, container: &str, published: &[Published], endpoints: &[EndpointState]) {
        if published.is_empty() {
            return;
        }
        self.ports.are_taken(container, published);
        let exposure = Exposure { ports: published.to_vec(), elements: elements(published, endpoints) };
        self.state().published.insert(container.to_owned(), exposure);
    }
}

impl State {
    fn elements(&self) -> Vec<Element> {
        self.published.values().flat_map(|exposure| exposure.elements.clone()).collect()
    }
}

/// What is there while br_netfilter is.
const BRIDGE_FILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Lets a container reach itself by a published port: where bridges' packets go through the packet filter (br_netfilter), they
/// are sent back to the interface that they came from. Elsewhere the host routes them, and nothing is set: the kernel spins on such
/// a file for as long as somebody else changes networks.
fn reflect(endpoints: &[EndpointState]) {
    if !Path::new(BRIDGE_FILTER).exists() {
        return;
    }
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
