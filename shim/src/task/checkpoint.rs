//! `Checkpoint`: refused, with the reason.

use longshore_proto::containerd::task::v3::CheckpointTaskRequest;

use crate::error::{Error, Result};
use crate::server::Shim;

impl Shim {
    pub fn checkpoint(&mut self, request: CheckpointTaskRequest) -> Result<()> {
        self.task(&request.id)?;
        Err(Error::NotBuilt { what: "checkpointing a container", why: "this shim has no CRIU" })
    }
}
