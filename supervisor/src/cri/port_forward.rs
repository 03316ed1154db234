use longshore_proto::runtime::v1 as wire;

use super::Cri;
use crate::error::{Error, Result};

impl Cri {
    pub(super) async fn do_port_forward(
        &self,
        request: wire::PortForwardRequest,
    ) -> Result<wire::PortForwardResponse> {
        self.pods.ready_pod(&request.pod_sandbox_id)?;
        Err(Error::Unimplemented { what: "a port-forward over the streaming server".into() })
    }
}
