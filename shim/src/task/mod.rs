//! containerd's task service, version 3 (version 2 has the same messages): one method a file.

mod checkpoint;
mod close_io;
mod connect;
mod create;
mod delete;
mod exec;
mod kill;
mod options;
mod pause;
mod pids;
mod resize_pty;
mod resume;
mod shutdown;
mod start;
mod state;
mod stats;
mod update;
mod wait;

pub use resize_pty::resize;
pub use wait::response as wait_response;

use longshore_runtime::Container;

use crate::error::{Error, Result};
use crate::process::{INIT, Process};
use crate::server::{Shim, Task};

impl Shim {
    /// Fails unless this shim was assigned to this container.
    fn must_serve(&self, id: &str) -> Result<()> {
        let ours = &self.assigned()?.id;
        if id == ours {
            return Ok(());
        }
        Err(Error::OtherContainer { asked: id.to_owned(), ours: ours.clone() })
    }

    /// The container's task, if it was created.
    fn task(&mut self, id: &str) -> Result<&mut Task> {
        self.must_serve(id)?;
        self.task.as_mut().ok_or_else(|| Error::NoTask { id: id.to_owned() })
    }

    /// The runtime's container, while it can still be used.
    fn container(&mut self, id: &str) -> Result<&mut Container> {
        self.task(id)?.container.as_mut().ok_or(Error::Finished)
    }

    /// The serial number of a process; an empty exec id is the first one.
    pub fn serial(&mut self, id: &str, exec_id: &str) -> Result<u32> {
        self.task(id)?;
        if exec_id.is_empty() {
            return Ok(INIT);
        }
        self.processes
            .iter()
            .find_map(|(serial, process)| (process.exec_id == exec_id).then_some(*serial))
            .ok_or_else(|| Error::NoProcess { id: id.to_owned(), exec_id: exec_id.to_owned() })
    }

    /// A process by the names that requests use.
    fn named(&mut self, id: &str, exec_id: &str) -> Result<(u32, &mut Process)> {
        let serial = self.serial(id, exec_id)?;
        let missing = || Error::NoProcess { id: id.to_owned(), exec_id: exec_id.to_owned() };
        let process = self.processes.get_mut(&serial).ok_or_else(missing)?;
        Ok((serial, process))
    }
}
