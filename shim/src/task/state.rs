//! `State`: how a process is.

use longshore_proto::containerd::task::v3::{StateRequest, StateResponse};

use crate::error::Result;
use crate::server::Shim;

impl Shim {
    pub fn state(&mut self, request: StateRequest) -> Result<StateResponse> {
        let task = self.task(&request.id)?;
        let paused = task.paused;
        let bundle = task.place.bundle.to_string_lossy().into_owned();
        let (_, process) = self.named(&request.id, &request.exec_id)?;
        let record = process.exit_record();
        Ok(StateResponse {
            bundle,
            pid: process.wire_pid(),
            status: process.status(paused).into(),
            stdin: process.paths.stdin.clone(),
            stdout: process.paths.stdout.clone(),
            stderr: process.paths.stderr.clone(),
            terminal: process.paths.terminal,
            exit_status: record.map_or(0, |record| record.exit_status),
            exited_at: record.and_then(|record| record.exited_at),
            id: request.id,
            exec_id: request.exec_id,
        })
    }
}
