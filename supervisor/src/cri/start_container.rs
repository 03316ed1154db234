use longshore_proto::runtime::v1 as wire;

use super::Cri;
use crate::error::Result;

impl Cri {
    pub(super) async fn do_start_container(
        &self,
        request: wire::StartContainerRequest,
    ) -> Result<wire::StartContainerResponse> {
        self.pods.start(&request.container_id).await?;
        Ok(wire::StartContainerResponse {})
    }
}
