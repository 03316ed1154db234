//! `Pause`: no process of the container runs until `Resume`.

use longshore_proto::containerd::events::TaskPaused;
use longshore_proto::containerd::task::v3::PauseRequest;

use crate::dispatch::Answer;
use crate::error::{Error, Result};
use crate::events::What;
use crate::process::Caller;
use crate::server::Shim;

impl Shim {
    pub fn pause(&mut self, caller: Caller, request: PauseRequest) -> Result<Answer> {
        let turn = self.turn_of(&request.id)?;
        if self.commands.is_busy(&turn) {
            return Ok(Answer::InTurn(turn));
        }
        if self.task(&request.id)?.paused {
            return Err(Error::WrongState { operation: "pause", state: "paused" });
        }
        self.named(&request.id, "")?.1.must_run("pause")?;
        let is_pods = self.is_pods();
        let step = self.driver(&request.id)?.pause(is_pods)?;
        self.after(caller, turn, step, |shim, result| {
            result?;
            shim.task(&request.id)?.paused = true;
            shim.emit(&What::Paused(TaskPaused { container_id: request.id }));
            Ok(())
        })
    }
}
