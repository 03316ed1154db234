//! `Start`: opens the gate of the first process, or makes and starts an exec.

use std::os::fd::OwnedFd;
use std::time::SystemTime;

use longshore_proto::containerd::events::{TaskExecStarted, TaskStart};
use longshore_proto::containerd::task::v3::{StartRequest, StartResponse};
use longshore_runtime::{Container, Error as RuntimeError, ExecOptions, Process as LibraryProcess, Stdio};
use oci_spec::runtime::Process as ProcessSpec;
use prost::Message;
use rustix::termios::Winsize;

use crate::commands::Turn;
use crate::dispatch::Answer;
use crate::driver::{Driver, ExecByCommand, ExecHandle, Step};
use crate::error::{Error, Result};
use crate::events::What;
use crate::process::{Caller, Phase};
use crate::server::Shim;
use crate::stdio::{Attachable, Identity, Io};
use crate::{exit, poll, report};

impl Shim {
    pub fn start(&mut self, caller: Caller, request: StartRequest) -> Result<Answer> {
        let serial = self.serial(&request.id, &request.exec_id)?;
        let turn = Turn::Process(serial);
        if self.commands.is_busy(&turn) {
            return Ok(Answer::InTurn(turn));
        }
        let (_, process) = self.named(&request.id, &request.exec_id)?;
        match &process.phase {
            Phase::Created | Phase::Added(_) => {}
            Phase::Running | Phase::Stopped(_) => {
                return Err(Error::WrongState { operation: "start", state: process.state() });
            }
        }
        if process.is_init() {
            return self.start_init(caller, serial, request.id);
        }
        self.start_exec(caller, serial, request)
    }

    fn start_init(&mut self, caller: Caller, serial: u32, id: String) -> Result<Answer> {
        let turn = Turn::Process(serial);
        // A program that is slow to be had must not hold up other containers of the pod.
        let always = self.is_pods();
        if let Driver::Library(container) = self.driver(&id)?
            && let Some(opening) = container.opening(always)?
        {
            let answer = self.keep_open(caller);
            if let Some(process) = self.processes.get_mut(&serial) {
                // If it ends before its hooks, its record says when it was let go.
                process.started_at = Some(SystemTime::now());
            }
            let run = move || Ok(opening.run()?);
            self.beside(turn, run, move |shim, result| {
                let answer = shim.init_started(serial, id, result);
                shim.reply(caller, answer);
            });
            return Ok(answer);
        }
        let step = self.driver(&id)?.start().inspect_err(|error| self.start_failed(serial, error))?;
        self.after(caller, turn, step, move |shim, result| shim.init_started(serial, id, result))
    }

    /// The first process was started, or could not be.
    fn init_started(&mut self, serial: u32, id: String, result: Result<()>) -> Result<StartResponse> {
        let started = result.and_then(|()| {
            let driver = self.driver(&id)?;
            driver.started()?;
            Ok((driver.pid(), driver.late_terminal()?))
        });
        let adopted = started.and_then(|(pid, terminal)| self.adopt_restored(serial, pid, terminal));
        adopted.inspect_err(|error| self.start_failed(serial, error))?;
        let pid = self.mark_running(serial);
        self.emit(&What::Start(TaskStart { container_id: id, pid }));
        Ok(StartResponse { pid })
    }

    /// A process that another runtime has restored is there only now, and so is its terminal.
    fn adopt_restored(&mut self, serial: u32, pid: i32, terminal: Option<OwnedFd>) -> Result<()> {
        let Some(process) = self.processes.get_mut(&serial) else { return Ok(()) };
        process.pid = pid;
        if let Some(terminal) = terminal {
            process.io.adopt_terminal(terminal)?;
            self.feed_input(serial);
            self.resume_output(serial);
        }
        Ok(())
    }

    fn start_exec(&mut self, caller: Caller, serial: u32, request: StartRequest) -> Result<Answer> {
        let (mut io, stdio) =
            self.open_exec(serial, &request.id).inspect_err(|error| self.start_failed(serial, error))?;
        let Some(logger) = io.take_start() else {
            return self.start_exec_with(caller, serial, request, io, stdio);
        };
        let answer = self.keep_open(caller);
        self.beside(
            Turn::Process(serial),
            move || logger.wait(),
            move |shim, ready| {
                let started = match ready {
                    Ok(()) => shim.start_exec_with(caller, serial, request, io, stdio),
                    Err(error) => {
                        shim.start_failed(serial, &error);
                        Err(error)
                    }
                };
                shim.resolve(caller, started);
            },
        );
        Ok(answer)
    }

    fn start_exec_with(
        &mut self,
        caller: Caller,
        serial: u32,
        request: StartRequest,
        io: Io,
        stdio: Stdio,
    ) -> Result<Answer> {
        let is_pods = self.is_pods();
        let task = self.tasks.get_mut(&request.id).ok_or(Error::Finished)?;
        let driver = task.driver.as_mut().ok_or(Error::Finished)?;
        let process = self.processes.get(&serial).ok_or(Error::Finished)?;
        let Phase::Added(spec) = &process.phase else { return Err(Error::Finished) };
        match driver {
            // What is slow in it must not hold up other containers of the pod.
            Driver::Library(container) if is_pods && container.can_add_beside() => {
                let options = options(spec, stdio, process.console);
                let addition = container
                    .addition(options)
                    .map_err(Error::from)
                    .inspect_err(|error| self.start_failed(serial, error))?;
                let answer = self.keep_open(caller);
                self.beside(
                    Turn::Process(serial),
                    move || Ok(addition.run()?),
                    move |shim, made| shim.exec_made_beside(caller, serial, request, io, made),
                );
                Ok(answer)
            }
            Driver::Library(container) => {
                let made = make_by_library(container, spec, stdio, process.console);
                let started = made.and_then(|made| self.exec_made(serial, io, made));
                let answer = self.exec_started(serial, request, started)?;
                Ok(Answer::Now(answer.encode_to_vec()))
            }
            Driver::Command(command) => {
                let (addition, order) =
                    command.exec(spec, stdio).inspect_err(|error| self.start_failed(serial, error))?;
                let step = Step::Run(Box::new(order));
                self.after(caller, Turn::Process(serial), step, move |shim, result| {
                    let made = match result {
                        Ok(()) => addition.finish(),
                        Err(error) => {
                            addition.abandon();
                            Err(error)
                        }
                    };
                    let started = made.and_then(|made| shim.exec_made(serial, io, made.into()));
                    shim.exec_started(serial, request, started)
                })
            }
        }
    }

    /// A thread has made the process of an exec; another one opens its gate.
    fn exec_made_beside(
        &mut self,
        caller: Caller,
        serial: u32,
        request: StartRequest,
        io: Io,
        made: Result<(LibraryProcess, Vec<String>)>,
    ) {
        let adopted = made.and_then(|(process, warnings)| {
            for warning in &warnings {
                report::warn(&request.id, warning);
            }
            let adopted = self.exec_adopted(serial, io, process.into());
            self.feed_input(serial);
            self.resume_output(serial);
            adopted
        });
        let opening = adopted.and_then(|()| {
            let handle = self.processes.get_mut(&serial).and_then(|process| process.handle.as_mut());
            match handle {
                Some(ExecHandle::Library(handle)) => Ok(handle.opening()?),
                Some(ExecHandle::Command(_)) | None => Err(Error::Finished),
            }
        });
        let opening = match opening {
            Ok(opening) => opening,
            Err(error) => {
                let answer = self.exec_started(serial, request, Err(error));
                return self.reply(caller, answer);
            }
        };
        let run = move || Ok(opening.run()?);
        self.beside(Turn::Process(serial), run, move |shim, opened: Result<()>| {
            let started = opened.map(|()| shim.mark_running(serial));
            let answer = shim.exec_started(serial, request, started);
            shim.reply(caller, answer);
        });
    }

    /// Opens the stdio of an exec: the shim's side, and its own.
    fn open_exec(&mut self, serial: u32, id: &str) -> Result<(Io, Stdio)> {
        let task = self.tasks.get(id).ok_or(Error::Finished)?;
        if !self.processes.get(&task.init).is_some_and(|init| init.is_running()) {
            return Err(RuntimeError::NotRunning.into());
        }
        let process = self.processes.get(&serial).ok_or(Error::Finished)?;
        let wanted = Attachable {
            stdin: process.attachments.iter().any(|client| client.stdin),
            stdout: process.attachments.iter().any(|client| client.wants(poll::Stream::Stdout)),
            stderr: process.attachments.iter().any(|client| client.wants(poll::Stream::Stderr)),
        };
        let namespace =
            self.assigned.as_ref().map(|assigned| assigned.namespace.as_str()).unwrap_or_default();
        Io::open(&process.paths, wanted, task.owner, &Identity { id, namespace })
    }

    /// The process of an exec is there. If nobody wants it any more, it ends.
    fn exec_made(&mut self, serial: u32, io: Io, made: MadeExec) -> Result<u32> {
        let adopted = self.exec_adopted(serial, io, made);
        let handle = self.processes.get_mut(&serial).and_then(|process| process.handle.as_mut());
        let started = adopted.and_then(|()| match handle {
            Some(ExecHandle::Library(handle)) => Ok(handle.start()?),
            // Another runtime has no gate: it runs already.
            Some(ExecHandle::Command(_)) => Ok(()),
            None => Err(Error::Finished),
        });
        self.feed_input(serial);
        self.resume_output(serial);
        started?;
        Ok(self.mark_running(serial))
    }

    fn exec_adopted(&mut self, serial: u32, io: Io, mut made: MadeExec) -> Result<()> {
        let Some(process) = self.processes.get_mut(&serial) else {
            let _ = made.handle.kill(libc::SIGKILL);
            return Err(Error::Finished);
        };
        process.io = io;
        process.pid = made.pid;
        process.phase = Phase::Created;
        let adopted = match made.terminal.take() {
            Some(terminal) => set_size(&terminal, process.console, &made.handle)
                .and_then(|()| process.io.adopt_terminal(terminal)),
            None => Ok(()),
        };
        process.push_early_stdin();
        process.handle = Some(made.handle);
        adopted
    }

    /// An exec was started, or could not be.
    fn exec_started(
        &mut self,
        serial: u32,
        request: StartRequest,
        started: Result<u32>,
    ) -> Result<StartResponse> {
        let pid = started.inspect_err(|error| self.start_failed(serial, error))?;
        let StartRequest { id: container_id, exec_id } = request;
        self.emit(&What::ExecStarted(TaskExecStarted { container_id, exec_id, pid }));
        Ok(StartResponse { pid })
    }

    fn mark_running(&mut self, serial: u32) -> u32 {
        let Some(process) = self.processes.get_mut(&serial) else { return 0 };
        let ooms = self.tasks.get(&*process.container).map_or(0, |task| task.ooms);
        process.phase = Phase::Running;
        process.started_at.get_or_insert_with(SystemTime::now);
        process.ooms_before = ooms;
        process.wire_pid()
    }

    /// A process that could not be started ends: with the code that shells give, if its program is the reason. An exec that another
    /// runtime could not make stays what it was, as with containerd's own shim.
    fn start_failed(&mut self, serial: u32, error: &Error) {
        let code = match error {
            Error::Runtime(error) => error.exit_code(),
            _ => None,
        };
        let code = code.unwrap_or(exit::NOT_STARTED);
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let container = process.container.clone();
        let driver = self.tasks.get(&*container).and_then(|task| task.driver.as_ref());
        match process.phase {
            Phase::Added(_) if matches!(driver, Some(Driver::Command(_))) => {
                let waiters = std::mem::take(&mut process.waiters);
                waiters.into_iter().for_each(|waiter| self.fail(waiter, error));
                // The first process's end may have waited for it.
                self.announce_what_may_be(&container);
            }
            Phase::Added(_) => {
                process.unusable = Some(code);
                // There never was a process: nothing will be reaped.
                self.exited(serial, code.into());
            }
            _ => {
                // One whose poststart hook fails has run, and one that was killed at its gate ends by that: its own end tells.
                let has_run = matches!(error, Error::Runtime(RuntimeError::Hook { kind: "poststart", .. }));
                if !has_run {
                    process.started_at = None;
                }
                if !has_run && !matches!(error, Error::Runtime(RuntimeError::NotRunning)) {
                    process.unusable = Some(code);
                }
                // Often it has ended by itself; it is reaped like any other.
                let _ = self.kill_process(serial, libc::SIGKILL, |_, _| {});
            }
        }
    }
}

/// An exec that was made.
struct MadeExec {
    pid: i32,
    handle: ExecHandle,
    terminal: Option<OwnedFd>,
}

impl From<ExecByCommand> for MadeExec {
    fn from(made: ExecByCommand) -> Self {
        Self { pid: made.pid, handle: ExecHandle::Command(made.pidfd), terminal: made.terminal }
    }
}

impl From<LibraryProcess> for MadeExec {
    fn from(mut handle: LibraryProcess) -> Self {
        let terminal = handle.take_terminal();
        Self { pid: handle.pid(), terminal, handle: ExecHandle::Library(Box::new(handle)) }
    }
}

fn make_by_library(
    container: &mut Container,
    spec: &ProcessSpec,
    stdio: Stdio,
    console_size: Option<(u16, u16)>,
) -> Result<MadeExec> {
    Ok(container.exec(options(spec, stdio, console_size))?.into())
}

fn options(spec: &ProcessSpec, stdio: Stdio, console_size: Option<(u16, u16)>) -> ExecOptions<'_> {
    ExecOptions { process: spec, stdio, console_size, ignore_paused: false, preserve_fds: 0 }
}

/// Gives a terminal that another runtime has made its size.
fn set_size(terminal: &OwnedFd, size: Option<(u16, u16)>, made_by: &ExecHandle) -> Result<()> {
    let (Some((ws_col, ws_row)), ExecHandle::Command(_)) = (size, made_by) else { return Ok(()) };
    let size = Winsize { ws_col, ws_row, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).map_err(Error::system("resize the terminal"))
}
