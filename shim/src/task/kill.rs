//! `Kill`: a signal to one process, or to all of the container.

use longshore_proto::containerd::task::v3::KillRequest;

use crate::error::{Error, Result};
use crate::server::Shim;

/// The highest signal number of Linux.
const HIGHEST: u32 = 64;

impl Shim {
    pub fn kill(&mut self, request: KillRequest) -> Result<()> {
        let Some(signal) = i32::try_from(request.signal).ok().filter(|_| request.signal <= HIGHEST) else {
            let why = format!("{} is no signal number (0 to {HIGHEST})", request.signal);
            return Err(Error::BadField { field: "signal", why });
        };
        let serial = self.serial(&request.id, &request.exec_id)?;
        if request.all && request.exec_id.is_empty() {
            return self.driver(&request.id)?.kill_all(signal);
        }
        self.kill_process(serial, signal)
    }

    /// Signals one process; [`Error::Finished`] if it has ended.
    pub fn kill_process(&mut self, serial: u32, signal: i32) -> Result<()> {
        let Some(process) = self.processes.get(&serial) else { return Err(Error::Finished) };
        if !process.is_alive() {
            return Err(match process.exit_record() {
                Some(_) => Error::Finished,
                None => Error::WrongState { operation: "signal", state: process.state() },
            });
        }
        match &process.handle {
            Some(handle) => handle.kill(signal)?,
            None => {
                let driver = self.tasks.get(&*process.container).and_then(|task| task.driver.as_ref());
                driver.ok_or(Error::Finished)?.kill(signal)?;
            }
        }
        Ok(())
    }
}
