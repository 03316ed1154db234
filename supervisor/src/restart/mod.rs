//! The restart monitor: keeps containers as their `containerd.io/restart.*` labels want them, for clients that leave it to
//! the daemon (`nerdctl run --restart` does).
//!
//! What always holds: only containers that carry such a label are touched. One that has no task yet, or one that was not
//! started, may be in its client's hands: it is left alone the first time it is seen so. A container that cannot be started
//! costs a line in the log and the next attempt comes an interval later.

#![forbid(unsafe_code)]

pub mod policy;

use std::collections::HashSet;
use std::time::Duration;

use futures::StreamExt;
use longshore_proto::containerd::services::tasks::v1 as api;
use longshore_proto::containerd::services::tasks::v1::tasks_server::Tasks;
use longshore_proto::containerd::types;
use tokio::time::MissedTickBehavior;
use tonic::Request;

use crate::api::tasks::TasksService;
use crate::containers::Container;
use crate::error::{Error, Result};
use crate::filters::Filter;
use crate::namespaces::Namespace;
use crate::services::Services;
use crate::tasks::{KillScope, ProcessId, Status};
use policy::{Change, Found};

/// Containers that are changed at one time.
const AT_ONCE: usize = 8;
/// How long a killed container may take to end.
const END: Duration = Duration::from_secs(10);
const SIGKILL: u32 = 9;

/// The containers that were seen without a running task, and not by their own end.
type Unsettled = HashSet<(Namespace, String)>;

pub struct Monitor {
    services: Services,
    /// Tasks are made as for any client, whatever their runtime.
    tasks: TasksService,
}

impl Monitor {
    pub fn new(services: &Services) -> Self {
        Self { services: services.clone(), tasks: TasksService::new(services) }
    }

    /// Looks after the containers until it is dropped.
    pub async fn run(self, interval: Duration) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unsettled = Unsettled::new();
        loop {
            ticks.tick().await;
            match self.look(&unsettled).await {
                Ok(seen) => unsettled = seen,
                Err(error) => tracing::error!("the restart monitor cannot look at the containers: {error}"),
            }
        }
    }

    async fn look(&self, before: &Unsettled) -> Result<Unsettled> {
        let mut seen = Unsettled::new();
        if !self.services.containers.take_restarts() {
            return Ok(seen);
        }
        let filter = Filter::parse_all(&[format!("labels.{:?}", policy::STATUS)])?;
        let mut changes = Vec::new();
        for (namespace, _) in self.services.namespaces.list()? {
            for container in self.services.containers.list(&namespace, &filter)? {
                self.services.containers.note_restarts();
                let found = self.find(&namespace, &container.id);
                let change = policy::change(&container.labels, found).unwrap_or_else(|why| {
                    tracing::warn!(%namespace, container = container.id, "not looked after: {why}");
                    None
                });
                let Some(change) = change else { continue };
                let key = (namespace.clone(), container.id.clone());
                let ended = found.is_some_and(|found| found.status == Status::Stopped);
                if change == Change::Start && !ended && !before.contains(&key) {
                    seen.insert(key);
                    continue;
                }
                changes.push((namespace.clone(), container, change));
            }
        }
        futures::stream::iter(changes)
            .for_each_concurrent(AT_ONCE, |(namespace, container, change)| async move {
                self.apply(&namespace, &container, change).await;
            })
            .await;
        Ok(seen)
    }

    fn find(&self, namespace: &Namespace, id: &str) -> Option<Found> {
        let info = self.services.tasks.get(namespace, id, ProcessId::Init).ok()?;
        Some(Found { status: info.status, exit_status: info.exit.map_or(0, |exit| exit.status) })
    }

    async fn apply(&self, namespace: &Namespace, container: &Container, change: Change) {
        let outcome = match change {
            Change::Start => self.start(namespace, container).await,
            Change::Stop => self.end(namespace, &container.id).await,
        };
        match outcome {
            Ok(()) => tracing::info!(%namespace, container = container.id, ?change, "restart monitor"),
            Err(error) => {
                tracing::warn!(%namespace, container = container.id, ?change, %error, "restart monitor");
            }
        }
    }

    async fn start(&self, namespace: &Namespace, container: &Container) -> Result<(), tonic::Status> {
        let count = (policy::count(&container.labels) + 1).to_string();
        let counted = |container: &mut Container| {
            container.labels.insert(policy::COUNT.to_owned(), count);
            Ok(())
        };
        self.services.containers.modify(namespace, &container.id, counted).await?;
        self.end(namespace, &container.id).await?;
        let request = self.create_request(namespace, container).await?;
        self.tasks.create(in_namespace(namespace, request)).await?;
        let request = api::StartRequest { container_id: container.id.clone(), exec_id: String::new() };
        if let Err(status) = self.tasks.start(in_namespace(namespace, request)).await {
            // What never ran is not left behind, so that the next attempt finds the id free.
            self.services.tasks.delete(namespace, &container.id).await?;
            return Err(status);
        }
        Ok(())
    }

    async fn create_request(
        &self,
        namespace: &Namespace,
        container: &Container,
    ) -> Result<api::CreateTaskRequest> {
        let mut rootfs = Vec::new();
        if !container.snapshot_key.is_empty() {
            let snapshotter = self.services.snapshots.by_name(&container.snapshotter)?;
            let mounts = snapshotter.mounts(namespace, &container.snapshot_key).await?;
            rootfs.extend(mounts.into_iter().map(|mount| types::Mount {
                r#type: mount.kind,
                source: mount.source,
                target: mount.target,
                options: mount.options,
            }));
        }
        let log = container.labels.get(policy::LOG_URI).cloned().unwrap_or_default();
        Ok(api::CreateTaskRequest {
            container_id: container.id.clone(),
            rootfs,
            terminal: wants_terminal(container)?,
            stdout: log.clone(),
            stderr: log,
            ..Default::default()
        })
    }

    /// Kills and deletes the task, if there is one.
    async fn end(&self, namespace: &Namespace, id: &str) -> Result<(), tonic::Status> {
        let tasks = &self.services.tasks;
        match self.find(namespace, id).map(|found| found.status) {
            None => return Ok(()),
            Some(Status::Stopped | Status::Created) => {}
            Some(_) => {
                tasks.kill(namespace, id, ProcessId::Init, SIGKILL, KillScope::All).await?;
                let ended = tokio::time::timeout(END, tasks.wait(namespace, id, ProcessId::Init)).await;
                ended.map_err(|_| {
                    let seconds = END.as_secs();
                    Error::unavailable(format!("task \"{id}\""), format!("did not end within {seconds} s"))
                })??;
            }
        }
        tasks.delete(namespace, id).await?;
        Ok(())
    }
}

fn in_namespace<T>(namespace: &Namespace, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(namespace.clone());
    request
}

/// Whether the container's program is to have a terminal.
fn wants_terminal(container: &Container) -> Result<bool> {
    #[derive(Default, serde::Deserialize)]
    struct Process {
        #[serde(default)]
        terminal: bool,
    }
    #[derive(serde::Deserialize)]
    struct Spec {
        #[serde(default)]
        process: Process,
    }
    let Some(spec) = &container.spec else { return Ok(false) };
    serde_json::from_slice::<Spec>(&spec.value).map(|spec| spec.process.terminal).map_err(|error| {
        Error::invalid(format!("the spec of container \"{}\"", container.id), error.to_string())
    })
}
