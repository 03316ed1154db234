use longshore_proto::runtime::v1 as wire;

use super::Cri;
use super::streaming::Attach;
use crate::error::Result;

impl Cri {
    pub(super) async fn do_attach(&self, request: wire::AttachRequest) -> Result<wire::AttachResponse> {
        let container = self.pods.running(&request.container_id)?.id.clone();
        let wire::AttachRequest { tty, stdin, stdout, stderr, .. } = request;
        let url = self.streaming.attach(Attach { container, tty, stdin, stdout, stderr })?;
        Ok(wire::AttachResponse { url })
    }
}
