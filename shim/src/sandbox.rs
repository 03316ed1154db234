//! containerd's sandbox service: this shim as the home of a pod, whose containers are created in it one after the other.
//!
//! What always holds: a sandbox has no process of its own besides the shim; it ends when it is stopped, and by then every
//! container in it has.

use std::time::{Duration, SystemTime};

use longshore_proto::containerd::runtime::sandbox::v1 as api;
use longshore_proto::containerd::types::Platform;
use prost::Message;

use crate::dispatch::Answer;
use crate::error::{Error, Result};
use crate::limits;
use crate::process::Caller;
use crate::server::{Origin, Shim};
use crate::timers::Timer;

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Created,
    Ready,
    Stopping,
    Stopped(SystemTime),
}

/// The sandbox of this shim.
pub struct Sandbox {
    id: String,
    phase: Phase,
    created_at: SystemTime,
    netns: String,
    waiters: Vec<Caller>,
    stoppers: Vec<Caller>,
}

impl Sandbox {
    fn state(&self) -> &'static str {
        match self.phase {
            Phase::Ready => "SANDBOX_READY",
            Phase::Created | Phase::Stopping | Phase::Stopped(_) => "SANDBOX_NOTREADY",
        }
    }

    fn exited_at(&self) -> Option<SystemTime> {
        match self.phase {
            Phase::Stopped(at) => Some(at),
            _ => None,
        }
    }

    fn exit(&self) -> api::WaitSandboxResponse {
        api::WaitSandboxResponse { exit_status: 0, exited_at: self.exited_at().map(Into::into) }
    }
}

impl Shim {
    fn sandbox_of(&mut self, id: &str) -> Result<&mut Sandbox> {
        self.sandbox
            .as_mut()
            .filter(|sandbox| sandbox.id == id)
            .ok_or_else(|| Error::NoSandbox { id: id.chars().take(limits::NAME + 1).collect() })
    }

    pub fn create_sandbox(
        &mut self,
        request: api::CreateSandboxRequest,
    ) -> Result<api::CreateSandboxResponse> {
        let assigned = self.assigned()?;
        if !matches!(assigned.origin, Origin::Foreign { .. }) {
            return Err(Error::NotBuilt {
                what: "a sandbox in a shim of the pool",
                why: "start the shim by its `start` command".into(),
            });
        }
        if request.sandbox_id != assigned.id {
            return Err(Error::OtherContainer { asked: request.sandbox_id, ours: assigned.id.clone() });
        }
        if self.sandbox.is_some() {
            return Err(Error::Exists { what: "sandbox", id: request.sandbox_id });
        }
        if !request.rootfs.is_empty() {
            return Err(Error::NotBuilt {
                what: "a sandbox with a root file system",
                why: "a sandbox of this shim has no process of its own".into(),
            });
        }
        self.sandbox = Some(Sandbox {
            id: request.sandbox_id,
            phase: Phase::Created,
            created_at: SystemTime::now(),
            netns: request.netns_path,
            waiters: Vec::new(),
            stoppers: Vec::new(),
        });
        Ok(api::CreateSandboxResponse {})
    }

    pub fn start_sandbox(&mut self, request: api::StartSandboxRequest) -> Result<api::StartSandboxResponse> {
        let sandbox = self.sandbox_of(&request.sandbox_id)?;
        match sandbox.phase {
            Phase::Created => sandbox.phase = Phase::Ready,
            Phase::Ready => return Err(Error::WrongState { operation: "start", state: "running" }),
            _ => return Err(Error::WrongState { operation: "start", state: "stopped" }),
        }
        let created_at = Some(sandbox.created_at.into());
        Ok(api::StartSandboxResponse { pid: std::process::id(), created_at, spec: None })
    }

    pub fn sandbox_platform(&mut self, request: api::PlatformRequest) -> Result<api::PlatformResponse> {
        self.sandbox_of(&request.sandbox_id)?;
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let platform =
            Platform { os: "linux".into(), architecture: architecture.into(), ..Platform::default() };
        Ok(api::PlatformResponse { platform: Some(platform) })
    }

    pub fn sandbox_status(
        &mut self,
        request: api::SandboxStatusRequest,
    ) -> Result<api::SandboxStatusResponse> {
        let containers = self.tasks.keys().cloned().collect::<Vec<_>>().join(",");
        let verbose = request.verbose;
        let sandbox = self.sandbox_of(&request.sandbox_id)?;
        let info = [("containers", containers), ("netns", sandbox.netns.clone())];
        let info = info.into_iter().filter(|_| verbose).map(|(key, value)| (key.to_owned(), value));
        Ok(api::SandboxStatusResponse {
            sandbox_id: sandbox.id.clone(),
            pid: std::process::id(),
            state: sandbox.state().to_owned(),
            info: info.collect(),
            created_at: Some(sandbox.created_at.into()),
            exited_at: sandbox.exited_at().map(Into::into),
            extra: None,
        })
    }

    pub fn ping_sandbox(&mut self, request: api::PingRequest) -> Result<api::PingResponse> {
        self.sandbox_of(&request.sandbox_id)?;
        Ok(api::PingResponse {})
    }

    pub fn sandbox_metrics(
        &mut self,
        request: api::SandboxMetricsRequest,
    ) -> Result<api::SandboxMetricsResponse> {
        self.sandbox_of(&request.sandbox_id)?;
        Err(Error::NotBuilt {
            what: "metrics of a sandbox",
            why: "a sandbox of this shim has no cgroup of its own; ask for those of its containers".into(),
        })
    }

    /// Ends every container of the sandbox; answered when all have ended.
    pub fn stop_sandbox(&mut self, caller: Caller, request: &api::StopSandboxRequest) -> Result<Answer> {
        let sandbox = self.sandbox_of(&request.sandbox_id)?;
        if sandbox.exited_at().is_some() {
            return Ok(Answer::Now(Vec::new()));
        }
        sandbox.phase = Phase::Stopping;
        sandbox.stoppers.push(caller);
        let patience = match request.timeout_secs {
            0 => limits::SANDBOX_STOP,
            seconds => Duration::from_secs(seconds.into()),
        };
        let answer = self.keep_open(caller);
        self.signal_sandbox(libc::SIGTERM);
        self.timers.set(patience, Timer::Sandbox);
        self.sandbox_lost_a_container();
        Ok(answer)
    }

    pub fn wait_sandbox(&mut self, caller: Caller, request: &api::WaitSandboxRequest) -> Result<Answer> {
        let sandbox = self.sandbox_of(&request.sandbox_id)?;
        if sandbox.exited_at().is_some() {
            return Ok(Answer::Now(sandbox.exit().encode_to_vec()));
        }
        sandbox.waiters.push(caller);
        Ok(self.keep_open(caller))
    }

    /// The end of the sandbox: what is left in it is killed, and the shim leaves with its last container.
    pub fn shutdown_sandbox(
        &mut self,
        request: api::ShutdownSandboxRequest,
    ) -> Result<api::ShutdownSandboxResponse> {
        self.sandbox_of(&request.sandbox_id)?;
        self.signal_sandbox(libc::SIGKILL);
        self.sandbox_ended();
        self.sandbox = None;
        if self.tasks.is_empty() {
            self.leave();
        }
        Ok(api::ShutdownSandboxResponse {})
    }

    fn signal_sandbox(&mut self, signal: i32) {
        let inits: Vec<u32> = self.tasks.values().map(|task| task.init).collect();
        for init in inits {
            // One that has ended needs no signal.
            let _ = self.kill_process(init, signal, |_, _| {});
        }
    }

    /// The containers of a sandbox that is being stopped have had their time.
    pub fn kill_sandbox(&mut self) {
        if self.sandbox.as_ref().is_some_and(|sandbox| sandbox.phase == Phase::Stopping) {
            self.signal_sandbox(libc::SIGKILL);
        }
    }

    /// A sandbox that is being stopped has stopped when no container of it lives.
    pub fn sandbox_lost_a_container(&mut self) {
        if self.sandbox.as_ref().is_none_or(|sandbox| sandbox.phase != Phase::Stopping) {
            return;
        }
        if !self.processes.values().any(|process| process.is_init() && process.is_alive()) {
            self.sandbox_ended();
        }
    }

    fn sandbox_ended(&mut self) {
        let Some(sandbox) = &mut self.sandbox else { return };
        if sandbox.exited_at().is_none() {
            sandbox.phase = Phase::Stopped(SystemTime::now());
        }
        let exit = sandbox.exit();
        let (waiters, stoppers) =
            (std::mem::take(&mut sandbox.waiters), std::mem::take(&mut sandbox.stoppers));
        waiters.into_iter().for_each(|caller| self.answer(caller, &exit));
        stoppers.into_iter().for_each(|caller| self.answer(caller, &api::StopSandboxResponse {}));
    }

    /// Forgets calls of a connection that is gone, or of a caller that has given up.
    pub fn forget_sandbox_callers(&mut self, which: impl Fn(&Caller) -> bool) {
        if let Some(sandbox) = &mut self.sandbox {
            sandbox.waiters.retain(|caller| !which(caller));
            sandbox.stoppers.retain(|caller| !which(caller));
        }
    }
}
