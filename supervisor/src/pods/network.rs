//! A pod's network: by the CNI configuration of the host where there is one, else on the built-in default network.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::config::{PodConfig, Sharing};
use super::namespaces::Files;
use super::record::PodNetwork;
use super::users::Made;
use super::{Pods, bandwidth};
use crate::config::PodNetworks;
use crate::engine::config::PortBinding;
use crate::error::{Error, Result};
use crate::network::cni::{Attachment, NetworkList};
use crate::network::record::BRIDGE;
use crate::network::sandbox::{CNI_INTERFACE, Owner, Sandbox, Wanted};

/// Pauses between two attempts to take an attachment back.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// How often plugins are tried to be told which pods there are, if there is never a quiet moment.
const COLLECTIONS: u32 = 60;

/// A network that was set up and is taken back when this is dropped.
pub struct Network {
    pub record: PodNetwork,
    pub dns: crate::network::cni::Dns,
    sandbox: Option<Sandbox>,
}

impl Network {
    /// The pod has it now.
    pub fn keep(self) -> PodNetwork {
        if let Some(sandbox) = self.sandbox {
            sandbox.keep();
        }
        self.record
    }
}

impl Pods {
    /// Makes the pod's network namespace, held by a file, and what it has within. A failure after the plugins of CNI have run is
    /// undone by [`Pods::leave_network`].
    pub(super) async fn join_network(
        &self,
        id: &str,
        config: &PodConfig,
        files: &Files,
        made: Option<&Made>,
    ) -> Result<Network> {
        if config.namespaces.network == Sharing::Node {
            return Ok(Network {
                record: PodNetwork::default(),
                dns: crate::network::cni::Dns::default(),
                sandbox: None,
            });
        }
        let owner = Owner { container: id.to_owned(), name: config.name.to_string() };
        match self.cni_network().await? {
            Some(network) => self.by_plugins(&owner, config, files, network, made).await,
            None => self.built_in(&owner, config, files, made).await,
        }
    }

    /// The CNI network for pods; `None`: they get the built-in one.
    async fn cni_network(&self) -> Result<Option<NetworkList>> {
        if self.config.cri.network == PodNetworks::BuiltIn {
            return Ok(None);
        }
        self.or_none(self.cni.default_network().await?)
    }

    /// Whether pods can have networks, or why not.
    pub async fn network_is_ready(&self) -> Result<()> {
        if self.config.cri.network == PodNetworks::BuiltIn {
            return Ok(());
        }
        self.or_none(self.cni.status().await?).map(drop)
    }

    fn or_none<T>(&self, found: Option<T>) -> Result<Option<T>> {
        if found.is_some() || self.config.cri.network == PodNetworks::Auto {
            return Ok(found);
        }
        let folders: Vec<String> =
            self.cni.configurations().iter().map(|folder| folder.display().to_string()).collect();
        let why =
            format!("there is no CNI configuration in {} yet (cri.network = \"cni\")", folders.join(", "));
        Err(Error::precondition("the network of pods", why))
    }

    /// A namespace with interfaces, held by the pod's file.
    async fn hold_network(
        &self,
        owner: &Owner,
        wanted: &[Wanted],
        files: &Files,
        made: Option<&Made>,
    ) -> Result<Sandbox> {
        match made {
            Some(made) => self.networks.sandbox_in(owner, wanted, made.network.clone()).await,
            None => {
                let sandbox = self.networks.sandbox(owner, wanted).await?;
                files.hold(&sandbox.path(), &files.network())?;
                Ok(sandbox)
            }
        }
    }

    async fn built_in(
        &self,
        owner: &Owner,
        config: &PodConfig,
        files: &Files,
        made: Option<&Made>,
    ) -> Result<Network> {
        let network = self.networks.find(BRIDGE)?.id.clone();
        let wanted = Wanted { network, ..Wanted::default() };
        let mut sandbox = self.hold_network(owner, &[wanted], files, made).await?;
        let wishes = wishes(config);
        if !wishes.is_empty() {
            sandbox.publish(owner, &wishes).await?;
        }
        let record = PodNetwork {
            endpoints: sandbox.endpoints().to_vec(),
            published: sandbox.published().to_vec(),
            cni: String::new(),
            addresses: sandbox.endpoints().iter().flat_map(|endpoint| endpoint.addresses()).collect(),
        };
        Ok(Network { record, dns: crate::network::cni::Dns::default(), sandbox: Some(sandbox) })
    }

    async fn by_plugins(
        &self,
        owner: &Owner,
        config: &PodConfig,
        files: &Files,
        network: NetworkList,
        made: Option<&Made>,
    ) -> Result<Network> {
        let name = &config.name;
        for (what, text) in [("name", &name.name), ("namespace", &name.namespace), ("uid", &name.uid)] {
            // It would be further arguments.
            if text.contains([';', '=', '\0']) {
                let why = "CNI's plugins cannot be told of a name with ';' or '='";
                return Err(Error::invalid(format!("the pod's {what} {text:?}"), why));
            }
        }
        let args = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", &name.namespace),
            ("K8S_POD_NAME", &name.name),
            ("K8S_POD_INFRA_CONTAINER_ID", &owner.container),
            ("K8S_POD_UID", &name.uid),
        ];
        let args: Vec<String> = args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let capabilities = self.capabilities(config)?;
        let sandbox = self.hold_network(owner, &[], files, made).await?;
        let attachment = Attachment {
            container: owner.container.clone(),
            namespace: files.network().display().to_string(),
            interface: CNI_INTERFACE.to_owned(),
            args: args.join(";"),
            capabilities,
            serial: rand::random(),
        };
        self.networks.host_is_a_router().await?;
        let cni = network.name.clone();
        let result = self.cni.add_to(network, attachment).await?;
        let addresses: Vec<IpAddr> = result.addresses.iter().map(|given| given.address).collect();
        if addresses.is_empty() {
            let why = "its plugins gave the pod no address: see the plugins' own log";
            return Err(Error::precondition(format!("CNI network {cni:?}"), why));
        }
        let record = PodNetwork { cni, addresses, ..PodNetwork::default() };
        Ok(Network { record, dns: result.dns, sandbox: Some(sandbox) })
    }

    /// Takes back what a pod has of networks. What its plugins cannot take back now is kept, and tried again: the rest of the pod
    /// need not wait for them.
    pub(super) async fn leave_network(self: &Arc<Self>, id: &str, network: &PodNetwork, files: &Files) {
        self.networks.release(&network.endpoints);
        self.networks.firewall.unpublish(id);
        let place = files.network();
        let namespace = if place.exists() { place.display().to_string() } else { String::new() };
        // Also for a pod that was not recorded: what is kept of attachments says whether there is one.
        if let Err(error) = self.cni.del(id, CNI_INTERFACE, &namespace).await {
            tracing::warn!(pod = %id, "its CNI network is taken back later: {error}");
            self.detach_later(id.to_owned(), CNI_INTERFACE.to_owned());
        }
    }

    /// Takes back an attachment of a pod that is gone, again and again until that is done.
    pub(super) fn detach_later(self: &Arc<Self>, pod: String, interface: String) {
        if !self.cni.is_lost(&pod, &interface) {
            // It is being tried.
            return;
        }
        let pods = self.clone();
        // Not waited for at the daemon's end: the next one goes on.
        tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                tokio::time::sleep(pause).await;
                match pods.cni.del(&pod, &interface, "").await {
                    Ok(()) => return pods.collect_later(),
                    Err(error) => tracing::warn!(%pod, "its CNI network cannot be taken back yet: {error}"),
                }
                pause = LAST_PAUSE.min(pause * 2);
            }
        });
    }
}

impl Pods {
    /// Lets plugins that can do it remove what they have of pods that are gone. Where pods come and go just then, a little later.
    pub(super) fn collect_later(self: &Arc<Self>) {
        if self.config.cri.network == PodNetworks::BuiltIn || self.collecting.swap(true, Ordering::Relaxed) {
            return;
        }
        let pods = self.clone();
        tokio::spawn(async move {
            for _ in 0..COLLECTIONS {
                tokio::time::sleep(FIRST_PAUSE).await;
                match pods.cni.collect(&pods.networks.cni).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!("plugins cannot be told which pods there are: {error}");
                        break;
                    }
                }
            }
            pods.collecting.store(false, Ordering::Relaxed);
        });
    }

    /// What plugins that can do it are asked for.
    fn capabilities(&self, config: &PodConfig) -> Result<Map<String, Value>> {
        let mut all = Map::new();
        let mappings: Vec<Value> = wishes(config).iter().map(mapping).collect();
        if !mappings.is_empty() {
            all.insert("portMappings".to_owned(), Value::Array(mappings));
        }
        let dns = &config.dns;
        if !(dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty()) {
            let dns = json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options});
            all.insert("dns".to_owned(), dns);
        }
        if let Some(limits) = bandwidth::limits(&config.annotations)? {
            all.insert("bandwidth".to_owned(), limits);
        }
        if !config.annotations.is_empty() {
            all.insert("io.kubernetes.cri.pod-annotations".to_owned(), json!(config.annotations));
        }
        if !config.cgroup_parent.is_empty() {
            all.insert("cgroupPath".to_owned(), json!(config.cgroup_parent));
        }
        let ranges = self.pod_ranges();
        if !ranges.is_empty() {
            let sets: Vec<Value> = ranges.iter().map(|range| json!([{"subnet": range}])).collect();
            all.insert("ipRanges".to_owned(), Value::Array(sets));
        }
        Ok(all)
    }
}

fn mapping(wish: &PortBinding) -> Value {
    json!({
        "hostPort": wish.host_port_first, "containerPort": wish.container_port,
        "protocol": wish.protocol.name(), "hostIP": wish.host_ip,
    })
}

fn wishes(config: &PodConfig) -> Vec<PortBinding> {
    let mapped = config.ports.iter().filter(|port| port.host_port != 0);
    let wish = |port: &super::config::Port| PortBinding {
        container_port: port.container_port,
        protocol: port.protocol,
        host_ip: port.host_ip.clone(),
        host_port_first: port.host_port,
        host_port_last: port.host_port,
    };
    mapped.map(wish).collect()
}
