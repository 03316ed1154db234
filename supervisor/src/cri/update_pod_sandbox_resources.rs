use longshore_proto::runtime::v1 as wire;

use super::{Cri, convert};
use crate::error::Result;

impl Cri {
    pub(super) async fn do_update_pod_sandbox_resources(
        &self,
        request: wire::UpdatePodSandboxResourcesRequest,
    ) -> Result<wire::UpdatePodSandboxResourcesResponse> {
        let (overhead, resources) =
            (request.overhead.map(convert::resources), request.resources.map(convert::resources));
        self.pods.update_pod(&request.pod_sandbox_id, overhead, resources).await?;
        Ok(wire::UpdatePodSandboxResourcesResponse {})
    }
}
