use longshore_proto::runtime::v1 as wire;

use super::Cri;
use super::streaming::Exec;
use crate::error::Result;

impl Cri {
    pub(super) async fn do_exec(&self, request: wire::ExecRequest) -> Result<wire::ExecResponse> {
        let container = self.pods.running(&request.container_id)?.id.clone();
        let wire::ExecRequest { cmd: args, tty, stdin, stdout, stderr, .. } = request;
        let url = self.streaming.exec(Exec { container, args, tty, stdin, stdout, stderr })?;
        Ok(wire::ExecResponse { url })
    }
}
