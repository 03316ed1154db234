//! `Start`: opens the gate of the first process, or makes and starts an exec.

use std::time::SystemTime;

use longshore_proto::containerd::events::{TaskExecStarted, TaskStart};
use longshore_proto::containerd::task::v3::{StartRequest, StartResponse};
use longshore_runtime::{Error as RuntimeError, ExecOptions};

use crate::error::{Error, Result};
use crate::events::What;
use crate::process::{INIT, Phase};
use crate::server::Shim;
use crate::stdio::{Attachable, Io};
use crate::{exit, poll};

impl Shim {
    pub fn start(&mut self, request: StartRequest) -> Result<StartResponse> {
        let (serial, process) = self.named(&request.id, &request.exec_id)?;
        match &process.phase {
            Phase::Created | Phase::Added(_) => {}
            Phase::Running | Phase::Stopped(_) => {
                return Err(Error::WrongState { operation: "start", state: process.state() });
            }
        }
        if serial == INIT {
            return self.start_init(request.id);
        }
        match self.start_exec(serial, &request.id) {
            Ok(pid) => {
                let StartRequest { id: container_id, exec_id } = request;
                self.emit(&What::ExecStarted(TaskExecStarted { container_id, exec_id, pid }));
                Ok(StartResponse { pid })
            }
            Err(error) => {
                self.start_failed(serial, &error);
                Err(error)
            }
        }
    }

    fn start_init(&mut self, id: String) -> Result<StartResponse> {
        if let Err(error) = self.container(&id)?.start() {
            let error = Error::from(error);
            self.start_failed(INIT, &error);
            return Err(error);
        }
        let pid = self.mark_running(INIT);
        self.emit(&What::Start(TaskStart { container_id: id, pid }));
        Ok(StartResponse { pid })
    }

    fn mark_running(&mut self, serial: u32) -> u32 {
        let ooms = self.task.as_ref().map_or(0, |task| task.ooms);
        let Some(process) = self.processes.get_mut(&serial) else { return 0 };
        process.phase = Phase::Running;
        process.started_at = Some(SystemTime::now());
        process.ooms_before = ooms;
        process.wire_pid()
    }

    fn start_exec(&mut self, serial: u32, id: &str) -> Result<u32> {
        let missing = || Error::NoProcess { id: id.to_owned(), exec_id: serial.to_string() };
        if !self.processes.get(&INIT).is_some_and(|init| init.is_running()) {
            return Err(RuntimeError::NotRunning.into());
        }
        let container = self.task.as_mut().and_then(|task| task.container.as_mut()).ok_or(Error::Finished)?;
        let process = self.processes.get_mut(&serial).ok_or_else(missing)?;
        let Phase::Added(spec) = &process.phase else { return Err(Error::Finished) };
        let wanted = Attachable {
            stdin: process.attachments.iter().any(|client| client.stdin),
            stdout: process.attachments.iter().any(|client| client.wants(poll::Stream::Stdout)),
            stderr: process.attachments.iter().any(|client| client.wants(poll::Stream::Stderr)),
        };
        let (io, child_stdio) = Io::open(&process.paths, wanted, None)?;
        let mut handle = container.exec(ExecOptions {
            process: spec,
            stdio: child_stdio,
            console_size: process.console,
            ignore_paused: false,
        })?;
        process.io = io;
        process.pid = handle.pid();
        process.phase = Phase::Created;
        let adopted = match handle.take_terminal() {
            Some(terminal) => process.io.adopt_terminal(terminal),
            None => Ok(()),
        };
        process.push_early_stdin();
        let started = adopted.and_then(|()| Ok(handle.start()?));
        process.handle = Some(handle);
        self.feed_input(serial);
        self.resume_output(serial);
        started?;
        Ok(self.mark_running(serial))
    }

    /// A process that could not be started ends: with the code that shells give, if its program is the reason.
    fn start_failed(&mut self, serial: u32, error: &Error) {
        let code = match error {
            Error::Runtime(error) => error.exit_code(),
            _ => None,
        };
        let code = code.unwrap_or(exit::NOT_STARTED);
        let Some(process) = self.processes.get_mut(&serial) else { return };
        process.unusable = Some(code);
        if matches!(process.phase, Phase::Added(_)) {
            // There never was a process: nothing will be reaped.
            self.exited(serial, code.into());
        } else {
            // Often it has ended by itself; it is reaped like any other.
            let _ = self.kill_process(serial, libc::SIGKILL);
        }
    }
}
