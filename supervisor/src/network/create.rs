//! Networks come to be: the three that are always there, and those that users make.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::choose::{self, Stock};
use super::cidr::{Cidr, Family, number};
use super::record::{BRIDGE, Chosen, Driver, HOST, NONE, Network, Subnet, option};
use super::refusal::Refusal;
use super::{Networks, Place, Table, new_id};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::metadata::{Db, Reader, tables};
use crate::namespaces::Namespace;

/// Most networks.
const MAX_NETWORKS: usize = 4096;

/// What a user asks of a subnet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedSubnet {
    pub net: String,
    pub gateway: String,
    pub range: String,
    pub auxiliary: BTreeMap<String, String>,
}

/// A network that a user wants.
#[derive(Clone, Debug, Default)]
pub struct WantedNetwork {
    pub name: String,
    /// Empty: bridge.
    pub driver: String,
    pub subnets: Vec<WantedSubnet>,
    /// Also with no IPv6 subnet named.
    pub ipv6: bool,
    pub internal: bool,
    pub attachable: bool,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
}

impl Networks {
    /// Reads the networks back and makes those that are always there.
    pub async fn open(
        namespace: &Namespace,
        config: &Arc<Config>,
        db: &Arc<Db>,
        uuid: &str,
    ) -> Result<Arc<Networks>> {
        let digest = Sha256::digest(uuid.as_bytes());
        let global = u128::from_be_bytes([
            0xfd, digest[0], digest[1], digest[2], digest[3], digest[4], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ]);
        let prefix = Cidr::new(Family::V6.address(global), 48)
            .ok_or(Error::Lost { what: "choosing a prefix for IPv6" })?;
        let mut table = Table::default();
        for row in db.list(&tables::NETWORKS, namespace)? {
            table.places.insert(row.record.id.clone(), Place::new(Arc::new(row.record)));
        }
        let networks = Networks {
            namespace: namespace.clone(),
            config: config.clone(),
            db: db.clone(),
            kernel: Default::default(),
            firewall: Arc::new(super::firewall::Firewall::new(&config.network, &config.state)),
            dns: super::dns::Dns::new(&config.state),
            cni: super::cni::Cni::new(
                config.network.cni_configurations.clone(),
                config.network.cni_plugins.clone(),
                config.root.join("cni"),
            ),
            prefix,
            runtime: tokio::runtime::Handle::current(),
            table: Mutex::new(table),
        };
        for (name, driver) in [(HOST, Driver::Host), (NONE, Driver::Null)] {
            if networks.find(name).is_err() {
                networks.keep(without_subnets(name, driver)).await?;
            }
        }
        networks.settle_default().await?;
        Ok(Arc::new(networks))
    }

    /// The default network is as it is configured: made if it is not there, changed if the configuration was.
    async fn settle_default(&self) -> Result<()> {
        let own = &self.config.network;
        let wanted = WantedSubnet { net: own.subnet.clone(), ..WantedSubnet::default() };
        let asked = if own.subnet.is_empty() { Vec::new() } else { vec![wanted] };
        let old = self.find(BRIDGE).ok();
        if let Some(old) = &old {
            let subnet = old.ipv4.as_ref();
            let same =
                own.subnet.is_empty() || subnet.is_some_and(|subnet| own.subnet.parse() == Ok(subnet.net));
            if same && old.bridge == own.bridge {
                return Ok(());
            }
        }
        let taken = self.routes().await.unwrap_or_default();
        let mut network = without_subnets(BRIDGE, Driver::Bridge);
        if let Some(old) = old {
            network.id.clone_from(&old.id);
            self.table().places.remove(&old.id);
        }
        network.bridge.clone_from(&own.bridge);
        network.options = [
            (option::DEFAULT_BRIDGE, "true"),
            (option::ICC, "true"),
            (option::MASQUERADE, "true"),
            (option::HOST_BINDING, "0.0.0.0"),
            (option::BRIDGE_NAME, own.bridge.as_str()),
            (option::MTU, "1500"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        let wanted = WantedNetwork { subnets: asked, ..WantedNetwork::default() };
        self.choose_subnets(&mut network, &wanted, &taken)?;
        // A configured subnet names the bridge's own address, too.
        if let (Some(subnet), Some((address, _))) = (&mut network.ipv4, own.subnet.split_once('/'))
            && let Ok(address) = address.parse::<IpAddr>()
            && address != subnet.net.first()
        {
            subnet.gateway = address;
        }
        self.keep(network).await?;
        Ok(())
    }

    /// Makes a network; durable when it returns. Its interface is made when the first container comes.
    pub async fn create(&self, wanted: &WantedNetwork) -> Result<Arc<Network>> {
        check_name(&wanted.name)?;
        let driver = match wanted.driver.as_str() {
            "" | "default" | "bridge" => Driver::Bridge,
            "host" => {
                return Err(Refusal::Conflicting("only one instance of \"host\" network is allowed").into());
            }
            "null" => {
                return Err(Refusal::Conflicting("only one instance of \"null\" network is allowed").into());
            }
            other => return Err(Refusal::NoDriver(other.to_owned()).into()),
        };
        let mut network = without_subnets(&wanted.name, driver);
        network.internal = wanted.internal;
        network.attachable = wanted.attachable;
        network.labels.clone_from(&wanted.labels);
        network.options.clone_from(&wanted.options);
        network.bridge = match wanted.options.get(option::BRIDGE_NAME) {
            Some(name) if !name.is_empty() => name.clone(),
            _ => format!("ls-{}", &network.id[..12]),
        };
        check_options(&network)?;
        let taken = self.routes().await.unwrap_or_else(|error| {
            tracing::warn!("the host's routes cannot be read, so subnets may clash with them: {error}");
            Vec::new()
        });
        if self.interface_exists(&network.bridge).await? {
            return Err(Error::invalid(
                format!("bridge name {}", network.bridge),
                "the host has an interface of this name already",
            ));
        }
        self.choose_subnets(&mut network, wanted, &taken)?;
        self.keep(network).await
    }

    /// Subnets and addresses of the host's.
    async fn routes(&self) -> Result<Vec<Cidr>> {
        let read = |host: &mut super::kernel::Host| {
            let mut found = host.netlink.routes()?;
            let own = host.netlink.addresses()?;
            found.extend(own.into_iter().filter_map(|(_, address, prefix)| Cidr::new(address, prefix)));
            Ok(found)
        };
        self.kernel
            .run("reading routes", move |host| {
                read(host).map_err(|source| Error::network("reading the routes of", "the host", source))
            })
            .await
    }

    async fn interface_exists(&self, name: &str) -> Result<bool> {
        let name = name.to_owned();
        self.kernel
            .run("looking for an interface", move |host| {
                let found = host.netlink.link(&name);
                Ok(found.map_err(|source| Error::network("looking for interface", &name, source))?.is_some())
            })
            .await
    }

    fn choose_subnets(&self, network: &mut Network, wanted: &WantedNetwork, routes: &[Cidr]) -> Result<()> {
        let others: Vec<Cidr> =
            self.all().iter().flat_map(|other| other.subnets().map(|s| s.net).collect::<Vec<_>>()).collect();
        for wanted in &wanted.subnets {
            let family = if wanted.net.is_empty() { Family::V4 } else { cidr(&wanted.net)?.family() };
            let slot = match family {
                Family::V4 => &mut network.ipv4,
                Family::V6 => &mut network.ipv6,
            };
            if slot.is_some() {
                return Err(Refusal::ManySubnets.into());
            }
            *slot = Some(self.subnet(wanted, family, &others, routes)?);
        }
        let nothing = WantedSubnet::default();
        if network.ipv4.is_none() {
            network.ipv4 = Some(self.subnet(&nothing, Family::V4, &others, routes)?);
        }
        if network.ipv6.is_none() && wanted.ipv6 {
            network.ipv6 = Some(self.subnet(&nothing, Family::V6, &others, routes)?);
        }
        Ok(())
    }

    fn subnet(
        &self,
        wanted: &WantedSubnet,
        family: Family,
        others: &[Cidr],
        routes: &[Cidr],
    ) -> Result<Subnet> {
        let (net, chosen) = if wanted.net.is_empty() {
            let taken: Vec<Cidr> = others.iter().chain(routes).copied().collect();
            let net = choose::choose(&self.stocks(), family, &taken);
            let name = if family == Family::V4 { "IPv4" } else { "IPv6" };
            (net.ok_or(Refusal::NoPool { family: name })?, Chosen::ByDaemon)
        } else {
            let net = cidr(&wanted.net)?;
            if others.iter().any(|other| other.overlaps(&net)) {
                return Err(Refusal::Overlap.into());
            }
            (net, Chosen::ByUser)
        };
        let inside = |what: &'static str, text: &str| -> Result<IpAddr> {
            let refuse = || Refusal::NoSubnet { what, address: text.to_owned() };
            // docker takes a gateway with a prefix, too.
            let address: IpAddr = text.split('/').next().unwrap_or_default().parse().map_err(|_| refuse())?;
            Ok(net.contains(&address).then_some(address).ok_or_else(refuse)?)
        };
        let range = match wanted.range.as_str() {
            "" => None,
            text => {
                let range = cidr(text)?;
                let refuse = || Refusal::NoSubnet { what: "range", address: text.to_owned() };
                Some(net.covers(&range).then_some(range).ok_or_else(refuse)?)
            }
        };
        let mut auxiliary = BTreeMap::new();
        for (name, text) in &wanted.auxiliary {
            auxiliary.insert(name.clone(), inside("aux-address", text)?);
        }
        let gateway = match wanted.gateway.as_str() {
            "" => first_host(&range.unwrap_or(net), &net, &auxiliary),
            text => inside("gateway", text)?,
        };
        Ok(Subnet { net, gateway, range, auxiliary, chosen })
    }

    fn stocks(&self) -> Vec<Stock> {
        let configured = self.config.network.pools.iter();
        let mut stocks: Vec<Stock> = configured
            .filter_map(|pool| Some(Stock { base: pool.base.parse().ok()?, size: pool.size }))
            .collect();
        if !stocks.iter().any(|stock| stock.base.family() == Family::V6) {
            stocks.push(Stock { base: self.prefix, size: 64 });
        }
        stocks
    }

    /// Makes a network exist, in memory at once so that nobody else takes its name or subnets.
    async fn keep(&self, network: Network) -> Result<Arc<Network>> {
        let network = Arc::new(network);
        {
            let mut table = self.table();
            if table.places.len() >= MAX_NETWORKS {
                return Err(Error::ResourceExhausted {
                    what: format!("network {}", network.name),
                    limit: "networks",
                    max: MAX_NETWORKS as u64,
                });
            }
            let others = || table.places.values().map(|place| &place.network);
            if others().any(|other| other.name == network.name) {
                return Err(Refusal::NameInUse(network.name.clone()).into());
            }
            let overlaps = others()
                .flat_map(|other| other.subnets())
                .any(|other| network.subnets().any(|own| own.net.overlaps(&other.net)));
            if overlaps {
                return Err(Refusal::Overlap.into());
            }
            if !network.bridge.is_empty() && others().any(|other| other.bridge == network.bridge) {
                return Err(Error::invalid(
                    format!("bridge name {}", network.bridge),
                    "another network has it already",
                ));
            }
            table.places.insert(network.id.clone(), Place::new(network.clone()));
        }
        let written =
            self.db.write(|tx| tx.put(&tables::NETWORKS, &self.namespace, &network.id, &*network)).await;
        if let Err(error) = written {
            self.table().places.remove(&network.id);
            return Err(error);
        }
        Ok(network)
    }
}

fn without_subnets(name: &str, driver: Driver) -> Network {
    Network {
        id: new_id(),
        name: name.to_owned(),
        driver,
        bridge: String::new(),
        ipv4: None,
        ipv6: None,
        internal: false,
        attachable: false,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        created_at: Timestamp::now(),
    }
}

fn cidr(text: &str) -> Result<Cidr> {
    text.parse().map_err(|error: super::cidr::NoCidr| Error::invalid("subnet", error.to_string()))
}

/// The first address that a host may have and that is nobody's.
fn first_host(range: &Cidr, net: &Cidr, auxiliary: &BTreeMap<String, IpAddr>) -> IpAddr {
    let small = net.prefix() + 1 >= net.family().bits();
    let mut candidate = range.first_number();
    if candidate == net.first_number() && !small {
        candidate += 1;
    }
    while candidate < range.last_number() && auxiliary.values().any(|other| number(other) == candidate) {
        candidate += 1;
    }
    net.family().address(candidate)
}

/// docker's rule for names of things.
fn check_name(name: &str) -> Result<()> {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if name.is_empty() {
        return Err(Error::invalid("invalid name", "name is empty"));
    }
    if matches!(name, BRIDGE | HOST | NONE | "default") {
        return Err(Refusal::Predefined(name.to_owned()).into());
    }
    if !first || !rest || name.len() > 255 {
        let what = format!("invalid name \"{name}\"");
        return Err(Error::invalid(what, "only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed"));
    }
    Ok(())
}

fn check_options(network: &Network) -> Result<()> {
    let name = &network.bridge;
    if !crate::config::is_interface_name(name) {
        return Err(Error::invalid(
            format!("bridge name {name}"),
            "an interface's name has up to 15 letters, digits, dots, dashes and underscores",
        ));
    }
    for (key, value) in &network.options {
        let good = match key.as_str() {
            option::BRIDGE_NAME => true,
            option::MTU => value.parse::<u32>().is_ok_and(|mtu| (68..=65535).contains(&mtu)),
            option::ICC | option::MASQUERADE => super::record::truth(value).is_some(),
            option::HOST_BINDING => value.parse::<IpAddr>().is_ok(),
            option::DEFAULT_BRIDGE | option::IFACE_PREFIX => {
                return Err(Error::invalid(format!("option {key}"), "not built in this version"));
            }
            // As docker: kept for those who asked for it.
            _ => true,
        };
        if !good {
            return Err(Error::invalid(
                format!("option {key}"),
                format!("{value}: not a value that it takes"),
            ));
        }
    }
    Ok(())
}
