use longshore_proto::runtime::v1 as wire;

use super::Cri;
use crate::error::{Error, Result};

impl Cri {
    pub(super) async fn do_exec(&self, request: wire::ExecRequest) -> Result<wire::ExecResponse> {
        self.pods.running(&request.container_id)?;
        Err(Error::Unimplemented { what: "an exec with streams over the streaming server".into() })
    }
}
