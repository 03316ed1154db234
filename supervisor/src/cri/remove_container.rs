use longshore_proto::runtime::v1 as wire;

use super::Cri;
use crate::error::Result;

impl Cri {
    pub(super) async fn do_remove_container(
        &self,
        request: wire::RemoveContainerRequest,
    ) -> Result<wire::RemoveContainerResponse> {
        self.pods.remove_container(&request.container_id).await?;
        Ok(wire::RemoveContainerResponse {})
    }
}
