use std::time::Duration;

use longshore_proto::runtime::v1 as wire;

use super::Cri;
use crate::error::Result;

impl Cri {
    pub(super) async fn do_stop_container(
        &self,
        request: wire::StopContainerRequest,
    ) -> Result<wire::StopContainerResponse> {
        let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
        self.pods.stop_container(&request.container_id, grace).await?;
        Ok(wire::StopContainerResponse {})
    }
}
