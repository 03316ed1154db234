use longshore_proto::runtime::v1 as wire;

use super::Cri;
use crate::error::Result;

impl Cri {
    pub(super) async fn do_remove_pod_sandbox(
        &self,
        request: wire::RemovePodSandboxRequest,
    ) -> Result<wire::RemovePodSandboxResponse> {
        self.pods.remove_pod(&request.pod_sandbox_id).await?;
        Ok(wire::RemovePodSandboxResponse {})
    }
}
