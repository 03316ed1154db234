//! `longshore network connect`: connect a container to a network, also while it runs.

use longshore_proto::longshore::engine::v1::{ConnectRequest, Endpoint};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::parse::{number, pairs};

#[derive(clap::Args)]
pub struct Args {
    /// Add network-scoped alias for the container
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Driver options for the network
    #[arg(long, value_name = "KEY=VALUE", value_parser = pairs::label)]
    driver_opt: Vec<(String, String)>,
    /// The network with the highest has the default route
    #[arg(long, value_name = "NUMBER", value_parser = number::integer)]
    gw_priority: Option<i64>,
    /// IPv4 address (e.g., 172.30.100.104)
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// IPv6 address (e.g., 2001:db8::33)
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    /// Add link to another container
    #[arg(long, value_name = "CONTAINER[:ALIAS]")]
    link: Vec<String>,
    /// Add a link-local address for the container
    #[arg(long, value_name = "ADDRESS")]
    link_local_ip: Vec<String>,
    /// Name or id of the network
    #[arg(value_name = "NETWORK", required = true)]
    network: String,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER", required = true)]
    container: String,
}

impl Verb for Args {
    const ABOUT: &'static str = "Connect a container to a network";
    const USAGE: &'static str = "[OPTIONS] NETWORK CONTAINER";
    const ARGUMENTS: Arguments = Arguments::Exactly(2);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let endpoint = Endpoint {
            network: self.network,
            aliases: self.alias,
            ipv4: self.ip.unwrap_or_default(),
            ipv6: self.ip6.unwrap_or_default(),
            link_local: self.link_local_ip,
            links: self.link,
            driver_options: self.driver_opt.into_iter().collect(),
            gateway_priority: i32::try_from(self.gw_priority.unwrap_or(0))
                .map_err(|_| Failure::message("invalid gw-priority: out of range"))?,
            ..Endpoint::default()
        };
        let request = ConnectRequest { container: self.container, endpoint: Some(endpoint) };
        context.networks().await?.connect_container(request).await?;
        Ok(0)
    }
}
