//! Whether the network for whoever names none can be had: as its plugins say, where they can say it.

use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::config::NetworkList;
use super::error::{CniError, Result};
use super::plugin::{self, Call, Command};
use super::{Cni, version};

/// How long an answer counts.
const FRESH: Duration = Duration::from_secs(2);
/// How long a plugin may take for its answer: whoever asks waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// What plugins said.
pub struct Asked {
    at: Instant,
    network: NetworkList,
    /// Why it is not ready.
    outcome: std::result::Result<(), String>,
}

impl Cni {
    /// The network for whoever names none, if it is ready. Whoever asks meanwhile gets the same answer.
    pub async fn status(&self) -> Result<Option<String>> {
        let Some(network) = self.default_network().await? else { return Ok(None) };
        if !version::has(&network.version, version::STATUS) {
            return Ok(Some(network.name));
        }
        let mut asked = self.asked.lock().await;
        let fresh = |asked: &&Asked| asked.at.elapsed() < FRESH && asked.network == network;
        let outcome = match asked.as_ref().filter(fresh) {
            Some(asked) => asked.outcome.clone(),
            None => {
                let outcome = self.ask(&network).await.map_err(|error| error.to_string());
                let (at, network) = (Instant::now(), network.clone());
                *asked = Some(Asked { at, network, outcome: outcome.clone() });
                outcome
            }
        };
        let name = network.name;
        outcome.map_err(|why| CniError::NotReady { network: name.clone(), why })?;
        Ok(Some(name))
    }

    async fn ask(&self, network: &NetworkList) -> Result<()> {
        let patience = PATIENCE.min(self.patience);
        self.tell(network, Command::Status, patience, &Map::new()).await
    }

    /// Runs all plugins of a network for what is about no attachment.
    pub(super) async fn tell(
        &self,
        network: &NetworkList,
        command: Command,
        patience: Duration,
        more: &Map<String, Value>,
    ) -> Result<()> {
        let call = Call {
            command,
            network: &network.name,
            container: "",
            namespace: "",
            interface: "",
            args: "",
            folders: &self.plugins,
            patience,
        };
        let mut first = Ok(());
        for plugin in &network.plugins {
            let mut request = plugin.clone();
            request.insert("name".to_owned(), network.name.clone().into());
            request.insert("cniVersion".to_owned(), network.version.clone().into());
            request.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
            match plugin::run(call, &request).await {
                Ok(_) => {}
                // What the others have is garbage all the same.
                Err(error) if command == Command::Collect => first = first.and(Err(error)),
                Err(error) => return Err(error),
            }
        }
        first
    }
}
