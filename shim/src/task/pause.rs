//! `Pause`: no process of the container runs until `Resume`.

use longshore_proto::containerd::events::TaskPaused;
use longshore_proto::containerd::task::v3::PauseRequest;

use crate::error::{Error, Result};
use crate::events::What;
use crate::server::Shim;

impl Shim {
    pub fn pause(&mut self, request: PauseRequest) -> Result<()> {
        if self.task(&request.id)?.paused {
            return Err(Error::WrongState { operation: "pause", state: "paused" });
        }
        self.named(&request.id, "")?.1.must_run("pause")?;
        self.driver(&request.id)?.pause()?;
        self.task(&request.id)?.paused = true;
        self.emit(&What::Paused(TaskPaused { container_id: request.id }));
        Ok(())
    }
}
