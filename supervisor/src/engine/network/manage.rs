//! Making networks and removing them.

use std::sync::Arc;

use crate::engine::Engine;
use crate::error::Result;
use crate::network::create::WantedNetwork;
use crate::network::record::Network;

impl Engine {
    /// Durable when it returns.
    pub async fn create_network(&self, wanted: &WantedNetwork) -> Result<Arc<Network>> {
        let network = self.networks.create(wanted).await?;
        self.network_happened(&network, "create", None);
        Ok(network)
    }

    /// Returns when nothing of the network is left.
    pub async fn remove_network(&self, text: &str) -> Result<()> {
        let network = self.networks.find(text)?;
        self.networks.remove(&network).await?;
        self.network_happened(&network, "destroy", None);
        Ok(())
    }
}
