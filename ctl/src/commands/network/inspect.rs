//! `longshore network inspect`: everything about networks.

use longshore_proto::longshore::engine::v1::{Network, NetworkAttachment, NetworkMember};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::inspect::{self, Kind, Sizes};
use crate::failure::Failure;
use crate::fields;
use crate::output::human;
use crate::output::value::Value;

#[derive(clap::Args)]
pub struct Args {
    /// `json`, or a Go template such as {{.Driver}}
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Verbose output for diagnostics: there is no more than without
    #[arg(short, long)]
    verbose: bool,
    /// Names or ids
    #[arg(value_name = "NETWORK", required = true)]
    networks: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Display detailed information on one or more networks";
    const USAGE: &'static str = "[OPTIONS] NETWORK [NETWORK...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let format = self.format.as_deref();
        inspect::show(context, &self.networks, format, &[Kind::Network], Sizes::Left).await
    }
}

/// docker's JSON of a network.
pub fn network(found: &Network) -> Value {
    let mut members: Vec<(String, Value)> =
        found.members.iter().map(|member| (member.container_id.clone(), member_value(member))).collect();
    members.sort_by(|a, b| a.0.cmp(&b.0));
    let configs: Vec<Value> = found
        .subnets
        .iter()
        .map(|subnet| {
            let mut fields = vec![("Subnet".to_string(), Value::from(subnet.subnet.as_str()))];
            if !subnet.ip_range.is_empty() {
                fields.push(("IPRange".into(), subnet.ip_range.as_str().into()));
            }
            fields.push(("Gateway".into(), subnet.gateway.as_str().into()));
            if !subnet.auxiliary.is_empty() {
                fields.push(("AuxiliaryAddresses".into(), Value::from(&subnet.auxiliary)));
            }
            Value::Struct(fields)
        })
        .collect();
    fields! {
        "Name" => found.name.as_str(),
        "Id" => found.id.as_str(),
        "Created" => human::rfc3339(found.created_at.as_ref()),
        "Scope" => "local",
        "Driver" => found.driver.as_str(),
        "EnableIPv6" => found.ipv6,
        "IPAM" => fields! {
            "Driver" => "default",
            // Only a bridge has addresses to give out.
            "Options" => if found.driver == "bridge" { Value::Map(Vec::new()) } else { Value::Null },
            "Config" => Value::List(configs),
        },
        "Internal" => found.internal,
        "Attachable" => found.attachable,
        "Ingress" => false,
        "ConfigFrom" => fields! { "Network" => "" },
        "ConfigOnly" => false,
        "Containers" => Value::Map(members),
        "Options" => &found.options,
        "Labels" => &found.labels,
    }
}

fn member_value(member: &NetworkMember) -> Value {
    let own = member.attachment.clone().unwrap_or_default();
    let with_prefix = |address: &str, prefix: u32| match address {
        "" => String::new(),
        address => format!("{address}/{prefix}"),
    };
    fields! {
        "Name" => member.name.as_str(),
        "EndpointID" => own.endpoint_id.as_str(),
        "MacAddress" => own.mac.as_str(),
        "IPv4Address" => with_prefix(&own.ipv4, own.ipv4_prefix),
        "IPv6Address" => with_prefix(&own.ipv6, own.ipv6_prefix),
    }
}

/// What of a container's inspection is about networks; `ports` is what it publishes.
pub fn settings(sandbox: &str, attachments: &[NetworkAttachment], ports: Value) -> Value {
    let live = attachments.iter().any(|one| !one.endpoint_id.is_empty());
    let default = attachments.iter().find(|one| one.network == "bridge").cloned().unwrap_or_default();
    let mut networks: Vec<(String, Value)> =
        attachments.iter().map(|one| (one.network.clone(), attachment(one))).collect();
    networks.sort_by(|a, b| a.0.cmp(&b.0));
    fields! {
        "Bridge" => "",
        "SandboxID" => if live { sandbox_id(attachments) } else { String::new() },
        "HairpinMode" => false,
        "LinkLocalIPv6Address" => "",
        "LinkLocalIPv6PrefixLen" => 0_i64,
        "Ports" => ports,
        "SandboxKey" => sandbox,
        "SecondaryIPAddresses" => Value::Null,
        "SecondaryIPv6Addresses" => Value::Null,
        "EndpointID" => default.endpoint_id.as_str(),
        "Gateway" => default.gateway4.as_str(),
        "GlobalIPv6Address" => default.ipv6.as_str(),
        "GlobalIPv6PrefixLen" => default.ipv6_prefix,
        "IPAddress" => default.ipv4.as_str(),
        "IPPrefixLen" => default.ipv4_prefix,
        "IPv6Gateway" => default.gateway6.as_str(),
        "MacAddress" => default.mac.as_str(),
        "Networks" => Value::Map(networks),
    }
}

/// One namespace has one: it is named after its first endpoint.
fn sandbox_id(attachments: &[NetworkAttachment]) -> String {
    attachments.first().map(|one| one.endpoint_id.clone()).unwrap_or_default()
}

fn attachment(one: &NetworkAttachment) -> Value {
    let asked = one.asked.clone().unwrap_or_default();
    let fixed = !(asked.ipv4.is_empty() && asked.ipv6.is_empty() && asked.link_local.is_empty());
    let ipam = match fixed {
        true => {
            let mut fields = Vec::new();
            for (name, text) in [("IPv4Address", &asked.ipv4), ("IPv6Address", &asked.ipv6)] {
                if !text.is_empty() {
                    fields.push((name.to_string(), Value::from(text.as_str())));
                }
            }
            Value::Struct(fields)
        }
        false => Value::Null,
    };
    let list = |items: &[String]| match items {
        [] => Value::Null,
        items => Value::from(items.to_vec()),
    };
    fields! {
        "IPAMConfig" => ipam,
        "Links" => list(&asked.links),
        "Aliases" => list(&asked.aliases),
        "NetworkID" => one.network_id.as_str(),
        "EndpointID" => one.endpoint_id.as_str(),
        "Gateway" => one.gateway4.as_str(),
        "IPAddress" => one.ipv4.as_str(),
        "IPPrefixLen" => one.ipv4_prefix,
        "IPv6Gateway" => one.gateway6.as_str(),
        "GlobalIPv6Address" => one.ipv6.as_str(),
        "GlobalIPv6PrefixLen" => one.ipv6_prefix,
        "MacAddress" => one.mac.as_str(),
        "DriverOpts" => match asked.driver_options.is_empty() {
            true => Value::Null,
            false => Value::from(&asked.driver_options),
        },
        "GwPriority" => i64::from(asked.gateway_priority),
        "DNSNames" => list(&one.names),
    }
}
