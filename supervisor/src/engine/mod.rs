//! Day-to-day semantics: what `docker` users expect of containers and images, over the stores and the task manager
//! below. The engine's containers are ordinary containerd containers of one namespace that carry the engine's record
//! as an extension, so containerd's clients see them too.
//!
//! What always holds:
//! - An acknowledged container is durable, and what its state says was true: an exit is recorded before the task that
//!   told it is deleted.
//! - A container's verbs wait for that container only.
//! - A failed or abandoned step leaves nothing that no record owns; what a crash leaves, [`Engine::recover`] removes.

#![forbid(unsafe_op_in_unsafe_fn)]

pub mod attach;
pub mod commit;
pub mod config;
pub mod conflict;
pub mod copy;
pub mod create;
pub mod diff;
pub mod etc;
pub mod exec;
mod exit;
pub mod filters;
pub mod health;
pub mod history;
mod image_mounts;
pub mod images;
mod inspect;
mod joins;
mod kill;
pub mod list;
pub mod logs;
pub mod names;
pub mod network;
mod pause;
pub mod policy;
pub(crate) mod process;
pub mod prune;
pub mod record;
mod recover;
pub mod registry;
pub mod remove;
mod rename;
mod restart;
mod root;
pub mod run;
mod shm;
pub mod signals;
pub mod spec;
pub mod start;
pub mod state;
pub mod stats;
pub mod stop;
pub mod sys;
pub mod system;
pub mod top;
mod unbuilt;
pub mod update;
pub mod usage;
pub mod volumes;
pub mod wait;

pub use names::NameError;

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Config;
use crate::containers::ContainerStore;
use crate::content::ContentStore;
use crate::error::{Error, Result};
use crate::events::EventBus;
use crate::gc::Collector;
use crate::images::import::Importer;
use crate::images::pull::Puller;
use crate::images::push::Pusher;
use crate::images::store::ImageStore;
use crate::leases::Leases;
use crate::metadata::Db;
use crate::namespaces::{self, Namespace, Preference};
use crate::network::Networks;
use crate::services::Services;
use crate::snapshots::{Snapshots, Snapshotter};
use crate::tasks::TaskManager;
use config::Record;
use history::{Event, History, Subject};
use images::ImageCache;
use registry::{Entry, Registry};

/// The extension of a container's record that holds the engine's.
pub const EXTENSION: &str = "longshore.engine.v1.Container";

/// The runtime that the engine's containers name.
pub const RUNTIME: &str = "io.containerd.longshore.v1";

/// Transfers of files from and to containers at one time; more of them wait.
const MAX_TRANSFERS: usize = 32;

/// The day-to-day engine.
pub struct Engine {
    /// Names this installation.
    uuid: Arc<str>,
    namespace: Namespace,
    config: Arc<Config>,
    db: Arc<Db>,
    containers: Arc<ContainerStore>,
    content: Arc<ContentStore>,
    images: Arc<ImageStore>,
    snapshots: Arc<Snapshots>,
    tasks: Arc<TaskManager>,
    leases: Arc<Leases>,
    puller: Arc<Puller>,
    pusher: Arc<Pusher>,
    importer: Arc<Importer>,
    gc: Arc<Collector>,
    networks: Arc<Networks>,
    bus: Arc<EventBus>,
    registry: Arc<Registry>,
    history: History,
    image_cache: ImageCache,
    /// Limits of processes for containers that ask for no others.
    default_ulimits: Arc<[config::Ulimit]>,
    volumes: volumes::Volumes,
    /// Of files from and to containers, at one time.
    transfers: Arc<tokio::sync::Semaphore>,
    /// Teardowns that go on after their caller was answered.
    background: tokio_util::task::TaskTracker,
    /// Whether [`Engine::recover`] is done: nothing is started by itself before, or it would be given what others have.
    recovered: tokio::sync::watch::Sender<bool>,
}

impl Engine {
    pub fn new(services: &Services) -> Result<Arc<Engine>> {
        Self::in_namespace(services, &services.config.engine.namespace)
    }

    /// One for images, and pieces of containers, of another namespace: it runs no containers of its own.
    pub fn in_namespace(services: &Services, namespace: &str) -> Result<Arc<Engine>> {
        let engine = Engine {
            uuid: services.uuid.clone(),
            namespace: Namespace::parse(namespace)?,
            config: services.config.clone(),
            db: services.db.clone(),
            containers: services.containers.clone(),
            content: services.content.clone(),
            images: services.images.clone(),
            snapshots: services.snapshots.clone(),
            tasks: services.tasks.clone(),
            leases: services.leases.clone(),
            puller: services.puller.clone(),
            pusher: services.pusher.clone(),
            importer: services.importer.clone(),
            gc: services.gc.clone(),
            networks: services.networks.clone(),
            bus: services.events.clone(),
            registry: Arc::default(),
            history: History::default(),
            image_cache: ImageCache::default(),
            default_ulimits: spec::ulimits::defaults(&services.config.engine.default_ulimits)?.into(),
            transfers: Arc::new(tokio::sync::Semaphore::new(MAX_TRANSFERS)),
            volumes: volumes::Volumes::new(services.config.root.join("volumes").join(namespace)),
            background: tokio_util::task::TaskTracker::new(),
            recovered: tokio::sync::watch::Sender::new(false),
        };
        let folders = [engine.folders(), engine.seccomp_cache(), engine.volumes.folder().to_owned()];
        for folder in folders {
            std::fs::create_dir_all(&folder).map_err(|source| Error::io("making", &folder, source))?;
        }
        Ok(Arc::new(engine))
    }

    /// Waits for teardowns under way, at most `patience`.
    pub async fn shutdown(&self, patience: std::time::Duration) {
        self.background.close();
        if tokio::time::timeout(patience, self.background.wait()).await.is_err() {
            tracing::warn!("something is still being done to containers; the next start settles it");
        }
        if tokio::time::timeout(patience, self.networks.shutdown()).await.is_err() {
            tracing::warn!("networks' interfaces are still there; the next start finds them");
        }
    }

    /// Carries something through to its end, even if whoever asked for it goes away meanwhile. `what` is for the error of one
    /// that panicked.
    async fn carry<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        // On the heap at once: on their way into a task large futures are moved from frame to frame.
        let work = Box::pin(work);
        self.background.spawn(work).await.unwrap_or(Err(Error::Lost { what }))
    }

    /// The container that `text` names.
    pub fn find(&self, text: &str) -> Result<Arc<Entry>> {
        self.registry.find(text)
    }

    /// The folder that holds the folders of all containers.
    fn folders(&self) -> PathBuf {
        self.config.root.join("containers").join(self.namespace.as_str())
    }

    /// What belongs to one container beside its snapshot: its log and its files of /etc.
    fn folder(&self, id: &str) -> PathBuf {
        self.folders().join(id)
    }

    fn log_path(&self, id: &str) -> PathBuf {
        self.folder(id).join("log")
    }

    /// Compiled seccomp programs, shared by all shims.
    pub fn seccomp_cache(&self) -> PathBuf {
        self.config.state.join("seccomp")
    }

    /// For what is made anew, and for images.
    pub fn snapshotter(&self) -> Result<Snapshotter> {
        self.snapshots.default_for(&self.namespace)
    }

    /// The runtime's name for a new container.
    fn runtime(&self) -> Result<String> {
        let preferred = namespaces::preferred(&self.db, &self.namespace, Preference::Runtime)?;
        match preferred {
            None => Ok(RUNTIME.to_owned()),
            Some(name) if matches!(self.tasks.runtime(&name), Ok(crate::tasks::Runtime::Own)) => Ok(name),
            Some(name) => Err(Error::precondition(
                format!("namespace \"{}\"", self.namespace),
                format!(
                    "its default runtime {name} runs containers of containerd's clients only; take the label containerd.io/defaults/runtime off it"
                ),
            )),
        }
    }

    /// The runtime's name for a container that asks for `asked`; empty: the default.
    fn runtime_for(&self, asked: &str) -> Result<String> {
        if asked.is_empty() {
            return self.runtime();
        }
        let unknown =
            |why: String| Err(Error::invalid(format!("unknown or invalid runtime name: {asked}"), why));
        match self.tasks.runtime(asked) {
            Ok(crate::tasks::Runtime::Own) => Ok(asked.to_owned()),
            Ok(crate::tasks::Runtime::Foreign(_)) => unknown(
                "it is another shim's, which runs containers of containerd's clients only; runtimes of type \
                 io.containerd.longshore.v1 can be named"
                    .into(),
            ),
            Err(error) => unknown(format!(
                "{}; configure it as [runtime.runtimes.\"{asked}\"] with type = \"{RUNTIME}\"",
                error.for_people()
            )),
        }
    }

    /// The one that a container was made with: the default may have changed since.
    fn snapshotter_of(&self, record: &Record) -> Result<Snapshotter> {
        if record.snapshotter.is_empty() {
            self.snapshotter()
        } else {
            self.snapshots.by_name(&record.snapshotter)
        }
    }

    /// Returns when all records and snapshots made so far survive a power cut.
    async fn sync(&self) -> Result<()> {
        let snapshotter = self.snapshotter()?;
        tokio::try_join!(self.db.sync(), snapshotter.flush()).map(|_| ())
    }

    /// Tells the world what happened to a container.
    fn happened(
        &self,
        entry: &Entry,
        action: impl Into<std::borrow::Cow<'static, str>>,
        more: &[(&str, String)],
    ) {
        let mut attributes = entry.read(|record| {
            let mut attributes = record.config.labels.clone();
            attributes.insert("name".to_owned(), record.name.clone());
            attributes.insert("image".to_owned(), record.config.image.clone());
            attributes
        });
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let event = Event {
            time: jiff::Timestamp::now(),
            subject: Subject::Container,
            action: action.into(),
            actor: entry.id.clone(),
            attributes,
        };
        self.history.record(event);
    }

    /// Tells the world what happened to an image.
    fn image_happened(&self, actor: &str, action: &'static str, name: &str) {
        let event = Event {
            time: jiff::Timestamp::now(),
            subject: Subject::Image,
            action: action.into(),
            actor: actor.to_owned(),
            attributes: [("name".to_owned(), name.to_owned())].into(),
        };
        self.history.record(event);
    }
}
