//! Pods: groups of containers that share namespaces, as Kubernetes runs them. A pod's namespaces are held by files of the
//! daemon's state folder, so that neither a process of the daemon nor one of the pod's has to live for them.
//!
//! What always holds:
//! - A pod and its containers are records of one namespace of containerd's, which its clients see; what is here is made
//!   anew from them at start.
//! - A verb waits for its own pod or container only.
//! - A making that failed has left nothing; what a crash left, the next start removes.

#![forbid(unsafe_code)]

mod bandwidth;
mod checkpoint;
mod checkpoint_pod;
pub mod config;
pub mod container;
mod create;
mod etc_files;
pub mod events;
mod exec;
mod exec_sync;
mod exit;
mod flight;
mod host_paths;
mod image_volumes;
pub mod images;
mod joined;
mod logs;
mod namespaces;
mod network;
mod output;
mod outside;
mod pause;
pub mod pod;
mod propagation;
mod ranges;
pub mod record;
mod recover;
mod remove;
mod restore_pod;
mod run;
mod salvage;
mod saved;
mod spec;
mod start;
pub mod stats;
mod stop;
mod update;
mod users;
pub mod written;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Config;
use crate::containers::ContainerStore;
use crate::content::ContentStore;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::events::EventBus;
use crate::gc::Collector;
use crate::leases::Leases;
use crate::namespaces::Namespace;
use crate::network::Networks;
use crate::network::cni::Cni;
use crate::sandboxes::SandboxStore;
use crate::services::Services;
use crate::tasks::TaskManager;
use container::Container;
use events::Events;
pub use exec::Exec;
use flight::Names;
use pod::Pod;
pub use restore_pod::Restored;

/// The namespace of pods' records.
pub const NAMESPACE: &str = "k8s.io";

/// All pods.
pub struct Pods {
    namespace: Namespace,
    config: Arc<Config>,
    /// Images, and pieces of containers.
    engine: Arc<Engine>,
    sandboxes: Arc<SandboxStore>,
    containers: Arc<ContainerStore>,
    content: Arc<ContentStore>,
    leases: Arc<Leases>,
    gc: Arc<Collector>,
    tasks: Arc<TaskManager>,
    networks: Arc<Networks>,
    bus: Arc<EventBus>,
    cni: Cni,
    table: Mutex<Table>,
    pod_names: Names,
    container_names: Names,
    checkpoints: Arc<joined::Joined<()>>,
    restores: Arc<joined::Joined<Restored>>,
    pub events: Events,
    rates: stats::Rates,
    written: written::Ledger,
    /// Whether plugins are going to be told which pods there are.
    collecting: std::sync::atomic::AtomicBool,
    /// Threads that may wait for file systems of the host.
    host_threads: Arc<tokio::sync::Semaphore>,
    host_copies: Arc<tokio::sync::Semaphore>,
    /// Subnets that the node's pods are to be in.
    ranges: Mutex<Vec<String>>,
    /// Work that goes on after its caller went away.
    background: tokio_util::task::TaskTracker,
}

#[derive(Default)]
struct Table {
    pods: HashMap<String, Arc<Pod>>,
    containers: HashMap<String, Arc<Container>>,
}

impl Pods {
    /// Knows of no pods before [`Pods::recover`].
    pub fn new(services: &Services) -> Result<Arc<Pods>> {
        let config = services.config.clone();
        let cni = Cni::beside(&services.networks.cni, config.root.join("cni-pods"));
        let pods = Pods {
            namespace: Namespace::parse(NAMESPACE)?,
            engine: Engine::in_namespace(services, NAMESPACE)?,
            sandboxes: services.sandboxes.clone(),
            containers: services.containers.clone(),
            content: services.content.clone(),
            leases: services.leases.clone(),
            gc: services.gc.clone(),
            tasks: services.tasks.clone(),
            networks: services.networks.clone(),
            bus: services.events.clone(),
            cni,
            config,
            table: Mutex::default(),
            pod_names: Names::default(),
            container_names: Names::default(),
            checkpoints: Arc::default(),
            restores: Arc::default(),
            events: Events::default(),
            rates: stats::Rates::default(),
            written: written::Ledger::default(),
            collecting: std::sync::atomic::AtomicBool::default(),
            host_threads: Arc::new(tokio::sync::Semaphore::new(host_paths::MOST)),
            host_copies: Arc::new(tokio::sync::Semaphore::new(host_paths::COPIES)),
            ranges: Mutex::default(),
            background: tokio_util::task::TaskTracker::new(),
        };
        let folder = pods.folders();
        std::fs::create_dir_all(&folder).map_err(|source| Error::io("making", &folder, source))?;
        pods.read_ranges();
        pods.forget_checkpoints();
        Ok(Arc::new(pods))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder that holds the folders of all pods.
    fn folders(&self) -> PathBuf {
        self.config.state.join("pods")
    }

    /// What belongs to one pod: its namespaces and its files of /etc.
    fn folder(&self, pod: &str) -> PathBuf {
        self.folders().join(pod)
    }

    /// The pod that `id`, or a beginning of it that no other has, names.
    pub fn pod(&self, id: &str) -> Result<Arc<Pod>> {
        find(&self.table().pods, "pod sandbox", id)
    }

    /// The container that `id`, or a beginning of it that no other has, names.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        find(&self.table().containers, "container", id)
    }

    /// All pods, oldest first.
    pub fn all_pods(&self) -> Vec<Arc<Pod>> {
        let mut pods: Vec<_> = self.table().pods.values().cloned().collect();
        pods.sort_by_cached_key(|pod| (pod.read(|record| record.created_at), pod.id.clone()));
        pods
    }

    /// All containers, oldest first.
    pub fn all_containers(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<_> = self.table().containers.values().cloned().collect();
        all.sort_by_cached_key(|one| (one.read(|record| record.created_at), one.id.clone()));
        all
    }

    /// The containers of a pod, oldest first.
    pub fn containers_of(&self, pod: &str) -> Vec<Arc<Container>> {
        let mut all = self.all_containers();
        all.retain(|container| container.pod == pod);
        all
    }

    /// Waits for work under way, at most `patience`.
    pub async fn shutdown(&self, patience: std::time::Duration) {
        self.background.close();
        if tokio::time::timeout(patience, self.background.wait()).await.is_err() {
            tracing::warn!("work on pods is under way; the next start goes on with it");
        }
    }

    /// Where the daemon keeps what does not survive a boot.
    pub fn state_folder(&self) -> &std::path::Path {
        &self.config.state
    }

    /// What can run pods: its names.
    pub fn handlers(&self) -> Vec<String> {
        let named = self.config.runtime.runtimes.keys();
        let own = named.filter(|name| matches!(self.tasks.runtime(name), Ok(crate::tasks::Runtime::Own)));
        std::iter::once(String::new()).chain(own.cloned()).collect()
    }
}

fn find<T>(all: &HashMap<String, Arc<T>>, kind: &'static str, id: &str) -> Result<Arc<T>> {
    if let Some(found) = all.get(id) {
        return Ok(found.clone());
    }
    if id.is_empty() {
        return Err(Error::not_found(kind, id));
    }
    let mut matches = all.iter().filter(|(key, _)| key.starts_with(id));
    match (matches.next(), matches.next()) {
        (Some((_, found)), None) => Ok(found.clone()),
        (Some(_), Some(_)) => {
            Err(Error::invalid(format!("{kind} {id}"), "several have ids that begin so: give more digits"))
        }
        (None, _) => Err(Error::not_found(kind, id)),
    }
}
