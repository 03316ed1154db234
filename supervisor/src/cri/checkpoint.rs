use std::time::Duration;

use longshore_proto::runtime::v1 as wire;

use super::Cri;
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
        let pod = self.pods.pod(&request.pod_sandbox_id)?;
        Err(Error::Unimplemented { what: format!("a checkpoint of pod sandbox {}", pod.id) })
    }

    pub(super) async fn do_restore_pod(
        &self,
        _request: wire::RestorePodRequest,
    ) -> Result<wire::RestorePodResponse> {
        Err(Error::Unimplemented { what: "restoring a pod sandbox from a checkpoint".into() })
    }
}
