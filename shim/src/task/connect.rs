//! `Connect`: who this shim is and whom it serves.

use longshore_proto::containerd::task::v3::{ConnectRequest, ConnectResponse};

use crate::error::Result;
use crate::process::INIT;
use crate::server::Shim;

impl Shim {
    pub fn connect(&mut self, request: ConnectRequest) -> Result<ConnectResponse> {
        self.must_serve(&request.id)?;
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: self.processes.get(&INIT).map_or(0, |init| init.wire_pid()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}
