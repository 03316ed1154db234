//! `Kill`: a signal to one process, or to all of the container.

use longshore_proto::containerd::task::v3::KillRequest;

use crate::commands::Turn;
use crate::dispatch::Answer;
use crate::driver::Step;
use crate::error::{Error, Result};
use crate::process::Caller;
use crate::server::Shim;

/// The highest signal number of Linux.
const HIGHEST: u32 = 64;

impl Shim {
    pub fn kill(&mut self, caller: Caller, request: &KillRequest) -> Result<Answer> {
        let Some(signal) = i32::try_from(request.signal).ok().filter(|_| request.signal <= HIGHEST) else {
            let why = format!("{} is no signal number (0 to {HIGHEST})", request.signal);
            return Err(Error::BadField { field: "signal", why });
        };
        let serial = self.serial(&request.id, &request.exec_id)?;
        let is_init = request.exec_id.is_empty();
        let mut turn = Turn::Process(serial);
        if is_init && signal == libc::SIGKILL {
            // What hangs can be ended; an exec has to be there first.
            turn = Turn::None;
        }
        if self.commands.is_busy(&turn) {
            return Ok(Answer::InTurn(turn));
        }
        let is_pods = self.is_pods();
        let step = match request.all && is_init {
            true => self.driver(&request.id)?.kill_all(signal, is_pods)?,
            false => self.signal(serial, signal)?,
        };
        if matches!(step, Step::Beside(_)) {
            // It has had its signal, and is deleted when all in it have gone or do not go.
            turn = Turn::Process(serial);
        }
        self.after(caller, turn, step, |_, result| result)
    }

    /// Signals one process, out of turn; [`Error::Finished`] if it is known to have ended. What comes of it is told to `then`.
    pub fn kill_process(
        &mut self,
        serial: u32,
        signal: i32,
        then: impl FnOnce(&mut Self, Result<()>) + 'static,
    ) -> Result<()> {
        if let Step::Run(order) = self.signal(serial, signal)? {
            self.launch(order, Turn::None, then);
        }
        Ok(())
    }

    fn signal(&mut self, serial: u32, signal: i32) -> Result<Step> {
        let Some(process) = self.processes.get(&serial) else { return Err(Error::Finished) };
        if !process.is_alive() {
            return Err(match process.exit_record() {
                Some(_) => Error::Finished,
                None => Error::WrongState { operation: "signal", state: process.state() },
            });
        }
        match &process.handle {
            Some(handle) => handle.kill(signal).map(|()| Step::Done),
            None => {
                let driver = self.tasks.get(&*process.container).and_then(|task| task.driver.as_ref());
                driver.ok_or(Error::Finished)?.kill(signal)
            }
        }
    }
}
