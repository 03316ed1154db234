//! `Update`: changes the container's limits.

use longshore_proto::containerd::task::v3::UpdateTaskRequest;
use oci_spec::runtime::LinuxResources;

use crate::dispatch::Answer;
use crate::error::{Error, Result};
use crate::process::Caller;
use crate::server::Shim;

impl Shim {
    pub fn update(&mut self, caller: Caller, request: &UpdateTaskRequest) -> Result<Answer> {
        let turn = self.turn_of(&request.id)?;
        if self.commands.is_busy(&turn) {
            return Ok(Answer::InTurn(turn));
        }
        let json = request.resources.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
        let resources: LinuxResources = serde_json::from_slice(json)
            .map_err(|source| Error::Json { what: "read the resources of an update", source })?;
        // Memory that is to be given back is looked for within the write; other containers of the pod do not wait for that.
        let is_pods = self.is_pods();
        let step = self.driver(&request.id)?.update(resources, is_pods)?;
        self.after(caller, turn, step, |_, result| result)
    }
}
