//! `Resume`: undoes `Pause`.

use longshore_proto::containerd::events::TaskResumed;
use longshore_proto::containerd::task::v3::ResumeRequest;

use crate::dispatch::Answer;
use crate::error::{Error, Result};
use crate::events::What;
use crate::process::Caller;
use crate::server::Shim;

impl Shim {
    pub fn resume(&mut self, caller: Caller, request: ResumeRequest) -> Result<Answer> {
        let turn = self.turn_of(&request.id)?;
        if self.commands.is_busy(&turn) {
            return Ok(Answer::InTurn(turn));
        }
        if !self.task(&request.id)?.paused {
            let state = self.named(&request.id, "")?.1.state();
            return Err(Error::WrongState { operation: "resume", state });
        }
        let step = self.driver(&request.id)?.resume()?;
        self.after(caller, turn, step, |shim, result| {
            result?;
            shim.task(&request.id)?.paused = false;
            shim.emit(&What::Resumed(TaskResumed { container_id: request.id }));
            Ok(())
        })
    }
}
