//! The Networks service.

use std::sync::Arc;

use longshore_proto::longshore::engine::v1 as wire;
use longshore_proto::longshore::engine::v1::networks_server::Networks;
use tonic::{Request, Response};

use super::{Answer, convert, empty, status};
use crate::engine::Engine;
use crate::engine::network::connect::Missing;

/// The service.
#[derive(Clone)]
pub struct NetworksService {
    engine: Arc<Engine>,
}

impl NetworksService {
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl Networks for NetworksService {
    async fn create(
        &self,
        request: Request<wire::CreateNetworkRequest>,
    ) -> Answer<wire::CreateNetworkResponse> {
        let wanted = convert::wanted_network(request.into_inner());
        let network = self.engine.create_network(&wanted).await.map_err(status)?;
        Ok(Response::new(wire::CreateNetworkResponse { id: network.id.clone(), warnings: Vec::new() }))
    }

    async fn list(&self, request: Request<wire::ListNetworksRequest>) -> Answer<wire::ListNetworksResponse> {
        let networks = self.engine.list_networks(&request.into_inner().filters).map_err(status)?;
        let networks = networks.iter().map(|network| convert::network(network, Vec::new())).collect();
        Ok(Response::new(wire::ListNetworksResponse { networks }))
    }

    async fn inspect(&self, request: Request<wire::NetworkRequest>) -> Answer<wire::Network> {
        let network = self.engine.find_network(&request.into_inner().network).map_err(status)?;
        Ok(Response::new(convert::network(&network, self.engine.network_members(&network))))
    }

    async fn remove(&self, request: Request<wire::NetworkRequest>) -> Answer<()> {
        self.engine.remove_network(&request.into_inner().network).await.map_err(status)?;
        empty()
    }

    async fn connect_container(&self, request: Request<wire::ConnectRequest>) -> Answer<()> {
        let request = request.into_inner();
        let endpoint = convert::endpoint(super::super::required(request.endpoint, "endpoint")?);
        self.engine.connect(&request.container, &endpoint).await.map_err(status)?;
        empty()
    }

    async fn disconnect_container(&self, request: Request<wire::DisconnectRequest>) -> Answer<()> {
        let request = request.into_inner();
        let missing = if request.force { Missing::Endpoint } else { Missing::Container };
        self.engine.disconnect(&request.network, &request.container, missing).await.map_err(status)?;
        empty()
    }

    async fn prune(
        &self,
        request: Request<wire::PruneNetworksRequest>,
    ) -> Answer<wire::PruneNetworksResponse> {
        let removed = self.engine.prune_networks(&request.into_inner().filters).await.map_err(status)?;
        Ok(Response::new(wire::PruneNetworksResponse { removed }))
    }
}
