//! `longshore network create`: make a network.

use longshore_proto::longshore::engine::v1::{CreateNetworkRequest, Subnet};

use crate::cli::{Arguments, Unbuilt, Verb, long};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::print;
use crate::parse::pairs;

#[derive(clap::Args)]
pub struct Args {
    /// Kept for compatibility: containers can be attached to every network
    #[arg(long)]
    attachable: bool,
    /// Auxiliary IPv4 or IPv6 addresses that something else has
    #[arg(long, value_name = "NAME=ADDRESS", value_parser = pairs::label)]
    aux_address: Vec<(String, String)>,
    /// Driver to manage the network
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    driver: String,
    /// IPv4 or IPv6 gateway for the subnet
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<String>,
    /// Restrict external access to the network
    #[arg(long)]
    internal: bool,
    /// Allocate container addresses from a sub-range
    #[arg(long, value_name = "SUBNET")]
    ip_range: Vec<String>,
    /// Enable IPv6 networking
    #[arg(long)]
    ipv6: bool,
    /// Set meta data on a network
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = pairs::label)]
    label: Vec<(String, String)>,
    /// Set driver specific options
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pairs::label)]
    opt: Vec<(String, String)>,
    /// Subnet in CIDR format that represents a network segment
    #[arg(long, value_name = "SUBNET")]
    subnet: Vec<String>,
    /// Name of the network
    #[arg(value_name = "NETWORK", required = true)]
    name: String,
}

impl Verb for Args {
    const ABOUT: &'static str = "Create a network";
    const USAGE: &'static str = "[OPTIONS] NETWORK";
    const ARGUMENTS: Arguments = Arguments::Exactly(1);
    const UNBUILT: &'static [Unbuilt] = &[
        long("config-from"),
        long("config-only"),
        long("ingress"),
        long("ipam-driver"),
        long("ipam-opt"),
        long("ipv4"),
        long("scope"),
    ];

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let subnets = self.subnets()?;
        let request = CreateNetworkRequest {
            name: self.name,
            driver: self.driver,
            subnets,
            ipv6: self.ipv6,
            internal: self.internal,
            attachable: self.attachable,
            labels: self.label.into_iter().collect(),
            options: self.opt.into_iter().collect(),
        };
        let made = context.networks().await?.create(request).await?.into_inner();
        for warning in &made.warnings {
            print::note(format!("WARNING: {warning}"));
        }
        print::line(&made.id)?;
        Ok(0)
    }
}

impl Args {
    /// Each gateway, range and address belongs to the subnet that it is in.
    fn subnets(&self) -> Result<Vec<Subnet>, Failure> {
        let mut subnets: Vec<Subnet> = self
            .subnet
            .iter()
            .flat_map(|text| text.split(','))
            .map(|text| Subnet { subnet: text.trim().to_string(), ..Subnet::default() })
            .collect();
        let count = |texts: &[String]| texts.iter().flat_map(|text| text.split(',')).count();
        if subnets.len() < count(&self.ip_range).max(count(&self.gateway)) {
            return Err(Failure::message("every ip-range or gateway must have a corresponding subnet"));
        }
        for subnet in &subnets {
            Net::parse(&subnet.subnet)
                .ok_or_else(|| Failure::message(format!("invalid CIDR address: {}", subnet.subnet)))?;
        }
        for range in self.ip_range.iter().flat_map(|text| text.split(',')) {
            let net = Net::parse(range);
            let net = net.ok_or_else(|| Failure::message(format!("invalid CIDR address: {range}")))?;
            let subnet = holder(&mut subnets, &net.address)
                .ok_or_else(|| Failure::message(format!("no matching subnet for range {range}")))?;
            if !subnet.ip_range.is_empty() {
                return Err(Failure::message(format!(
                    "cannot configure multiple ranges ({range}, {}) on the same subnet ({})",
                    subnet.ip_range, subnet.subnet
                )));
            }
            subnet.ip_range = range.to_string();
        }
        for gateway in self.gateway.iter().flat_map(|text| text.split(',')) {
            let subnet = address(gateway).and_then(|address| holder(&mut subnets, &address));
            let subnet = subnet
                .ok_or_else(|| Failure::message(format!("no matching subnet for gateway {gateway}")))?;
            if !subnet.gateway.is_empty() {
                return Err(Failure::message(format!(
                    "cannot configure multiple gateways ({gateway}, {}) for the same subnet ({})",
                    subnet.gateway, subnet.subnet
                )));
            }
            subnet.gateway = gateway.to_string();
        }
        for (name, text) in &self.aux_address {
            let subnet = address(text).and_then(|address| holder(&mut subnets, &address));
            let subnet = subnet
                .ok_or_else(|| Failure::message(format!("no matching subnet for aux-address {text}")))?;
            subnet.auxiliary.insert(name.clone(), text.clone());
        }
        Ok(subnets)
    }
}

/// An address, also with a prefix behind it.
fn address(text: &str) -> Option<std::net::IpAddr> {
    text.split('/').next()?.parse().ok()
}

struct Net {
    address: std::net::IpAddr,
    prefix: u32,
}

impl Net {
    fn parse(text: &str) -> Option<Net> {
        let (first, prefix) = text.split_once('/')?;
        let net = Net { address: first.parse().ok()?, prefix: prefix.parse().ok()? };
        (net.prefix <= if net.address.is_ipv4() { 32 } else { 128 }).then_some(net)
    }

    fn contains(&self, address: &std::net::IpAddr) -> bool {
        use std::net::IpAddr::{V4, V6};
        match (self.address, address) {
            (V4(net), V4(other)) => {
                (u32::from(net) ^ u32::from(*other)).checked_shr(32 - self.prefix).unwrap_or(0) == 0
            }
            (V6(net), V6(other)) => {
                (u128::from(net) ^ u128::from(*other)).checked_shr(128 - self.prefix).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

fn holder<'a>(subnets: &'a mut [Subnet], address: &std::net::IpAddr) -> Option<&'a mut Subnet> {
    subnets.iter_mut().find(|subnet| Net::parse(&subnet.subnet).is_some_and(|net| net.contains(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_subnets() {
        let inside = |net: &str, address: &str| Net::parse(net).unwrap().contains(&address.parse().unwrap());
        assert!(inside("10.1.0.0/16", "10.1.200.3"));
        assert!(!inside("10.1.0.0/16", "10.2.0.1"));
        assert!(inside("0.0.0.0/0", "9.9.9.9"));
        assert!(inside("fd00::/64", "fd00::9"));
        assert!(!inside("fd00::/64", "10.0.0.1"));
        assert!(Net::parse("10.0.0.0/33").is_none());
    }
}
