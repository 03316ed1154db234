use longshore_proto::runtime::v1 as wire;

use super::Cri;
use crate::error::{Error, Result};

impl Cri {
    pub(super) async fn do_checkpoint_container(
        &self,
        request: wire::CheckpointContainerRequest,
    ) -> Result<wire::CheckpointContainerResponse> {
        let container = self.pods.running(&request.container_id)?;
        Err(Error::Unimplemented { what: format!("a checkpoint of container {}", container.id) })
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
