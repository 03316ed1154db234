//! Telling plugins which attachments there are, so that they remove what else they have (GC).
//!
//! What always holds: none comes or goes meanwhile, so that nothing that is being made is taken for garbage.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::error::Result;
use super::plugin::Command;
use super::{Cni, aside, read_now, version};

/// How long a plugin may take: new attachments wait for it.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cni {
    /// Nobody has this attachment any more; its DEL has not succeeded yet. `false`: that was known.
    pub fn is_lost(&self, container: &str, interface: &str) -> bool {
        self.lost().insert(format!("{container}@{interface}"))
    }

    /// Tells the plugins of the default network which attachments there are, ours and those of `other`, which is on the same
    /// networks. `false`: not now, since some are being made or taken back.
    pub async fn collect(&self, other: &Cni) -> Result<bool> {
        let Some(network) = self.default_network().await? else { return Ok(true) };
        if network.disable_gc || !version::has(&network.version, version::STATUS) {
            return Ok(true);
        }
        let Ok(_gate) = self.gate.try_write() else { return Ok(false) };
        let mut valid = self.attached(&network.name).await?;
        valid.extend(other.attached(&network.name).await?);
        let valid: Vec<Value> =
            valid.iter().map(|(id, name)| json!({"containerID": id, "ifname": name})).collect();
        let more = Map::from_iter([("cni.dev/valid-attachments".to_owned(), Value::Array(valid))]);
        self.tell(&network, Command::Collect, PATIENCE.min(self.patience), &more).await?;
        Ok(true)
    }

    /// What is attached to this network and not lost.
    async fn attached(&self, network: &str) -> Result<Vec<(String, String)>> {
        let mut kept = self.kept()?;
        {
            let lost = self.lost();
            kept.retain(|(container, interface)| !lost.contains(&format!("{container}@{interface}")));
        }
        let (records, network) = (self.records.clone(), network.to_owned());
        let look = move || {
            let mut found = Vec::new();
            for (container, interface) in kept {
                let path = records.join(format!("{container}@{interface}.json"));
                // What cannot be read is somebody's: its plugins keep what they have.
                if read_now(&path).map_or(true, |kept| kept.is_some_and(|kept| kept.network.name == network))
                {
                    found.push((container, interface));
                }
            }
            Ok(found)
        };
        aside(look).await
    }
}
