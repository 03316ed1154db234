//! Sandboxes: shims that hold a pod, started by the shim v2 protocol like any other and spoken to by the sandbox API over
//! ttrpc. A container that names a sandbox is created in its shim.
//!
//! What always holds:
//! - A sandbox outlives the daemon, which finds it again at start.
//! - Its end is published once: by what the shim answers to Wait, or in its place when the shim is gone.
//! - Until a creation is answered it undoes itself, whether it failed or its caller went away; after a shutdown no process, mount or
//!   folder of the sandbox remains.

#![forbid(unsafe_code)]

mod create;
mod end;
mod follow;
mod recover;
mod verbs;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use longshore_proto::containerd::events as ev;
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bundle::Bundle;
use super::client::{Connection, Failure};
use super::foreign::{Address, TaskApi};
use super::runtimes::ForeignRuntime;
use super::types::{Exit, Join, RootfsMount};
use super::{Inner, TaskManager, wire};
use crate::any::Any;
use crate::error::{Error, Result};
use crate::namespaces::Namespace;

/// The sandbox service of a shim.
const SERVICE: &str = "containerd.runtime.sandbox.v1.Sandbox";

/// What a sandbox is created from.
#[derive(Clone, Debug, Default)]
pub struct CreateSandbox {
    pub id: String,
    /// The runtime's name, or the path of its shim.
    pub runtime: String,
    /// The runtime's, for the start of its shim.
    pub runtime_options: Option<Any>,
    /// Becomes the bundle's `config.json`.
    pub spec: Option<Any>,
    /// The sandbox's own.
    pub options: Option<Any>,
    pub rootfs: Vec<RootfsMount>,
    /// Path of a network namespace; may be empty.
    pub netns: String,
    pub annotations: BTreeMap<String, String>,
}

/// Where a shim listens, and which version of the task API it speaks there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: String,
    pub api: u32,
}

/// What a start answers.
#[derive(Clone, Debug)]
pub struct StartedSandbox {
    pub pid: u32,
    pub created_at: Option<Timestamp>,
    pub spec: Option<Any>,
    pub endpoint: Endpoint,
}

/// How a sandbox is, by the word of its shim.
#[derive(Clone, Debug, Default)]
pub struct SandboxStatus {
    pub pid: u32,
    pub state: String,
    pub info: BTreeMap<String, String>,
    pub created_at: Option<Timestamp>,
    pub exited_at: Option<Timestamp>,
    pub extra: Option<Any>,
    pub endpoint: Option<Endpoint>,
}

/// What the containers of a sandbox are to be made for.
#[derive(Clone, Debug, Default)]
pub struct SandboxPlatform {
    pub os: String,
    pub architecture: String,
    pub variant: String,
}

/// What a sandbox uses.
#[derive(Clone, Debug, Default)]
pub struct SandboxMetrics {
    pub id: String,
    pub at: Option<Timestamp>,
    pub data: Option<Any>,
}

/// A sandbox that has a shim, or had one until now.
struct Sandbox {
    namespace: Namespace,
    id: String,
    bundle: Bundle,
    runtime: ForeignRuntime,
    address: Address,
    api: TaskApi,
    /// `None` once the shim is gone.
    control: watch::Sender<Option<Connection>>,
    exit: watch::Sender<Option<Exit>>,
    /// Its end is worth an event.
    started: AtomicBool,
    turn: tokio::sync::Mutex<()>,
    /// Ends what runs beside it.
    ended: CancellationToken,
}

/// What a sandbox's id is taken by.
enum Slot {
    /// One in the making, or being taken down.
    Reserved,
    Sandbox(Arc<Sandbox>),
}

type Slots = HashMap<Namespace, HashMap<String, Slot>>;

/// The daemon's sandboxes.
pub struct Sandboxes {
    inner: Arc<Shared>,
}

struct Shared {
    manager: Arc<Inner>,
    slots: Mutex<Slots>,
}

impl Sandboxes {
    /// Sandboxes that exist already are found by [`Sandboxes::recover`].
    pub fn new(tasks: &TaskManager) -> Arc<Self> {
        let inner = Arc::new(Shared { manager: tasks.inner.clone(), slots: Mutex::default() });
        Arc::new(Self { inner })
    }

    /// How a container is created in the sandbox's shim; `None` if that shim takes no further containers, so that the
    /// container's own `start` has to find it.
    ///
    /// # Errors
    /// NotFound: the sandbox does not run.
    pub fn join(&self, namespace: &Namespace, id: &str) -> Result<Option<Join>> {
        let sandbox = self.inner.find(namespace, id)?;
        let endpoint = sandbox.endpoint();
        Ok((sandbox.api == TaskApi::V3).then_some(Join { address: endpoint.address, api: endpoint.api }))
    }
}

impl Shared {
    /// The folder that stands in for the state folder: a sandbox and its first container may have the same id.
    fn state(&self) -> PathBuf {
        self.manager.state.join("sandboxes")
    }

    fn root(&self) -> PathBuf {
        self.manager.root.join("sandboxes")
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, namespace: &Namespace, id: &str) -> Result<()> {
        let mut slots = self.slots();
        let sandboxes = slots.entry(namespace.clone()).or_default();
        if sandboxes.contains_key(id) {
            return Err(Error::already_exists("sandbox", id));
        }
        sandboxes.insert(id.to_owned(), Slot::Reserved);
        Ok(())
    }

    fn insert(&self, sandbox: Arc<Sandbox>) {
        let mut slots = self.slots();
        slots
            .entry(sandbox.namespace.clone())
            .or_default()
            .insert(sandbox.id.clone(), Slot::Sandbox(sandbox));
    }

    fn release(&self, namespace: &Namespace, id: &str) {
        let mut slots = self.slots();
        if let Some(sandboxes) = slots.get_mut(namespace) {
            sandboxes.remove(id);
            if sandboxes.is_empty() {
                slots.remove(namespace);
            }
        }
    }

    fn find(&self, namespace: &Namespace, id: &str) -> Result<Arc<Sandbox>> {
        match self.slots().get(namespace).and_then(|sandboxes| sandboxes.get(id)) {
            Some(Slot::Sandbox(sandbox)) => Ok(sandbox.clone()),
            Some(Slot::Reserved) | None => Err(Error::not_found("sandbox", id)),
        }
    }

    fn publish<M: Message>(&self, namespace: &Namespace, topic: &str, name: &str, event: &M) {
        self.manager.events.publish_message(namespace, topic, name, event);
    }

    /// The sandbox ended: whoever waits is told, and subscribers if it ever began. Only the first time counts.
    fn ended(&self, sandbox: &Sandbox, exit: Exit) {
        let first = sandbox.exit.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(exit);
            first
        });
        if !first || !sandbox.started.load(std::sync::atomic::Ordering::Acquire) {
            return;
        }
        sandbox.note_end(exit);
        let event = ev::SandboxExit {
            sandbox_id: sandbox.id.clone(),
            exit_status: exit.status,
            exited_at: Some(wire::wire_timestamp(exit.at)),
        };
        self.publish(&sandbox.namespace, "/sandboxes/exit", "containerd.events.SandboxExit", &event);
    }
}

impl Sandbox {
    fn endpoint(&self) -> Endpoint {
        // What clients are told, and give back: protocol, transport and place.
        let address = format!("ttrpc+unix://{}", self.address);
        Endpoint { address, api: self.api.number().unsigned_abs() }
    }

    async fn ask<R: Message, A: Message + Default>(
        &self,
        step: &'static str,
        method: &'static str,
        request: &R,
        limit: Duration,
    ) -> Result<A> {
        let asked = self.call(method, request, limit).await;
        asked.map_err(|failure| wire::failure(&self.id, step, &failure))
    }

    async fn call<R: Message, A: Message + Default>(
        &self,
        method: &'static str,
        request: &R,
        limit: Duration,
    ) -> Result<A, Failure> {
        let control = self.control.borrow().clone();
        let Some(control) = control else { return Err(Failure::Closed("the shim is gone".into())) };
        control.unary(SERVICE, method, request, limit).await
    }
}

/// A time on the wire, if there is one.
fn time(wire: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    wire.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
}
