//! `Start`: opens the gate of the first process, or makes and starts an exec.

use std::os::fd::OwnedFd;
use std::time::SystemTime;

use longshore_proto::containerd::events::{TaskExecStarted, TaskStart};
use longshore_proto::containerd::task::v3::{StartRequest, StartResponse};
use longshore_runtime::{Error as RuntimeError, ExecOptions, Stdio};
use oci_spec::runtime::Process as ProcessSpec;
use rustix::termios::Winsize;

use crate::driver::{Driver, ExecHandle};
use crate::error::{Error, Result};
use crate::events::What;
use crate::process::Phase;
use crate::server::Shim;
use crate::stdio::{Attachable, Identity, Io};
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
        if process.is_init() {
            return self.start_init(serial, request.id);
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

    fn start_init(&mut self, serial: u32, id: String) -> Result<StartResponse> {
        let driver = self.driver(&id)?;
        if let Err(error) = driver.start() {
            self.start_failed(serial, &error);
            return Err(error);
        }
        // A restored process exists only now.
        let pid = driver.pid();
        if let Some(process) = self.processes.get_mut(&serial) {
            process.pid = pid;
        }
        let pid = self.mark_running(serial);
        self.emit(&What::Start(TaskStart { container_id: id, pid }));
        Ok(StartResponse { pid })
    }

    fn mark_running(&mut self, serial: u32) -> u32 {
        let Some(process) = self.processes.get_mut(&serial) else { return 0 };
        let ooms = self.tasks.get(&*process.container).map_or(0, |task| task.ooms);
        process.phase = Phase::Running;
        process.started_at = Some(SystemTime::now());
        process.ooms_before = ooms;
        process.wire_pid()
    }

    fn start_exec(&mut self, serial: u32, id: &str) -> Result<u32> {
        let missing = || Error::NoProcess { id: id.to_owned(), exec_id: serial.to_string() };
        let init = self.task(id)?.init;
        if !self.processes.get(&init).is_some_and(|init| init.is_running()) {
            return Err(RuntimeError::NotRunning.into());
        }
        let namespace =
            self.assigned.as_ref().map(|assigned| assigned.namespace.as_str()).unwrap_or_default();
        let task = self.tasks.get_mut(id).ok_or(Error::Finished)?;
        let driver = task.driver.as_mut().ok_or(Error::Finished)?;
        let process = self.processes.get_mut(&serial).ok_or_else(missing)?;
        let Phase::Added(spec) = &process.phase else { return Err(Error::Finished) };
        let wanted = Attachable {
            stdin: process.attachments.iter().any(|client| client.stdin),
            stdout: process.attachments.iter().any(|client| client.wants(poll::Stream::Stdout)),
            stderr: process.attachments.iter().any(|client| client.wants(poll::Stream::Stderr)),
        };
        let identity = Identity { id, namespace };
        let (io, child_stdio) = Io::open(&process.paths, wanted, task.owner, &identity)?;
        let mut made = make_exec(driver, &process.exec_id, spec, child_stdio, process.console)?;
        process.io = io;
        process.pid = made.pid;
        process.phase = Phase::Created;
        let adopted = match made.terminal.take() {
            Some(terminal) => process.io.adopt_terminal(terminal),
            None => Ok(()),
        };
        process.push_early_stdin();
        let started = adopted.and_then(|()| match &mut made.handle {
            ExecHandle::Library(handle) => Ok(handle.start()?),
            // Another runtime has no gate: it runs already.
            ExecHandle::Command(_) => Ok(()),
        });
        process.handle = Some(made.handle);
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

/// An exec that was made.
struct MadeExec {
    pid: i32,
    handle: ExecHandle,
    terminal: Option<OwnedFd>,
}

fn make_exec(
    driver: &mut Driver,
    exec_id: &str,
    spec: &ProcessSpec,
    stdio: Stdio,
    console_size: Option<(u16, u16)>,
) -> Result<MadeExec> {
    match driver {
        Driver::Library(container) => {
            let mut handle =
                container.exec(ExecOptions { process: spec, stdio, console_size, ignore_paused: false })?;
            let terminal = handle.take_terminal();
            Ok(MadeExec { pid: handle.pid(), terminal, handle: ExecHandle::Library(Box::new(handle)) })
        }
        Driver::Command(command) => {
            let made = command.exec(exec_id, spec, stdio)?;
            if let (Some(terminal), Some((ws_col, ws_row))) = (&made.terminal, console_size) {
                let size = Winsize { ws_col, ws_row, ws_xpixel: 0, ws_ypixel: 0 };
                rustix::termios::tcsetwinsize(terminal, size)
                    .map_err(Error::system("resize the terminal"))?;
            }
            Ok(MadeExec { pid: made.pid, terminal: made.terminal, handle: ExecHandle::Command(made.pidfd) })
        }
    }
}
