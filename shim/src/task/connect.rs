//! `Connect`: who this shim is and whom it serves.

use longshore_proto::containerd::task::v3::{ConnectRequest, ConnectResponse};

use crate::error::Result;
use crate::server::Shim;

impl Shim {
    pub fn connect(&mut self, request: ConnectRequest) -> Result<ConnectResponse> {
        let task_pid = match self.tasks.get(&request.id) {
            Some(task) => self.processes.get(&task.init).map_or(0, |init| init.wire_pid()),
            // The shim is there, and its container is not made yet.
            None => {
                self.must_serve(&request.id)?;
                0
            }
        };
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}
