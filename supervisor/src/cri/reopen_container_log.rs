use longshore_proto::runtime::v1 as wire;

use super::Cri;
use crate::error::Result;

impl Cri {
    pub(super) async fn do_reopen_container_log(
        &self,
        request: wire::ReopenContainerLogRequest,
    ) -> Result<wire::ReopenContainerLogResponse> {
        self.pods.reopen_log(&request.container_id).await?;
        Ok(wire::ReopenContainerLogResponse {})
    }
}
