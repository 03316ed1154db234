//! `Shutdown`: the shim leaves, unless it still holds a container or a sandbox, or is making or deleting one.

use longshore_proto::containerd::task::v3::ShutdownRequest;

use crate::error::Result;
use crate::server::Shim;

impl Shim {
    pub fn shutdown(&mut self, _request: ShutdownRequest) -> Result<()> {
        self.assigned()?;
        if self.tasks.is_empty() && self.sandbox.is_none() && self.commands.is_idle() {
            self.leave();
        }
        Ok(())
    }
}
