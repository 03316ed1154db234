use longshore_proto::runtime::v1 as wire;

use super::{Cri, convert, required};
use crate::error::Result;

impl Cri {
    pub(super) async fn do_run_pod_sandbox(
        &self,
        request: wire::RunPodSandboxRequest,
    ) -> Result<wire::RunPodSandboxResponse> {
        let config = required(request.config, "configuration of the pod sandbox")?;
        let config = convert::pod_config(config, request.runtime_handler)?;
        Ok(wire::RunPodSandboxResponse { pod_sandbox_id: self.pods.run(config).await? })
    }
}
