use longshore_proto::runtime::v1 as wire;

use super::{Cri, convert, required};
use crate::error::Result;

impl Cri {
    /// The pod's own configuration is kept with the pod: what is said of it again is not looked at.
    pub(super) async fn do_create_container(
        &self,
        request: wire::CreateContainerRequest,
    ) -> Result<wire::CreateContainerResponse> {
        let config = convert::container_config(required(request.config, "configuration of the container")?)?;
        Ok(wire::CreateContainerResponse {
            container_id: self.pods.create(&request.pod_sandbox_id, config).await?,
        })
    }
}
