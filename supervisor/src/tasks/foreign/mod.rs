//! Shims that are not ours: started by the shim v2 protocol, spoken to by the task API over ttrpc, telling their events on
//! the daemon's second socket.
//!
//! What always holds:
//! - A task of such a shim is a task like any other: the same verbs, states and errors.
//! - What its shim says happened is published once, with the shim's own words; an exit whose event was lost is learnt by
//!   Wait, or by State after the daemon was away, and published in the shim's place.
//! - A connection that ends and cannot be made anew is the shim's death: its binary's `delete` is run, what it left (processes,
//!   cgroups, mounts, its socket) is removed, and the container has ended.
//! - Every step has a time within which it ends.

#![forbid(unsafe_code)]

mod answer;
pub mod bundle;
pub mod command;
mod create;
pub mod delete;
pub mod driven;
mod events;
pub mod follow;
pub mod log;
pub mod mounts;
pub mod recover;

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::sync::Notify;

pub use answer::{Address, TaskApi};
pub use create::launch;
pub use events::Departed;
pub use follow::{follow, follow_exec};

use super::process::ShimProcess;
use super::runtimes::ForeignRuntime;
use super::types::ProcessId;
use super::{Inner, Slot, Task, limits};
use crate::error::Error;

/// What the daemon keeps of a foreign shim for the daemon after it.
#[derive(Clone, PartialEq, Message)]
pub struct ForeignRecord {
    #[prost(string, tag = "1")]
    pub runtime: String,
    #[prost(string, tag = "2")]
    pub binary: String,
    #[prost(string, repeated, tag = "3")]
    pub env: Vec<String>,
    /// Empty: it was not started yet, or joined none.
    #[prost(string, tag = "4")]
    pub address: String,
    /// Version of its task API.
    #[prost(int32, tag = "5")]
    pub api: i32,
    /// The shim was there before the task.
    #[prost(bool, tag = "6")]
    pub joined: bool,
}

/// How a task belongs to its shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// The task's `start` made the shim, or found the one of its group: without tasks it leaves.
    Started,
    /// The shim belongs to somebody else, such as a sandbox: it stays, and its binary is not run for this task.
    Joined,
}

impl ForeignRecord {
    pub fn new(runtime: &ForeignRuntime) -> Self {
        Self {
            runtime: runtime.name.clone(),
            binary: runtime.binary.to_string_lossy().into_owned(),
            env: runtime.env.clone(),
            ..Self::default()
        }
    }

    pub fn membership(&self) -> Membership {
        if self.joined { Membership::Joined } else { Membership::Started }
    }

    pub fn runtime(&self) -> ForeignRuntime {
        ForeignRuntime {
            name: self.runtime.clone(),
            binary: PathBuf::from(&self.binary),
            env: self.env.clone(),
        }
    }
}

/// The foreign part of a task.
pub struct Foreign {
    pub runtime: ForeignRuntime,
    /// Where its shim listens; others of its group have the same.
    pub address: Address,
    pub membership: Membership,
    process: OnceLock<ShimProcess>,
    told: Mutex<Told>,
    news: Notify,
}

/// What subscribers were told.
#[derive(Default)]
struct Told {
    /// Processes whose end was published, by exec id.
    exits: HashSet<String>,
    deleted: bool,
    /// Digests of the last events, to know one that is sent again.
    recent: VecDeque<u64>,
}

impl Foreign {
    pub fn new(runtime: ForeignRuntime, address: Address, membership: Membership) -> Self {
        Self {
            runtime,
            address,
            membership,
            process: OnceLock::new(),
            told: Mutex::default(),
            news: Notify::new(),
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shim's process, if it said which it is.
    pub fn process(&self) -> Option<&ShimProcess> {
        self.process.get()
    }

    pub fn set_process(&self, process: ShimProcess) {
        // A second answer is about the same shim.
        let _ = self.process.set(process);
    }

    /// Whether the caller is the one who publishes this end.
    pub fn claim_exit(&self, exec_id: &str) -> bool {
        let first = self.told().exits.insert(exec_id.to_owned());
        self.news.notify_waiters();
        first
    }

    /// The exec is deleted: its id may be taken again.
    pub fn forget_exit(&self, exec_id: &str) {
        self.told().exits.remove(exec_id);
    }

    /// Whether the caller is the one who publishes that the container is deleted.
    pub fn claim_delete(&self) -> bool {
        let first = !std::mem::replace(&mut self.told().deleted, true);
        self.news.notify_waiters();
        first
    }

    /// Whether an event with this digest is new.
    pub fn is_news(&self, digest: u64) -> bool {
        let mut told = self.told();
        if told.recent.contains(&digest) {
            return false;
        }
        if told.recent.len() >= limits::RECENT_EVENTS {
            told.recent.pop_front();
        }
        told.recent.push_back(digest);
        true
    }

    /// Waits until the shim's own event of an end was published, for at most `limit`: whether it was.
    pub async fn exit_told(&self, exec_id: &str, limit: Duration) -> bool {
        self.until(limit, |told| told.exits.contains(exec_id)).await
    }

    /// As [`Foreign::exit_told`], for the container's deletion.
    pub async fn delete_told(&self, limit: Duration) -> bool {
        self.until(limit, |told| told.deleted).await
    }

    async fn until(&self, limit: Duration, holds: impl Fn(&Told) -> bool) -> bool {
        let wait = async {
            loop {
                let news = self.news.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                if holds(&self.told()) {
                    return;
                }
                news.await;
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }
}

impl Foreign {
    /// Whether the shim has no reason to stay when this task is gone.
    fn leaves_with(&self, manager: &Inner, task: &Task) -> bool {
        self.membership == Membership::Started && !manager.shares_shim(task, &self.address)
    }
}

impl Task {
    /// What our own shims do for the daemon and others do not.
    pub(super) fn refuse_foreign(&self, what: &'static str) -> Result<(), Error> {
        match &self.foreign {
            None => Ok(()),
            Some(foreign) => Err(Error::Unimplemented {
                what: format!("{what} of container \"{}\" by the shim {}", self.id, foreign.runtime.name),
            }),
        }
    }

    /// The subject of a shim's command.
    fn subject(&self) -> command::Subject<'_> {
        command::Subject { namespace: &self.namespace, id: &self.id, bundle: self.bundle.path() }
    }
}

impl Inner {
    /// Whether another task has its shim at this address.
    fn shares_shim(&self, task: &Task, address: &Address) -> bool {
        let slots = self.slots();
        slots.values().flat_map(|tasks| tasks.values()).any(|slot| match slot {
            Slot::Task(other) | Slot::Making(other) => {
                !std::ptr::eq(Arc::as_ptr(other), task)
                    && !other.state().removed
                    && other.foreign.as_ref().is_some_and(|foreign| foreign.address == *address)
            }
            Slot::Reserved => false,
        })
    }
}

/// What a process is called in messages about its exit.
fn process_of(exec_id: &str) -> ProcessId<'_> {
    ProcessId::from_exec_id(exec_id)
}
