//! The flags about networks, ports and names.

use longshore_proto::longshore::engine::v1::{ContainerConfig, Endpoint};

use crate::failure::Failure;
use crate::parse::{address, network, port};

#[derive(clap::Args)]
#[group(skip)]
pub struct Flags {
    /// Add a custom host-to-IP mapping; the address host-gateway is the host's
    #[arg(long, value_name = "HOST:IP", value_parser = address::extra_host)]
    add_host: Vec<String>,
    /// Set custom DNS servers
    #[arg(long, value_name = "IP", value_parser = address::dns)]
    dns: Vec<String>,
    /// Set DNS options
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Set custom DNS search domains; `.` for none
    #[arg(long, value_name = "DOMAIN", value_parser = address::domain)]
    dns_search: Vec<String>,
    /// Container NIS domain name
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
    /// Expose a port or a range of ports
    #[arg(long, value_name = "PORT[-PORT][/PROTOCOL]")]
    expose: Vec<String>,
    /// Container host name
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,
    /// IPv4 address (e.g., 172.30.100.104)
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// IPv6 address (e.g., 2001:db8::33)
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    /// Add link to another container
    #[arg(long, value_name = "CONTAINER[:ALIAS]", value_parser = network::link)]
    link: Vec<String>,
    /// Container IPv4/IPv6 link-local addresses
    #[arg(long, value_name = "ADDRESS")]
    link_local_ip: Vec<String>,
    /// Container MAC address (e.g., 92:d0:c6:0a:29:33)
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<String>,
    /// Connect the container to a network: `bridge`, `host`, `none`, `container:NAME`, `cni:NAME`, a network's name, or
    /// `name=NAME,alias=…,ip=…,ip6=…,mac-address=…,link-local-ip=…,driver-opt=KEY=VALUE,gw-priority=N`
    #[arg(long, visible_alias = "net", value_name = "NETWORK", value_parser = network::attachment)]
    network: Vec<Endpoint>,
    /// Add network-scoped alias for the container
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,
    /// Publish a container's port(s) to the host
    #[arg(short, long, value_name = "[[ADDRESS:]HOST:]PORT[/PROTOCOL]")]
    publish: Vec<String>,
    /// Publish all exposed ports to random ports
    #[arg(short = 'P', long)]
    publish_all: bool,
}

impl Flags {
    /// Writes down what was asked for.
    pub fn fill(self, config: &mut ContainerConfig) -> Result<(), Failure> {
        config.expose = all(&self.expose, port::expose)?;
        config.publish = all(&self.publish, port::publish)?;
        config.publish_all = self.publish_all;
        config.hostname = self.hostname.clone().unwrap_or_default();
        config.domainname = self.domainname.clone().unwrap_or_default();
        config.dns = self.dns.clone();
        config.dns_options = self.dns_option.clone();
        config.dns_search = self.dns_search.clone();
        config.extra_hosts = self.add_host.clone();
        config.network_mode = match self.network.first() {
            Some(first) if first.network.trim().is_empty() => {
                return Err(Failure::Refused("no name set for network".into()));
            }
            Some(first) => first.network.clone(),
            None => String::new(),
        };
        config.endpoints = self.endpoints()?;
        Ok(())
    }

    /// The flags that name no network are about the first.
    fn endpoints(self) -> Result<Vec<Endpoint>, Failure> {
        let several = self.network.len() > 1;
        let mut endpoints = self.network.clone();
        if endpoints.is_empty() {
            endpoints.push(Endpoint::default());
        }
        if let Some(first) = endpoints.first_mut() {
            self.into_first(first)?;
        }
        let mut names: Vec<&str> = Vec::new();
        for endpoint in &mut endpoints {
            check(endpoint)?;
        }
        for endpoint in &endpoints {
            if names.contains(&endpoint.network.as_str()) {
                return Err(Failure::Refused(format!(
                    "network {:?} is specified multiple times",
                    endpoint.network
                )));
            }
            names.push(&endpoint.network);
        }
        if several
            && names.iter().any(|name| !network::is_user_defined(name))
            && names.iter().any(|name| network::is_user_defined(name))
        {
            return Err(Failure::Refused(
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
                    .into(),
            ));
        }
        let plain = |endpoint: &Endpoint| {
            *endpoint == Endpoint { network: endpoint.network.clone(), ..Endpoint::default() }
        };
        if !several && endpoints.iter().all(plain) {
            endpoints.clear();
        }
        Ok(endpoints)
    }

    fn into_first(self, first: &mut Endpoint) -> Result<(), Failure> {
        let both = |flag: &str, what: &str| {
            Err(Failure::Refused(format!(
                "conflicting options: cannot specify both --{flag} and per-network {what}"
            )))
        };
        if !self.network_alias.is_empty() {
            if !first.aliases.is_empty() {
                return both("network-alias", "alias");
            }
            first.aliases = self.network_alias;
        }
        if let Some(address) = self.ip {
            if !first.ipv4.is_empty() {
                return both("ip", "IPv4 address");
            }
            first.ipv4 = address;
        }
        if let Some(address) = self.ip6 {
            if !first.ipv6.is_empty() {
                return both("ip6", "IPv6 address");
            }
            first.ipv6 = address;
        }
        if let Some(address) = self.mac_address {
            if !first.mac.is_empty() {
                return both("mac-address", "MAC address");
            }
            first.mac = address;
        }
        if !self.link_local_ip.is_empty() {
            if !first.link_local.is_empty() {
                return both("link-local-ip", "link-local IP addresses");
            }
            first.link_local = self.link_local_ip;
        }
        first.links = self.link;
        Ok(())
    }
}

fn check(endpoint: &mut Endpoint) -> Result<(), Failure> {
    if !network::is_user_defined(&endpoint.network) && !endpoint.aliases.is_empty() {
        return Err(Failure::Refused(
            "network-scoped aliases are only supported for user-defined networks".into(),
        ));
    }
    if !endpoint.mac.is_empty() {
        endpoint.mac = address::mac(&endpoint.mac).map_err(Failure::Refused)?;
    }
    Ok(())
}

fn all<T>(texts: &[String], parse: fn(&str) -> Result<Vec<T>, String>) -> Result<Vec<T>, Failure> {
    let mut found = Vec::new();
    for text in texts {
        found.extend(parse(text).map_err(Failure::Refused)?);
    }
    Ok(found)
}
