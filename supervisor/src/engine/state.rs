//! The states of a container and the only places where it goes from one to another. A transition that is not
//! allowed changes nothing and says why, in the words that users of docker know.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::config::maybe_stamp;
use super::health::Health;

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, never started.
    Created,
    Running,
    Paused,
    /// Its process has ended, and its restart policy starts it again in a moment.
    Restarting,
    /// Its process has ended, or could not be started.
    Exited,
    /// Being removed: nothing but removal may follow.
    Removing,
    /// A removal that failed; it can be tried again.
    Dead,
}

impl Status {
    /// As `ps` and `inspect` write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Restarting => "restarting",
            Status::Exited => "exited",
            Status::Removing => "removing",
            Status::Dead => "dead",
        }
    }

    /// Whether a process of the container exists.
    pub fn is_live(self) -> bool {
        matches!(self, Status::Running | Status::Paused)
    }

    /// Whether it runs or will without anybody asking for it: what `ps` lists.
    pub fn is_up(self) -> bool {
        self.is_live() || self == Status::Restarting
    }
}

/// How the first process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255; 128 + n when signal n ended it.
    pub code: u32,
    pub oom_killed: bool,
    pub at: Timestamp,
}

/// Why a transition was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("is not running")]
    NotRunning,
    #[error("is already paused")]
    AlreadyPaused,
    #[error("is paused")]
    Paused,
    #[error("is not paused")]
    NotPaused,
    #[error("is running")]
    Running,
    #[error("is restarting, wait until the container is running")]
    Restarting,
    #[error("is marked for removal and cannot be started")]
    Removing,
    #[error("removal of it is already in progress")]
    RemovalInProgress,
}

/// The state and what it says about the last run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub status: Status,
    /// Process id on the host; 0 when no process exists.
    #[serde(default)]
    pub pid: u32,
    #[serde(default)]
    pub exit_code: u32,
    #[serde(default)]
    pub oom_killed: bool,
    #[serde(default, with = "maybe_stamp")]
    pub started_at: Option<Timestamp>,
    #[serde(default, with = "maybe_stamp")]
    pub finished_at: Option<Timestamp>,
    /// Why the last start failed; empty: it did not.
    #[serde(default)]
    pub error: String,
    #[serde(default)]
    pub restart_count: u32,
    /// Runs begun so far: tells the exits of one run from those of another.
    #[serde(default)]
    pub run: u64,
    /// What it has of networks while a process of it exists.
    #[serde(default)]
    pub endpoints: Vec<crate::network::endpoint::EndpointState>,
    /// Somebody asked for the end of the run: no policy starts it again.
    #[serde(default)]
    pub stop_asked: bool,
    /// Milliseconds that the last automatic restart waited; 0: there was none since the last start by hand or the last
    /// long run.
    #[serde(default)]
    pub backoff_ms: u64,
    /// What the health check says; `None`: the container has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Box<Health>>,
    /// The host's ports that lead to it meanwhile.
    #[serde(default)]
    pub ports: Vec<crate::network::ports::Published>,
}

impl State {
    /// A container that was just made.
    pub fn created() -> State {
        State {
            status: Status::Created,
            pid: 0,
            exit_code: 0,
            oom_killed: false,
            started_at: None,
            finished_at: None,
            error: String::new(),
            restart_count: 0,
            run: 0,
            endpoints: Vec::new(),
            stop_asked: false,
            backoff_ms: 0,
            health: None,
            ports: Vec::new(),
        }
    }

    /// Whether a start may begin now.
    pub fn check_start(&self) -> Result<(), Refused> {
        match self.status {
            Status::Created | Status::Exited | Status::Restarting => Ok(()),
            Status::Running => Err(Refused::Running),
            Status::Paused => Err(Refused::Paused),
            Status::Removing | Status::Dead => Err(Refused::Removing),
        }
    }

    /// Created, exited or restarting → running.
    pub fn started(&mut self, pid: u32, at: Timestamp) -> Result<(), Refused> {
        self.check_start()?;
        self.status = Status::Running;
        self.pid = pid;
        self.exit_code = 0;
        self.oom_killed = false;
        self.started_at = Some(at);
        self.finished_at = None;
        self.error.clear();
        self.run += 1;
        Ok(())
    }

    /// Somebody starts it: what policies counted begins anew.
    pub fn start_asked(&mut self) {
        self.stop_asked = false;
        self.restart_count = 0;
        self.backoff_ms = 0;
    }

    /// Exited → restarting, after a pause of so many milliseconds; restarting stays so, after a start that failed.
    pub fn restarting(&mut self, backoff_ms: u64) -> Result<(), Refused> {
        match self.status {
            Status::Exited | Status::Restarting => {
                self.status = Status::Restarting;
                self.restart_count = self.restart_count.saturating_add(1);
                self.backoff_ms = backoff_ms;
                Ok(())
            }
            Status::Removing | Status::Dead => Err(Refused::Removing),
            _ => Err(Refused::Running),
        }
    }

    /// Restarting → exited: it is not started again.
    pub fn restart_given_up(&mut self) -> Result<(), Refused> {
        match self.status {
            Status::Restarting => {
                self.status = Status::Exited;
                Ok(())
            }
            _ => Err(Refused::NotRunning),
        }
    }

    /// A start that failed: created stays created, exited stays exited, and the reason is kept.
    pub fn start_failed(&mut self, code: u32, error: &str) {
        if matches!(self.status, Status::Created | Status::Exited | Status::Restarting) {
            self.exit_code = code;
            self.error = error.to_owned();
            self.pid = 0;
        }
    }

    /// Running or paused → exited. False if there was no run to end, so that an exit is counted once.
    pub fn exited(&mut self, exit: Exit) -> bool {
        if !self.status.is_live() {
            return false;
        }
        self.status = Status::Exited;
        self.pid = 0;
        self.exit_code = exit.code;
        self.oom_killed = exit.oom_killed;
        self.finished_at = Some(exit.at);
        true
    }

    /// Running → paused.
    pub fn paused(&mut self) -> Result<(), Refused> {
        match self.status {
            Status::Running => {
                self.status = Status::Paused;
                Ok(())
            }
            Status::Paused => Err(Refused::AlreadyPaused),
            Status::Restarting => Err(Refused::Restarting),
            _ => Err(Refused::NotRunning),
        }
    }

    /// Paused → running.
    pub fn resumed(&mut self) -> Result<(), Refused> {
        match self.status {
            Status::Paused => {
                self.status = Status::Running;
                Ok(())
            }
            _ => Err(Refused::NotPaused),
        }
    }

    /// Anything without a process → removing.
    pub fn removing(&mut self) -> Result<(), Refused> {
        match self.status {
            Status::Created | Status::Exited | Status::Dead => {
                self.status = Status::Removing;
                Ok(())
            }
            Status::Running => Err(Refused::Running),
            Status::Paused => Err(Refused::Paused),
            Status::Restarting => Err(Refused::Restarting),
            Status::Removing => Err(Refused::RemovalInProgress),
        }
    }

    /// Removing → dead.
    pub fn removal_failed(&mut self, error: &str) {
        if self.status == Status::Removing {
            self.status = Status::Dead;
            self.error = error.to_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: u32) -> Exit {
        Exit { code, oom_killed: false, at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn a_life() {
        let mut state = State::created();
        assert_eq!(state.paused(), Err(Refused::NotRunning));
        state.started(7, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(state.removing(), Err(Refused::Running));
        assert_eq!(state.check_start(), Err(Refused::Running));
        state.paused().unwrap();
        assert_eq!(state.paused(), Err(Refused::AlreadyPaused));
        assert!(state.exited(exit(3)), "a paused container can be killed");
        assert_eq!((state.status, state.exit_code, state.pid), (Status::Exited, 3, 0));
        state.started(8, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((state.run, state.exit_code, state.finished_at), (2, 0, None));
    }

    #[test]
    fn a_restarting_container_starts_or_is_given_up() {
        let mut state = State::created();
        state.started(7, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(state.restarting(100), Err(Refused::Running));
        state.exited(exit(1));
        state.restarting(100).unwrap();
        assert_eq!(state.paused(), Err(Refused::Restarting));
        assert_eq!(state.removing(), Err(Refused::Restarting));
        state.start_failed(125, "busy");
        assert_eq!((state.status, state.error.as_str()), (Status::Restarting, "busy"));
        state.started(8, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((state.status, state.restart_count, state.run), (Status::Running, 1, 2));
        state.exited(exit(1));
        state.restarting(200).unwrap();
        state.restart_given_up().unwrap();
        assert_eq!((state.status, state.exit_code), (Status::Exited, 1));
        state.start_asked();
        assert_eq!((state.restart_count, state.backoff_ms), (0, 0));
    }

    #[test]
    fn an_exit_is_counted_once() {
        let mut state = State::created();
        state.started(7, Timestamp::UNIX_EPOCH).unwrap();
        assert!(state.exited(exit(3)));
        assert!(!state.exited(exit(137)));
        assert_eq!(state.exit_code, 3);
    }

    #[test]
    fn nothing_starts_once_removal_began() {
        let mut state = State::created();
        state.removing().unwrap();
        assert_eq!(state.check_start(), Err(Refused::Removing));
        assert_eq!(state.removing(), Err(Refused::RemovalInProgress));
        state.removal_failed("disk");
        assert_eq!(state.status, Status::Dead);
        state.removing().unwrap();
    }
}
