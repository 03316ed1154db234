//! `Shutdown`: the shim leaves, unless it still holds a container.

use longshore_proto::containerd::task::v3::ShutdownRequest;

use crate::bundle;
use crate::error::Result;
use crate::limits;
use crate::server::{Life, Shim};
use crate::timers::Timer;

impl Shim {
    pub fn shutdown(&mut self, _request: ShutdownRequest) -> Result<()> {
        let assigned = self.assigned()?;
        if self.task.is_none() {
            bundle::remove(&assigned.folder, bundle::SOCKET);
            bundle::remove(&assigned.folder, bundle::SHIM_PID);
            self.life = Life::Leaving;
            self.timers.set(limits::LEAVE, Timer::Leave);
        }
        Ok(())
    }
}
