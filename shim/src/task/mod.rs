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
mod reopen_log;
mod resize_pty;
mod resume;
mod shutdown;
mod start;
mod state;
mod state_folder;
mod stats;
mod update;
mod wait;

pub use create::join_cgroup;
pub use options::Options;
pub use resize_pty::resize;
pub use wait::response as wait_response;

use crate::commands::Turn;
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::process::Process;
use crate::server::{Origin, Shim, Task};

impl Shim {
    /// Fails unless this shim was assigned to this container, or may have it.
    fn must_serve(&self, id: &str) -> Result<()> {
        let assigned = self.assigned()?;
        if id == assigned.id || assigned.origin == Origin::Pod || self.commands.makes(id) {
            return Ok(());
        }
        Err(Error::OtherContainer { asked: id.to_owned(), ours: assigned.id.clone() })
    }

    /// The container's task, if it was created.
    fn task(&mut self, id: &str) -> Result<&mut Task> {
        if !self.tasks.contains_key(id) {
            self.must_serve(id)?;
        }
        self.tasks.get_mut(id).ok_or_else(|| Error::NoTask { id: id.to_owned() })
    }

    /// The runtime's container, while it can still be used.
    fn driver(&mut self, id: &str) -> Result<&mut Driver> {
        self.task(id)?.driver.as_mut().ok_or(Error::Finished)
    }

    /// The turn of the container's first process.
    fn turn_of(&mut self, id: &str) -> Result<Turn> {
        Ok(Turn::Process(self.task(id)?.init))
    }

    /// The serial number of a process; an empty exec id is the first one.
    pub fn serial(&mut self, id: &str, exec_id: &str) -> Result<u32> {
        let init = self.task(id)?.init;
        if exec_id.is_empty() {
            return Ok(init);
        }
        let is_it = |process: &Process| process.exec_id == exec_id && *process.container == *id;
        self.processes
            .iter()
            .find_map(|(serial, process)| is_it(process).then_some(*serial))
            .ok_or_else(|| Error::NoProcess { id: id.to_owned(), exec_id: exec_id.to_owned() })
    }

    /// A serial number that no process has.
    fn take_serial(&mut self) -> u32 {
        while self.processes.contains_key(&self.next_serial) {
            self.next_serial = self.next_serial.wrapping_add(1);
        }
        let serial = self.next_serial;
        self.next_serial = self.next_serial.wrapping_add(1);
        serial
    }

    /// A process by the names that requests use.
    fn named(&mut self, id: &str, exec_id: &str) -> Result<(u32, &mut Process)> {
        let serial = self.serial(id, exec_id)?;
        let missing = || Error::NoProcess { id: id.to_owned(), exec_id: exec_id.to_owned() };
        let process = self.processes.get_mut(&serial).ok_or_else(missing)?;
        Ok((serial, process))
    }
}
