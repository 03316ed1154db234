use std::collections::HashMap;

use longshore_proto::runtime::v1 as wire;
use serde_json::json;

use super::{Cri, convert};
use crate::error::Result;
use crate::images::pull::{LayerPlan, LayerStatus, UnderWay};

impl Cri {
    pub(super) async fn do_status(&self, request: wire::StatusRequest) -> Result<wire::StatusResponse> {
        let condition = |kind: &str, status, reason: &str, message: String| wire::RuntimeCondition {
            r#type: kind.to_owned(),
            status,
            reason: reason.to_owned(),
            message,
        };
        let network = match self.pods.network_is_ready().await {
            Ok(()) => condition("NetworkReady", true, "", String::new()),
            Err(error) => condition("NetworkReady", false, "NetworkPluginNotReady", error.to_string()),
        };
        let mapped = self.pods.can_map_users();
        let features = wire::RuntimeHandlerFeatures {
            recursive_read_only_mounts: recursive_attributes(),
            user_namespaces: mapped,
        };
        let handlers = self.pods.handlers().into_iter();
        let handlers = handlers.map(|name| wire::RuntimeHandler { name, features: Some(features) });
        let mut info = HashMap::new();
        if request.verbose {
            let folder = self.pods.state_folder().join("pods");
            info.insert("config".to_owned(), json!({ "stateDir": folder }).to_string());
            let pulls: Vec<_> = self.pods.pulls().iter().map(pull).collect();
            info.insert("pulls".to_owned(), json!(pulls).to_string());
        }
        let mut conditions = vec![condition("RuntimeReady", true, "", String::new()), network];
        if convert::apparmor_is_enabled() {
            let why = "containers that ask for AppArmor's RuntimeDefault, or for nothing, run without a profile: there is none of the \
                       daemon's own. Name a profile of the host's (Localhost) where it matters";
            conditions.push(condition("AppArmorDefaultProfile", false, "NoDefaultProfile", why.to_owned()));
        }
        Ok(wire::StatusResponse {
            status: Some(wire::RuntimeStatus { conditions }),
            info,
            runtime_handlers: handlers.collect(),
            features: Some(wire::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: mapped,
                mount_options: false,
            }),
        })
    }
}

/// A pull as it is now: bytes are those of layers as they are sent.
fn pull(of: &UnderWay) -> serde_json::Value {
    let layer = |(plan, status, current): &(LayerPlan, LayerStatus, u64)| {
        json!({
            "digest": plan.digest.as_str(), "step": format!("{status:?}").to_lowercase(),
            "bytes": current, "totalBytes": plan.size,
        })
    };
    json!({
        "image": of.reference, "since": of.since.to_string(), "step": of.step,
        "bytes": of.current, "totalBytes": of.total,
        "layers": of.layers.iter().map(layer).collect::<Vec<_>>(),
    })
}

/// Whether this kernel can make mounts read-only with all that is mounted below (5.12).
fn recursive_attributes() -> bool {
    crate::engine::spec::mounts::recursive_attributes()
}
