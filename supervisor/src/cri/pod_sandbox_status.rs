use std::collections::HashMap;

use longshore_proto::runtime::v1 as wire;
use serde_json::json;

use super::{Cri, convert, nanos};
use crate::error::Result;
use crate::pods::pod::Pod;
use crate::pods::record::PodState;

impl Cri {
    pub(super) async fn do_pod_sandbox_status(
        &self,
        request: wire::PodSandboxStatusRequest,
    ) -> Result<wire::PodSandboxStatusResponse> {
        // Before anything is looked at: what changes meanwhile is newer than this.
        let timestamp = nanos(Some(jiff::Timestamp::now()));
        let pod = self.pods.pod(&request.pod_sandbox_id)?;
        let mut info = HashMap::new();
        if request.verbose {
            let text = pod.read(|record| {
                json!({ "network": record.network, "config": record.config, "pause": record.pause })
                    .to_string()
            });
            info.insert("info".to_owned(), text);
        }
        Ok(wire::PodSandboxStatusResponse {
            status: Some(pod_status(&pod)),
            info,
            containers_statuses: self.statuses(&pod.id),
            timestamp,
        })
    }
}

pub(super) fn state(state: PodState) -> wire::PodSandboxState {
    match state {
        PodState::Ready => wire::PodSandboxState::SandboxReady,
        PodState::Stopping | PodState::NotReady | PodState::Unreadable => {
            wire::PodSandboxState::SandboxNotready
        }
    }
}

pub(super) fn pod_status(pod: &Pod) -> wire::PodSandboxStatus {
    let record = pod.record();
    let mut addresses = record.network.addresses.iter().map(ToString::to_string);
    let network = wire::PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| wire::PodIp { ip }).collect(),
    };
    let namespaces = wire::Namespace { options: Some(convert::namespace_options(&record.config.namespaces)) };
    wire::PodSandboxStatus {
        id: pod.id.clone(),
        metadata: Some(convert::pod_metadata(&record.config.name)),
        state: state(record.state).into(),
        created_at: nanos(Some(record.created_at)),
        network: Some(network),
        linux: Some(wire::LinuxPodSandboxStatus { namespaces: Some(namespaces) }),
        labels: record.config.labels.into_iter().collect(),
        annotations: record.config.annotations.into_iter().collect(),
        runtime_handler: record.config.handler,
    }
}
