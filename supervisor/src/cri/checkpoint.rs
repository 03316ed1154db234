use std::collections::HashMap;
use std::time::Duration;

use longshore_proto::runtime::v1 as wire;

use super::{Cri, convert, required};
use crate::error::{Error, Result};

impl Cri {
    pub(super) async fn do_checkpoint_container(
        &self,
        request: wire::CheckpointContainerRequest,
    ) -> Result<wire::CheckpointContainerResponse> {
        let refuse = |_| Error::invalid(format!("timeout {}", request.timeout), "it is below zero");
        let timeout = u64::try_from(request.timeout).map(Duration::from_secs).map_err(refuse)?;
        self.pods.checkpoint(&request.container_id, &request.location, timeout).await?;
        Ok(wire::CheckpointContainerResponse {})
    }

    pub(super) async fn do_checkpoint_pod(
        &self,
        request: wire::CheckpointPodRequest,
    ) -> Result<wire::CheckpointPodResponse> {
        refuse_options(&request.options, "checkpoint")?;
        self.pods
            .checkpoint_pod(&request.pod_sandbox_id, &request.output_path, &request.container_ids)
            .await?;
        Ok(wire::CheckpointPodResponse {})
    }

    pub(super) async fn do_restore_pod(
        &self,
        request: wire::RestorePodRequest,
    ) -> Result<wire::RestorePodResponse> {
        refuse_options(&request.options, "restore")?;
        let config = required(request.config, "configuration of the pod sandbox")?;
        let config = convert::pod_config(config, request.runtime_handler)?;
        let containers = request.container_configs.into_iter().map(convert::container_config);
        let containers = containers.collect::<Result<Vec<_>>>()?;
        let restored = self.pods.restore_pod(&request.checkpoint_path, config, containers).await?;
        let named = |(name, container_id)| wire::RestoredContainer { name, container_id };
        Ok(wire::RestorePodResponse {
            pod_sandbox_id: restored.pod,
            restored_containers: restored.containers.into_iter().map(named).collect(),
        })
    }
}

/// There are none yet, and one that has no effect would be a false promise.
fn refuse_options(options: &HashMap<String, String>, verb: &str) -> Result<()> {
    match options.keys().min() {
        None => Ok(()),
        Some(key) => {
            Err(Error::invalid(format!("option {key:?}"), format!("a {verb} of a pod has no options")))
        }
    }
}
