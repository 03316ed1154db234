//! The names that a container can look up, kept in files that its shim reads.

use crate::engine::Engine;
use crate::engine::config::{NetworkMode, Record};
use crate::engine::etc::{self, Resolver};
use crate::error::Result;
use crate::network::dns::{self, View};
use crate::network::endpoint::EndpointState;

impl Engine {
    /// Whether names are answered to a container that is on these.
    pub(super) fn has_names(&self, endpoints: &[EndpointState]) -> bool {
        endpoints
            .iter()
            .any(|endpoint| self.networks.find(&endpoint.network).is_ok_and(|network| network.has_names()))
    }

    /// Writes what a container may look up.
    pub(super) fn write_names(&self, id: &str, record: &Record, endpoints: &[EndpointState]) -> Result<()> {
        let named: Vec<&EndpointState> = endpoints
            .iter()
            .filter(|endpoint| self.networks.find(&endpoint.network).is_ok_and(|network| network.has_names()))
            .collect();
        if named.is_empty() {
            self.networks.dns.forget_container(id);
            return Ok(());
        }
        let links = named.iter().flat_map(|endpoint| &endpoint.links);
        let links = links.map(|link| {
            // Told by name or id: the tables know the name.
            let target = self.find(&link.container).map_or_else(|_| link.container.clone(), |e| e.name());
            (link.alias.clone(), target)
        });
        let servers = match record.config.dns.is_empty() {
            true => dns::host_servers(&etc::host_file(dns::HOST)),
            false => record.config.dns.clone(),
        };
        let view = View {
            networks: named.iter().map(|endpoint| endpoint.network.clone()).collect(),
            links: links.collect(),
            servers,
            follows_host: record.config.dns.is_empty(),
            // Containers that cannot get out have no questions carried out for them.
            forward: endpoints.iter().any(|endpoint| {
                endpoint.ipv4.is_some_and(|v4| v4.gateway.is_some())
                    || endpoint.ipv6.is_some_and(|v6| v6.gateway.is_some())
            }),
        };
        self.networks.dns.container(id, &view)
    }

    /// Who answers a container's questions.
    pub(in crate::engine) fn resolver<'a>(
        &self,
        record: &'a Record,
        endpoints: &[EndpointState],
    ) -> Resolver<'a> {
        let config = &record.config;
        Resolver {
            of_host: config.network == NetworkMode::Host,
            own: self.has_names(endpoints),
            servers: &config.dns,
            search: &config.dns_search,
            options: &config.dns_options,
        }
    }

    /// A running container was connected or disconnected.
    pub(super) async fn names_moved(&self, id: &str, record: &Record) -> Result<()> {
        self.write_names(id, record, &record.state.endpoints)?;
        self.tell_shim(id, record).await?;
        let resolver = self.resolver(record, &record.state.endpoints);
        etc::rewrite_resolver(&self.folder(id), &resolver)
    }
}
