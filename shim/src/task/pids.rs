//! `Pids`: every process in the container, and which of them are execs.

use longshore_proto::containerd::runc::v1::ProcessDetails;
use longshore_proto::containerd::task::v3::{PidsRequest, PidsResponse};
use longshore_proto::containerd::v1::types::ProcessInfo;
use prost::Message;
use prost_types::Any;

use crate::error::Result;
use crate::process::Process;
use crate::server::Shim;

impl Shim {
    pub fn pids(&mut self, request: PidsRequest) -> Result<PidsResponse> {
        let pids = self.driver(&request.id)?.pids()?;
        let id = request.id.as_str();
        let processes = pids.into_iter().map(|pid| self.process_info(id, pid)).collect();
        Ok(PidsResponse { processes })
    }

    fn process_info(&self, id: &str, pid: i32) -> ProcessInfo {
        let is_it =
            |process: &&Process| process.pid == pid && !process.is_init() && *process.container == *id;
        let exec = self.processes.values().find(is_it);
        let info = exec.map(|process| Any {
            type_url: "containerd.runc.v1.ProcessDetails".to_owned(),
            value: ProcessDetails { exec_id: process.exec_id.clone() }.encode_to_vec(),
        });
        ProcessInfo { pid: u32::try_from(pid).unwrap_or(0), info }
    }
}
