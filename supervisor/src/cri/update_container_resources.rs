use longshore_proto::runtime::v1 as wire;

use super::{Cri, convert};
use crate::error::{Error, Result};

impl Cri {
    pub(super) async fn do_update_container_resources(
        &self,
        request: wire::UpdateContainerResourcesRequest,
    ) -> Result<wire::UpdateContainerResourcesResponse> {
        if request.windows.is_some() {
            return Err(Error::invalid("limits", "they are for Windows"));
        }
        if let Some(change) = request.linux {
            self.pods.update(&request.container_id, &convert::resources(change)).await?;
        }
        Ok(wire::UpdateContainerResourcesResponse {})
    }
}
