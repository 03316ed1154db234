//! How a container that starts comes by its network: a namespace with interfaces, nobody's, the host's or another
//! container's.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use crate::engine::Engine;
use crate::engine::config::{ContainerConfig, Endpoint, NetworkMode, Record};
use crate::engine::process::{FirstProcess, path_of};
use crate::engine::registry::Entry;
use crate::error::{Error, Result};
use crate::network::endpoint::{EndpointState, Link, Mac};
use crate::network::record::{BRIDGE, Driver};
use crate::network::refusal::Refusal;
use crate::network::sandbox::{Owner, Sandbox, Wanted};

/// Containers that share one namespace by way of each other.
const MAX_CHAIN: usize = 8;

/// Most networks of one container.
const MAX_NETWORKS: usize = 64;

/// The network namespace of a container's spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Namespace {
    /// The runtime makes one, with a loopback interface.
    #[default]
    New,
    /// The host's: none is named.
    Host,
    /// An existing one.
    At(String),
}

/// What a start needs to know of the container's network.
#[derive(Default)]
pub struct Joined {
    /// Given back when it is dropped.
    pub sandbox: Option<Sandbox>,
    pub namespace: Namespace,
    /// What it names as long as this is open.
    pub held: Vec<OwnedFd>,
    /// The folder of the container whose files of /etc are shared.
    pub files: Option<PathBuf>,
    /// The hostname that is shared with them.
    pub hostname: Option<String>,
    /// Lines for /etc/hosts.
    pub hosts: Vec<String>,
    /// What its network says of names.
    pub dns: crate::network::cni::Dns,
}

impl Joined {
    pub fn published(&self) -> &[crate::network::ports::Published] {
        self.sandbox.as_ref().map_or(&[], Sandbox::published)
    }

    pub fn endpoints(&self) -> &[EndpointState] {
        self.sandbox.as_ref().map_or(&[], Sandbox::endpoints)
    }
}

/// What a container asks of its networks, the one of its mode first.
pub fn normalised(config: &ContainerConfig) -> Vec<Endpoint> {
    let mode = match &config.network {
        NetworkMode::Default => BRIDGE,
        NetworkMode::Named(name) => name.as_str(),
        NetworkMode::None | NetworkMode::Host | NetworkMode::Container(_) | NetworkMode::Cni(_) => {
            return config.endpoints.clone();
        }
    };
    let mut endpoints = config.endpoints.clone();
    match endpoints.first_mut() {
        Some(first) if first.network.is_empty() || first.network == "default" => {
            mode.clone_into(&mut first.network);
        }
        Some(first) if first.network == mode => {}
        _ => endpoints.insert(0, Endpoint { network: mode.to_owned(), ..Endpoint::default() }),
    }
    endpoints
}

/// What can be refused before anything is looked up.
pub fn check(config: &ContainerConfig) -> Result<()> {
    let refuse = |text| Err(Refusal::Conflicting(text).into());
    let links = config.endpoints.iter().any(|endpoint| !endpoint.links.is_empty());
    let macs = config.endpoints.iter().any(|endpoint| !endpoint.mac.is_empty());
    match &config.network {
        NetworkMode::Container(name) if name.is_empty() => {
            return refuse("invalid network mode: invalid container format container:<name|id>");
        }
        NetworkMode::Container(_) => {
            for (conflicts, text) in [
                (!config.hostname.is_empty(), "conflicting options: hostname and the network mode"),
                (!config.dns.is_empty(), "conflicting options: dns and the network mode"),
                (
                    !config.extra_hosts.is_empty(),
                    "conflicting options: custom host-to-IP mapping and the network mode",
                ),
                (macs, "conflicting options: mac-address and the network mode"),
                (
                    links,
                    "conflicting options: container type network can't be used with links. This would result in undefined behavior",
                ),
                (
                    config.publish_all || !config.publish.is_empty(),
                    "conflicting options: port publishing and the container type network mode",
                ),
                (
                    !config.expose.is_empty(),
                    "conflicting options: port exposing and the container type network mode",
                ),
            ] {
                if conflicts {
                    return refuse(text);
                }
            }
        }
        NetworkMode::Host if links => {
            return refuse(
                "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
            );
        }
        _ => {}
    }
    let shares = !matches!(config.network, NetworkMode::Default | NetworkMode::Named(_));
    if shares && config.endpoints.iter().any(|endpoint| !endpoint.network.is_empty()) {
        return refuse(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
        );
    }
    if config.endpoints.len() > MAX_NETWORKS {
        return Err(Error::ResourceExhausted {
            what: "container config".to_owned(),
            limit: "networks of one container",
            max: MAX_NETWORKS as u64,
        });
    }
    let mut names: Vec<String> = normalised(config).into_iter().map(|endpoint| endpoint.network).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::invalid(
            format!("network \"{}\"", pair[0]),
            "network is specified multiple times",
        ));
    }
    super::publish::check(&config.expose)?;
    config.endpoints.iter().try_for_each(|endpoint| parse(endpoint).map(drop))?;
    super::hosts::check(&config.extra_hosts)
}

/// What of an endpoint's texts means something to the kernel.
pub fn parse(endpoint: &Endpoint) -> Result<Wanted> {
    let ipv4: Option<Ipv4Addr> = match endpoint.ipv4.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| {
            Error::invalid(format!("invalid IPv4 address: {text}"), "write it as in 10.1.2.3")
        })?),
    };
    let ipv6: Option<Ipv6Addr> = match endpoint.ipv6.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| {
            Error::invalid(format!("invalid IPv6 address: {text}"), "write it as in fd00::2")
        })?),
    };
    let mac = match endpoint.mac.as_str() {
        "" => None,
        text => {
            let mac: Mac = text.parse().map_err(|error: crate::network::endpoint::NoMac| {
                Error::invalid("mac-address", error.to_string())
            })?;
            if !mac.is_usable() {
                return Err(Error::invalid(
                    "mac-address",
                    format!("{text} is of a group, not of an interface"),
                ));
            }
            Some(mac)
        }
    };
    if !endpoint.link_local.is_empty() {
        return Err(Error::invalid("link-local addresses", "not built in this version"));
    }
    let links = endpoint.links.iter().map(|text| {
        let (container, alias) = text.split_once(':').unwrap_or((text, text));
        let bare = alias.rsplit('/').next().unwrap_or(alias);
        if container.is_empty() || bare.is_empty() {
            return Err(Error::invalid(format!("bad format for links: {text}"), "write NAME[:ALIAS]"));
        }
        Ok(Link { container: container.to_owned(), alias: bare.to_owned() })
    });
    Ok(Wanted {
        network: String::new(),
        ipv4,
        ipv6,
        mac,
        aliases: endpoint.aliases.clone(),
        links: links.collect::<Result<_>>()?,
        priority: endpoint.gateway_priority,
        driver_options: endpoint.driver_options.clone(),
    })
}

impl Engine {
    /// What a container wants of networks that are there.
    pub(super) fn wanted(&self, config: &ContainerConfig) -> Result<Vec<Wanted>> {
        normalised(config).iter().map(|endpoint| self.wanted_of(endpoint)).collect()
    }

    pub(super) fn wanted_of(&self, endpoint: &Endpoint) -> Result<Wanted> {
        let network = self.networks.find(&endpoint.network)?;
        if network.driver != Driver::Bridge {
            return Err(Refusal::NoneIsAlone.into());
        }
        let mut wanted = parse(endpoint)?;
        if network.is_predefined() {
            if !wanted.aliases.is_empty() {
                return Err(Refusal::AliasOnPredefined.into());
            }
            if wanted.ipv4.is_some() || wanted.ipv6.is_some() {
                return Err(Refusal::FixedAddressOnPredefined.into());
            }
        }
        wanted.network.clone_from(&network.id);
        Ok(wanted)
    }

    /// Makes what a container needs to start.
    pub(in crate::engine) async fn join_networks(
        self: &Arc<Self>,
        id: &str,
        record: &Record,
    ) -> Result<Joined> {
        match &record.config.network {
            NetworkMode::None => Ok(Joined { hosts: self.hosts_lines(record, &[])?, ..Joined::default() }),
            NetworkMode::Host => Ok(Joined {
                namespace: Namespace::Host,
                hosts: super::hosts::extra(&record.config.extra_hosts, None)?,
                ..Joined::default()
            }),
            NetworkMode::Container(name) => {
                let target = self.find(name)?;
                let (running, pid) = target.read(|record| (record.state.status.is_live(), record.state.pid));
                if !running || pid == 0 || target.id == id {
                    return Err(Refusal::TargetStopped(target.id.clone()).into());
                }
                let namespace = FirstProcess::of(pid, &target.id)?.namespace("net")?;
                Ok(Joined {
                    namespace: Namespace::At(path_of(&namespace)),
                    held: vec![namespace],
                    files: Some(self.folder(&self.files_of(&target).id)),
                    hostname: Some(self.hostname_of(&target)),
                    ..Joined::default()
                })
            }
            NetworkMode::Cni(name) => self.join_cni(id, record, name).await,
            NetworkMode::Default | NetworkMode::Named(_) => {
                let wanted = self.wanted(&record.config)?;
                let owner = Owner { container: id.to_owned(), name: record.name.clone() };
                let mut sandbox = self.networks.sandbox(&owner, &wanted).await?;
                self.open_ports(&owner, record, &mut sandbox).await?;
                self.write_names(id, record, sandbox.endpoints())?;
                Ok(Joined {
                    namespace: Namespace::At(sandbox.path()),
                    hosts: self.hosts_lines(record, sandbox.endpoints())?,
                    sandbox: Some(sandbox),
                    ..Joined::default()
                })
            }
        }
    }

    /// The container whose files of /etc another one uses.
    pub(in crate::engine) fn files_of(&self, entry: &Arc<Entry>) -> Arc<Entry> {
        let mut entry = entry.clone();
        for _ in 0..MAX_CHAIN {
            let mode = entry.read(|record| record.config.network.clone());
            match mode {
                NetworkMode::Container(name) => match self.find(&name) {
                    Ok(next) => entry = next,
                    Err(_) => break,
                },
                _ => break,
            }
        }
        entry
    }

    /// The hostname of a container, which may be another's, too.
    fn hostname_of(&self, entry: &Arc<Entry>) -> String {
        let owner = self.files_of(entry);
        owner.read(|record| {
            crate::engine::etc::hostname(&record.config.hostname, &owner.id, &record.config.network)
        })
    }

    /// A container has started with these; the world is told.
    pub(in crate::engine) fn joined(&self, entry: &Entry) {
        for endpoint in entry.read(|record| record.state.endpoints.clone()) {
            if let Ok(network) = self.networks.find(&endpoint.network) {
                self.network_happened(&network, "connect", Some(entry));
            }
        }
    }

    /// A container has ended: what it had of networks is given back.
    pub(in crate::engine) fn leave_networks(self: &Arc<Self>, entry: &Entry) {
        let endpoints = entry.change(|record| {
            record.state.ports.clear();
            std::mem::take(&mut record.state.endpoints)
        });
        self.networks.firewall.unpublish(&entry.id);
        self.networks.dns.forget_container(&entry.id);
        for endpoint in &endpoints {
            if let Ok(network) = self.networks.find(&endpoint.network) {
                self.network_happened(&network, "disconnect", Some(entry));
            }
        }
        self.networks.release(&endpoints);
    }

    /// After a start of the daemon: the addresses of containers that run are theirs.
    pub(in crate::engine) async fn recover_networks(self: &Arc<Self>) {
        let mut live = std::collections::HashSet::new();
        for entry in self.registry.all().into_iter().filter(|entry| entry.status().is_live()) {
            let record = entry.record();
            if !matches!(record.config.network, NetworkMode::Default | NetworkMode::Named(_)) {
                self.networks.firewall.recovered(&entry.id, &record.state.ports, &[]);
                continue;
            }
            let owner = Owner { container: entry.id.clone(), name: record.name.clone() };
            let mut endpoints = record.state.endpoints.clone();
            if endpoints.is_empty() {
                match self.look_at_networks(&entry.id, &record).await {
                    Ok(found) => endpoints = found,
                    Err(error) => {
                        tracing::warn!(container = %entry.id, "it is not known what it has of networks: {error}");
                    }
                }
                entry.change(|record| record.state.endpoints.clone_from(&endpoints));
                self.save_state_soon(&entry);
            }
            self.networks.is_there(&owner, &endpoints);
            self.networks.firewall.recovered(&entry.id, &record.state.ports, &endpoints);
            live.insert(entry.id.clone());
        }
        if let Err(error) = self.networks.reconcile().await {
            tracing::error!("networks are not reconciled with the kernel and the packet filter: {error}");
        }
        self.recover_cni().await;
        self.networks.dns.keep_containers(&live);
        self.networks.all().iter().for_each(|network| self.networks.names_changed(&network.id));
    }

    async fn look_at_networks(&self, id: &str, record: &Record) -> Result<Vec<EndpointState>> {
        let wanted = self.wanted(&record.config)?;
        let namespace = FirstProcess::of(record.state.pid, id)?.namespace("net")?;
        self.networks.find_out(namespace, &wanted).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(mode: &str, endpoints: &[&str]) -> ContainerConfig {
        ContainerConfig {
            network: mode.to_owned().into(),
            endpoints: endpoints
                .iter()
                .map(|name| Endpoint { network: (*name).to_owned(), ..Endpoint::default() })
                .collect(),
            ..ContainerConfig::default()
        }
    }

    #[test]
    fn the_network_of_the_mode_comes_first() {
        let names = |mode: &str, endpoints: &[&str]| -> Vec<String> {
            normalised(&config(mode, endpoints)).into_iter().map(|endpoint| endpoint.network).collect()
        };
        assert_eq!(names("", &[]), ["bridge"]);
        assert_eq!(names("bridge", &[""]), ["bridge"]);
        assert_eq!(names("a", &[""]), ["a"]);
        assert_eq!(names("a", &["a", "b"]), ["a", "b"]);
        assert_eq!(names("a", &["b"]), ["a", "b"]);
        assert!(names("none", &[]).is_empty());
    }

    #[test]
    fn contradictions_are_refused_in_dockers_words() {
        let mut shared = config("container:x", &[]);
        check(&shared).unwrap();
        shared.hostname = "h".to_owned();
        let text = check(&shared).unwrap_err().to_string();
        assert_eq!(text, "conflicting options: hostname and the network mode");
        assert!(check(&config("a", &["a", "a"])).is_err());
        assert!(check(&config("host", &["a"])).is_err());
        let mut bad = config("a", &["a"]);
        bad.endpoints[0].ipv4 = "10.0.0.300".to_owned();
        assert!(check(&bad).is_err());
    }
}
