//! Containers whose network is set up by CNI plugins.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::join::{Joined, Namespace};
use crate::engine::Engine;
use crate::engine::config::{NetworkMode, Record};
use crate::engine::registry::Entry;
use crate::error::Result;
use crate::network::cni::Attachment;
use crate::network::ports::Published;
use crate::network::sandbox::{CNI_INTERFACE, Owner};

impl Engine {
    /// A namespace that the plugins of a configuration have set up.
    pub(super) async fn join_cni(
        self: &Arc<Self>,
        id: &str,
        record: &Record,
        network: &str,
    ) -> Result<Joined> {
        let owner = Owner { container: id.to_owned(), name: record.name.clone() };
        let mut sandbox = self.networks.sandbox(&owner, &[]).await?;
        self.reserve_ports(&owner, record, &mut sandbox).await?;
        let attachment = Attachment {
            container: id.to_owned(),
            namespace: sandbox.path(),
            interface: CNI_INTERFACE.to_owned(),
            args: "IgnoreUnknown=1".to_owned(),
            capabilities: capabilities(record, sandbox.published()),
            serial: rand::random(),
        };
        let dns = sandbox.attach(network, attachment).await?;
        Ok(Joined {
            namespace: Namespace::At(sandbox.path()),
            hosts: self.hosts_lines(record, &[])?,
            dns,
            sandbox: Some(sandbox),
            ..Joined::default()
        })
    }

    /// A container has ended: its plugins take back what they have made. What fails is tried again when the daemon starts.
    pub(in crate::engine) async fn leave_cni(&self, entry: &Entry) {
        if !entry.read(|record| matches!(record.config.network, NetworkMode::Cni(_))) {
            return;
        }
        if let Err(error) = self.networks.cni.del(&entry.id, CNI_INTERFACE, "").await {
            tracing::warn!(container = %entry.id, "its CNI network is not taken back yet: {error}");
        }
    }

    /// After a start of the daemon: attachments of containers that have ended are taken back.
    pub(super) async fn recover_cni(&self) {
        let kept = match self.networks.cni.kept() {
            Ok(kept) => kept,
            Err(error) => return tracing::warn!("CNI attachments cannot be looked at: {error}"),
        };
        for (container, interface) in kept {
            let live = self.registry.get(&container).is_some_and(|entry| entry.status().is_live());
            let networks = self.networks.clone();
            // Plugins may take their time; nothing waits for these.
            self.background.spawn(async move {
                if live {
                    if let Err(error) = networks.cni.check(&container, &interface).await {
                        tracing::warn!(%container, "its CNI network is not as it was made: {error}");
                    }
                    return;
                }
                if let Err(error) = networks.cni.del(&container, &interface, "").await {
                    tracing::warn!(%container, "its CNI network is not taken back yet: {error}");
                }
            });
        }
    }
}

/// What plugins that can do it are asked for.
fn capabilities(record: &Record, published: &[Published]) -> Map<String, Value> {
    let config = &record.config;
    let mut all = Map::new();
    let mappings: Vec<Value> = published
        .iter()
        // One without an address is for both families.
        .filter(|port| !(port.host_ip.is_ipv6() && port.host_ip.is_unspecified()))
        .map(|port| {
            let host = if port.host_ip.is_unspecified() { String::new() } else { port.host_ip.to_string() };
            json!({
                "hostPort": port.host_port, "containerPort": port.container_port,
                "protocol": port.protocol.name(), "hostIP": host,
            })
        })
        .collect();
    if !mappings.is_empty() {
        all.insert("portMappings".to_owned(), Value::Array(mappings));
    }
    if !(config.dns.is_empty() && config.dns_search.is_empty() && config.dns_options.is_empty()) {
        let dns = json!({
            "servers": config.dns, "searches": config.dns_search, "options": config.dns_options,
        });
        all.insert("dns".to_owned(), dns);
    }
    if let Some(endpoint) = config.endpoints.first() {
        if !endpoint.mac.is_empty() {
            all.insert("mac".to_owned(), json!(endpoint.mac));
        }
        let ips: Vec<&String> =
            [&endpoint.ipv4, &endpoint.ipv6].into_iter().filter(|ip| !ip.is_empty()).collect();
        if !ips.is_empty() {
            all.insert("ips".to_owned(), json!(ips));
        }
    }
    all
}
