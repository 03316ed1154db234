use longshore_proto::runtime::v1 as wire;

use super::Cri;
use crate::error::{Error, Result};

impl Cri {
    pub(super) async fn do_attach(&self, request: wire::AttachRequest) -> Result<wire::AttachResponse> {
        self.pods.running(&request.container_id)?;
        Err(Error::Unimplemented { what: "an attach over the streaming server".into() })
    }
}
