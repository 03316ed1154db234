//! Everything the daemon is made of, built once in `main` in an explicit order and handed to each API.

use std::sync::Arc;

use crate::config::Config;
use crate::containers::ContainerStore;
use crate::content::ContentStore;
use crate::diff::Differs;
use crate::events::EventBus;
use crate::gc::Collector;
use crate::images::import::Importer;
use crate::images::pull::Puller;
use crate::images::push::Pusher;
use crate::images::store::ImageStore;
use crate::leases::Leases;
use crate::metadata::Db;
use crate::mounts::MountManager;
use crate::namespaces::Namespaces;
use crate::network::Networks;
use crate::sandboxes::SandboxStore;
use crate::snapshots::Snapshots;
use crate::streams::Streams;
use crate::tasks::TaskManager;
use crate::tasks::sandbox::Sandboxes;

/// Shared handles; cloning costs a few reference counts.
#[derive(Clone)]
pub struct Services {
    /// Names this installation; it stays the same for as long as the root does.
    pub uuid: Arc<str>,
    pub config: Arc<Config>,
    pub db: Arc<Db>,
    pub events: Arc<EventBus>,
    pub namespaces: Arc<Namespaces>,
    pub content: Arc<ContentStore>,
    pub images: Arc<ImageStore>,
    pub snapshots: Arc<Snapshots>,
    pub differs: Arc<Differs>,
    pub mounts: Arc<MountManager>,
    pub puller: Arc<Puller>,
    pub pusher: Arc<Pusher>,
    pub importer: Arc<Importer>,
    pub streams: Arc<Streams>,
    pub leases: Arc<Leases>,
    pub containers: Arc<ContainerStore>,
    pub sandboxes: Arc<SandboxStore>,
    pub gc: Arc<Collector>,
    pub networks: Arc<Networks>,
    pub tasks: Arc<TaskManager>,
    pub sandbox_shims: Arc<Sandboxes>,
}
