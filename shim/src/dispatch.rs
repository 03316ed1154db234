//! From a message on a connection to the method that it names, and the answer back.

use longshore_proto::longshore::shim::v1::AttachInput;
use longshore_proto::ttrpc::{self, Flags, Request};
use prost::Message;

use crate::commands::Turn;
use crate::connection::{Incoming, Open};
use crate::error::{Error, Result};
use crate::process::Caller;
use crate::server::Shim;
use crate::timers::Timer;

const SHIM: &str = "longshore.shim.v1.Shim";
const SANDBOX: &str = "containerd.runtime.sandbox.v1.Sandbox";
/// Both versions have the same messages on the wire.
const TASK: [&str; 2] = ["containerd.task.v3.Task", "containerd.task.v2.Task"];

/// Methods that only look.
const LOOKS: [&str; 3] = ["State", "Pids", "Stats"];

/// How a method answers.
pub enum Answer {
    /// With this encoded message.
    Now(Vec<u8>),
    /// By itself, later, on the caller's stream.
    Later,
    /// Not yet: what another OCI runtime does comes first.
    InTurn(Turn),
}

impl Shim {
    /// Handles one message of a connection.
    pub fn on_incoming(&mut self, connection: u32, incoming: Incoming) {
        match incoming {
            Incoming::Refused { stream, error } => self.fail(Caller { connection, stream }, &error),
            Incoming::Request { stream, flags, request } => {
                self.on_request(Caller { connection, stream }, flags, &request);
            }
            Incoming::Data { stream, flags, bytes } => {
                self.on_data(Caller { connection, stream }, flags, &bytes);
            }
        }
    }

    /// Handles a request, perhaps one that had to wait.
    pub fn on_request(&mut self, caller: Caller, flags: Flags, request: &Request) {
        let answer = if request.service == SHIM {
            self.shim_method(caller, flags, request)
        } else if TASK.contains(&request.service.as_str()) {
            match self.task_method(caller, request) {
                // What is to be done with a container that is being made comes after that; how it is can be told now.
                Err(Error::NoTask { id })
                    if self.commands.makes(&id) && !LOOKS.contains(&request.method.as_str()) =>
                {
                    Ok(Answer::InTurn(Turn::Creation(id.into())))
                }
                answer => answer,
            }
        } else if request.service == SANDBOX {
            self.sandbox_method(caller, request)
        } else {
            Err(no_method(request))
        };
        match answer {
            Ok(Answer::Now(payload)) => {
                if let Some(connection) = self.connections.get_mut(&caller.connection) {
                    connection.answer_raw(caller.stream, payload);
                }
            }
            Ok(Answer::Later) => self.defer(caller, request.timeout_nano),
            Ok(Answer::InTurn(turn)) => match self.wait_for_turn(caller, flags, request, turn) {
                Ok(()) => self.defer(caller, request.timeout_nano),
                Err(error) => self.fail(caller, &error),
            },
            Err(error) => self.fail(caller, &error),
        }
    }

    fn on_data(&mut self, caller: Caller, flags: Flags, bytes: &[u8]) {
        let open = self.connections.get(&caller.connection).and_then(|c| c.streams.get(&caller.stream));
        // Data for a stream that has ended, or takes none, crossed our answer.
        let Some(Open::AttachOpening | Open::Attached(_)) = open else { return };
        if !flags.contains(Flags::NO_DATA) {
            match ttrpc::decode::<AttachInput>(bytes, "AttachInput") {
                Ok(input) => self.attach_input(caller, input),
                Err(error) => return self.leave_stream(caller, &error.into()),
            }
        }
        if flags.contains(Flags::REMOTE_CLOSED) {
            self.attach_half_closed(caller);
        }
    }

    fn shim_method(&mut self, caller: Caller, flags: Flags, request: &Request) -> Result<Answer> {
        let payload = request.payload.as_slice();
        match request.method.as_str() {
            "Assign" => self.unary(payload, Self::assign),
            "Publish" => self.unary(payload, Self::publish_ports),
            "ReopenLog" => self.unary(payload, Self::reopen_log),
            "Events" => self.subscribe(caller, ttrpc::decode(payload, "EventsRequest")?),
            "Attach" => {
                if let Some(connection) = self.connections.get_mut(&caller.connection) {
                    connection.streams.insert(caller.stream, Open::AttachOpening);
                }
                if !payload.is_empty() {
                    self.on_data(caller, flags, payload);
                }
                Ok(Answer::Later)
            }
            _ => Err(no_method(request)),
        }
    }

    fn task_method(&mut self, caller: Caller, request: &Request) -> Result<Answer> {
        let payload = request.payload.as_slice();
        match request.method.as_str() {
            "State" => self.unary(payload, Self::state),
            "Create" => self.create(caller, ttrpc::decode(payload, "CreateTaskRequest")?),
            "Start" => self.start(caller, ttrpc::decode(payload, "StartRequest")?),
            "Delete" => self.delete(caller, &ttrpc::decode(payload, "DeleteRequest")?),
            "Pids" => self.unary(payload, Self::pids),
            "Pause" => self.pause(caller, ttrpc::decode(payload, "PauseRequest")?),
            "Resume" => self.resume(caller, ttrpc::decode(payload, "ResumeRequest")?),
            "Checkpoint" => self.checkpoint(caller, ttrpc::decode(payload, "CheckpointTaskRequest")?),
            "Kill" => self.kill(caller, &ttrpc::decode(payload, "KillRequest")?),
            "Exec" => self.unary(payload, Self::exec),
            "ResizePty" => self.unary(payload, Self::resize_pty),
            "CloseIO" => self.unary(payload, Self::close_io),
            "Update" => self.update(caller, &ttrpc::decode(payload, "UpdateTaskRequest")?),
            "Wait" => self.wait(caller, &ttrpc::decode(payload, "WaitRequest")?),
            "Stats" => self.unary(payload, Self::stats),
            "Connect" => self.unary(payload, Self::connect),
            "Shutdown" => self.unary(payload, Self::shutdown),
            _ => Err(no_method(request)),
        }
    }

    fn sandbox_method(&mut self, caller: Caller, request: &Request) -> Result<Answer> {
        let payload = request.payload.as_slice();
        match request.method.as_str() {
            "CreateSandbox" => self.unary(payload, Self::create_sandbox),
            "StartSandbox" => self.unary(payload, Self::start_sandbox),
            "Platform" => self.unary(payload, Self::sandbox_platform),
            "StopSandbox" => self.stop_sandbox(caller, &ttrpc::decode(payload, "StopSandboxRequest")?),
            "WaitSandbox" => self.wait_sandbox(caller, &ttrpc::decode(payload, "WaitSandboxRequest")?),
            "SandboxStatus" => self.unary(payload, Self::sandbox_status),
            "PingSandbox" => self.unary(payload, Self::ping_sandbox),
            "ShutdownSandbox" => self.unary(payload, Self::shutdown_sandbox),
            "SandboxMetrics" => self.unary(payload, Self::sandbox_metrics),
            _ => Err(no_method(request)),
        }
    }

    fn unary<Q, A>(&mut self, payload: &[u8], method: fn(&mut Self, Q) -> Result<A>) -> Result<Answer>
    where
        Q: Message + Default,
        A: Message,
    {
        let request = ttrpc::decode(payload, "request")?;
        method(self, request).map(|answer| Answer::Now(answer.encode_to_vec()))
    }

    /// Notes a call that is answered later, unless it was answered meanwhile.
    fn defer(&mut self, caller: Caller, timeout_nano: i64) {
        let Some(connection) = self.connections.get(&caller.connection) else { return };
        if connection.streams.get(&caller.stream) != Some(&Open::Call) {
            return;
        }
        if let Ok(nanos @ 1..) = u64::try_from(timeout_nano) {
            let Caller { connection, stream } = caller;
            self.timers.set(std::time::Duration::from_nanos(nanos), Timer::Deadline { connection, stream });
        }
    }

    /// The caller of a deferred call has given up.
    pub fn on_deadline(&mut self, caller: Caller) {
        let Some(connection) = self.connections.get(&caller.connection) else { return };
        if connection.streams.get(&caller.stream) != Some(&Open::Call) {
            return;
        }
        for process in self.processes.values_mut() {
            process.waiters.retain(|waiter| *waiter != caller);
            process.deleters.retain(|deleter| *deleter != caller);
        }
        self.forget_sandbox_callers(|waiting| *waiting == caller);
        self.commands.forget(|waiting| *waiting == caller);
        self.fail(caller, &Error::Deadline);
    }

    /// Answers a call that was deferred; nothing if its caller is gone.
    pub fn answer<M: Message>(&mut self, caller: Caller, message: &M) {
        if let Some(connection) = self.connections.get_mut(&caller.connection) {
            connection.answer(caller.stream, message);
        }
    }

    /// Ends a call with an error.
    pub fn fail(&mut self, caller: Caller, error: &Error) {
        if let Some(connection) = self.connections.get_mut(&caller.connection) {
            connection.fail(caller.stream, error);
        }
    }

    /// Opens a call's stream for an answer that comes later.
    pub fn keep_open(&mut self, caller: Caller) -> Answer {
        if let Some(connection) = self.connections.get_mut(&caller.connection) {
            connection.streams.insert(caller.stream, Open::Call);
        }
        Answer::Later
    }
}

fn no_method(request: &Request) -> Error {
    let clip = |text: &str| text.chars().take(100).collect();
    Error::NoMethod { service: clip(&request.service), method: clip(&request.method) }
}
