use longshore_proto::runtime::v1 as wire;

use super::{Cri, required};
use crate::error::Result;

impl Cri {
    pub(super) async fn do_remove_image(
        &self,
        request: wire::RemoveImageRequest,
    ) -> Result<wire::RemoveImageResponse> {
        self.pods.remove_image(&required(request.image, "image")?.image).await?;
        Ok(wire::RemoveImageResponse {})
    }
}
