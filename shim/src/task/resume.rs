//! `Resume`: undoes `Pause`.

use longshore_proto::containerd::events::TaskResumed;
use longshore_proto::containerd::task::v3::ResumeRequest;

use crate::error::{Error, Result};
use crate::events::What;
use crate::server::Shim;

impl Shim {
    pub fn resume(&mut self, request: ResumeRequest) -> Result<()> {
        if !self.task(&request.id)?.paused {
            let state = self.named(&request.id, "")?.1.state();
            return Err(Error::WrongState { operation: "resume", state });
        }
        self.driver(&request.id)?.resume()?;
        self.task(&request.id)?.paused = false;
        self.emit(&What::Resumed(TaskResumed { container_id: request.id }));
        Ok(())
    }
}
