//! Networks on the wire.

use longshore_proto::longshore::engine::v1 as wire;

use crate::engine::network::{Attachment, NetworkMember};
use crate::network::create::{WantedNetwork, WantedSubnet};
use crate::network::record::{Network, Subnet};

pub fn wanted_network(request: wire::CreateNetworkRequest) -> WantedNetwork {
    let subnet = |subnet: wire::Subnet| WantedSubnet {
        net: subnet.subnet,
        gateway: subnet.gateway,
        range: subnet.ip_range,
        auxiliary: subnet.auxiliary.into_iter().collect(),
    };
    WantedNetwork {
        name: request.name,
        driver: request.driver,
        subnets: request.subnets.into_iter().map(subnet).collect(),
        ipv6: request.ipv6,
        internal: request.internal,
        attachable: request.attachable,
        labels: request.labels.into_iter().collect(),
        options: request.options.into_iter().collect(),
    }
}

pub fn network(network: &Network, members: Vec<NetworkMember>) -> wire::Network {
    let member = |member: NetworkMember| wire::NetworkMember {
        container_id: member.container,
        name: member.name,
        attachment: Some(attachment(member.attachment)),
    };
    wire::Network {
        id: network.id.clone(),
        name: network.name.clone(),
        driver: network.driver.name().to_owned(),
        created_at: Some(super::timestamp(network.created_at)),
        subnets: network.subnets().map(subnet).collect(),
        ipv6: network.ipv6.is_some(),
        internal: network.internal,
        attachable: network.attachable,
        labels: network.labels.clone().into_iter().collect(),
        options: network.options.clone().into_iter().collect(),
        members: members.into_iter().map(member).collect(),
        bridge: network.bridge.clone(),
    }
}

fn subnet(subnet: &Subnet) -> wire::Subnet {
    wire::Subnet {
        subnet: subnet.net.to_string(),
        gateway: subnet.gateway.to_string(),
        ip_range: subnet.range.map(|range| range.to_string()).unwrap_or_default(),
        auxiliary: subnet
            .auxiliary
            .iter()
            .map(|(name, address)| (name.clone(), address.to_string()))
            .collect(),
    }
}

pub fn attachment(from: Attachment) -> wire::NetworkAttachment {
    let mut to = wire::NetworkAttachment {
        network: from.network,
        network_id: from.network_id,
        asked: Some(super::config::endpoint_to_wire(from.asked)),
        names: from.names,
        ..wire::NetworkAttachment::default()
    };
    let Some(state) = from.state else { return to };
    to.endpoint_id = state.id;
    to.mac = state.mac.to_string();
    to.interface = state.interface;
    if let Some(v4) = state.ipv4 {
        to.ipv4 = v4.address.to_string();
        to.ipv4_prefix = v4.prefix.into();
        to.gateway4 = v4.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
    }
    if let Some(v6) = state.ipv6 {
        to.ipv6 = v6.address.to_string();
        to.ipv6_prefix = v6.prefix.into();
        to.gateway6 = v6.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
    }
    to
}
