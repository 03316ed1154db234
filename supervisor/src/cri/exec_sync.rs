use std::time::Duration;

use longshore_proto::runtime::v1 as wire;

use super::Cri;
use crate::error::Result;

impl Cri {
    pub(super) async fn do_exec_sync(
        &self,
        request: wire::ExecSyncRequest,
    ) -> Result<wire::ExecSyncResponse> {
        let timeout = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
        let said = self.pods.exec_sync(&request.container_id, request.cmd, timeout).await?;
        Ok(wire::ExecSyncResponse {
            stdout: said.stdout,
            stderr: said.stderr,
            exit_code: i32::try_from(said.exit_code).unwrap_or(-1),
        })
    }
}
