//! `Wait`: answered when the process has exited.

use longshore_proto::containerd::task::v3::{WaitRequest, WaitResponse};
use prost::Message;

use crate::dispatch::Answer;
use crate::error::Result;
use crate::process::{Caller, Process};
use crate::server::Shim;

impl Shim {
    pub fn wait(&mut self, caller: Caller, request: &WaitRequest) -> Result<Answer> {
        let (serial, process) = self.named(&request.id, &request.exec_id)?;
        if process.announced {
            return Ok(Answer::Now(response(process).encode_to_vec()));
        }
        let answer = self.keep_open(caller);
        if let Some(process) = self.processes.get_mut(&serial) {
            process.waiters.push(caller);
        }
        Ok(answer)
    }
}

/// What `Wait` says of a process that has exited.
pub fn response(process: &Process) -> WaitResponse {
    let record = process.exit_record();
    WaitResponse {
        exit_status: record.map_or(0, |record| record.exit_status),
        exited_at: record.and_then(|record| record.exited_at),
    }
}
