use longshore_proto::runtime::v1 as wire;

use super::Cri;
use crate::error::Result;

impl Cri {
    pub(super) async fn do_stop_pod_sandbox(
        &self,
        request: wire::StopPodSandboxRequest,
    ) -> Result<wire::StopPodSandboxResponse> {
        self.pods.stop_pod(&request.pod_sandbox_id).await?;
        Ok(wire::StopPodSandboxResponse {})
    }
}
