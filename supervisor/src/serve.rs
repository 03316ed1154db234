//! From configuration to a served socket, and back: everything is built in order here, and taken down in reverse.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::api;
use crate::api::layers::Layers;
use crate::config::Config;
use crate::containers::ContainerStore;
use crate::content::ContentStore;
use crate::content::store::blocking;
use crate::cri::Cri;
use crate::diff::Differs;
use crate::engine::Engine;
use crate::events::EventBus;
use crate::folders;
use crate::gc::{Collector, MountSource, SnapshotSource};
use crate::images::import::Importer;
use crate::images::pull::Puller;
use crate::images::push::Pusher;
use crate::images::store::ImageStore;
use crate::leases::Leases;
use crate::listen::{Access, Socket};
use crate::metadata::{self, Db, Reader, tables};
use crate::mounts::MountManager;
use crate::namespaces::{Namespace, Namespaces};
use crate::network::Networks;
use crate::plugins::Plugin;
use crate::pods::Pods;
use crate::ready;
use crate::restart::Monitor;
use crate::sandboxes::SandboxStore;
use crate::services::Services;
use crate::settle::Settle;
use crate::snapshots::Snapshots;
use crate::tasks::sandbox::Sandboxes;
use crate::tasks::{Addresses, Runtimes, TaskManager, TaskOptions};

/// How long requests may finish after the daemon was told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs the daemon until it is told to stop.
pub async fn run(config: Arc<Config>) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("listening to signals")?;
    let _state = folders::claim(&config.state, "--state")?;
    let _root = folders::claim(&config.root, "--root")?;
    if let Some(path) = &config.cgroup {
        crate::cgroup::join(path)?;
    }
    folders::private(&config.opt().join("bin"))?;
    folders::private(&config.opt().join("lib"))?;
    let access = Access::new(config.grpc.group.as_deref())?;
    if let Some(group) = access.group
        && config.address.parent() == Some(&config.state)
    {
        folders::let_through(&config.state, group)?;
    }
    let services = build(&config).await?;
    let recovered = services.tasks.recover().await.context("finding the containers that run")?;
    let sandboxes = services.sandbox_shims.recover().await.context("finding the sandboxes that run")?;
    services.events.serve(services.tasks.all());
    // Not before: what shims say is about tasks that are found by now.
    let forward = tokio::spawn(api::forward::serve(
        Socket::bind(&api::forward::address(&config.address), Access::own())?,
        Arc::clone(&services.tasks),
    ));
    let engine = Engine::new(&services)?;
    let pods = Pods::new(&services)?;
    // What they have of networks is not looked on as nobody's.
    pods.read_back().context("reading the pods back")?;
    engine.recover().await.context("reading the containers back")?;
    pods.recover().await.context("settling the pods")?;
    let cri = Cri::new(Arc::clone(&pods), &config.cri)?;
    services.gc.start();
    services.gc.trigger();
    let restarts = looked_after(&services);
    let exporter =
        tokio::spawn(export_now_and_then(Arc::clone(&services.db), config.metadata.export_seconds));
    let socket =
        Socket::bind(&config.address, access)?.at_most(config.grpc.max_connections, "grpc.max_connections");
    tracing::info!(
        containers = recovered.alive,
        stopped = recovered.stopped,
        silent = recovered.silent,
        discarded = recovered.discarded,
        sandboxes,
        "containers found"
    );
    tracing::info!(
        address = %config.address.display(), root = %config.root.display(), state = %config.state.display(),
        version = env!("CARGO_PKG_VERSION"), "longshored is ready"
    );
    let result = serve(&services, &engine, cri.clone(), socket, &mut signals).await;
    cri.shutdown().await;
    pods.shutdown(STOP_TIMEOUT).await;
    engine.shutdown(STOP_TIMEOUT).await;
    exporter.abort();
    restarts.abort();
    forward.abort();
    let (db, snapshots) = (Arc::clone(&services.db), Arc::clone(&services.snapshots));
    blocking(move || {
        snapshots.close();
        db.close()
    })
    .await
    .context("closing the metadata store")?;
    tracing::info!("longshored stopped; containers go on");
    result
}

async fn build(config: &Arc<Config>) -> anyhow::Result<Services> {
    let (folder, options) = (
        config.root.join("metadata"),
        metadata::Options { cache_bytes: config.metadata.cache_bytes, ..Default::default() },
    );
    let db = Arc::new(blocking(move || Db::open(&folder, &options)).await?);
    let uuid = identity(&db).await?;
    let events = Arc::new(EventBus::new());
    let namespaces = Arc::new(Namespaces::new(Arc::clone(&db), Arc::clone(&events)));
    let leases = Arc::new(Leases::new(Arc::clone(&db)));
    let content = {
        let (config, db, events) = (Arc::clone(config), Arc::clone(&db), Arc::clone(&events));
        let plugin = config.content_plugin();
        let plugin = plugin.map(|(name, plugin)| Plugin::new("content store", name, plugin)).transpose()?;
        let open =
            move || ContentStore::open(&config.root.join("content"), db, events, &config.content, plugin);
        blocking(open).await?
    };
    let content = Arc::new(content);
    let images = Arc::new(ImageStore::new(Arc::clone(&db), Arc::clone(&events)));
    let containers = Arc::new(ContainerStore::new(Arc::clone(&db), Arc::clone(&events)));
    let sandboxes = Arc::new(SandboxStore::new(Arc::clone(&db)));
    let snapshots = {
        let (config, db, events) = (Arc::clone(config), Arc::clone(&db), Arc::clone(&events));
        blocking(move || Snapshots::open(&config, &db, &events)).await?
    };
    let gc = Collector::new(Arc::clone(&db), Arc::clone(&content), Arc::clone(&images), &config.gc);
    gc.add_snapshots(Arc::clone(&snapshots) as Arc<dyn SnapshotSource>);
    let differs = Arc::new(Differs::new(config)?);
    let mounts = {
        let (config, db) = (Arc::clone(config), Arc::clone(&db));
        blocking(move || MountManager::open(&config.state, &config.root, &db)).await?
    };
    gc.add_mounts(Arc::clone(&mounts) as Arc<dyn MountSource>);
    let puller = Puller::new(config, &content, &images, &leases, &snapshots, &gc);
    puller.recover(&namespaces).await?;
    let pusher = Pusher::new(config, &content, &leases, &gc);
    let importer = Importer::new(&content, &puller);
    let tasks = TaskManager::new(
        TaskOptions {
            state: config.state.clone(),
            shim: config.runtime.shim.clone(),
            pool: config.runtime.pool_size,
            root: config.root.clone(),
            runtimes: Runtimes::new(&config.runtime.runtimes, &config.opt().join("bin")),
            addresses: Addresses {
                grpc: config.address.clone(),
                ttrpc: api::forward::address(&config.address),
                sockets: config.state.join("s"),
            },
        },
        Arc::clone(&events),
    )?;
    let sandbox_shims = Sandboxes::new(&tasks);
    let networks = Networks::open(&Namespace::parse(&config.engine.namespace)?, config, &db, &uuid).await?;
    Ok(Services {
        config: Arc::clone(config),
        uuid,
        db,
        events,
        namespaces,
        content,
        images,
        snapshots,
        differs,
        mounts,
        puller,
        pusher,
        importer,
        streams: Arc::default(),
        leases,
        containers,
        sandboxes,
        gc,
        networks,
        tasks,
        sandbox_shims,
    })
}

/// The restart monitor, at work.
fn looked_after(services: &Services) -> tokio::task::JoinHandle<()> {
    let seconds = services.config.restart.interval_seconds;
    let monitor = Monitor::new(services);
    tokio::spawn(async move {
        if seconds > 0 {
            monitor.run(Duration::from_secs(seconds)).await;
        }
    })
}

/// The daemon's UUID: made once, kept in the metadata.
async fn identity(db: &Db) -> anyhow::Result<Arc<str>> {
    let namespace = Namespace::parse("daemon")?;
    if let Some(uuid) = db.get(&tables::SETTINGS, &namespace, "uuid")? {
        return Ok(uuid.into());
    }
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = crate::hex::encode(&bytes);
    let uuid = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-");
    db.write(|tx| tx.put(&tables::SETTINGS, &namespace, "uuid", &uuid)).await?;
    Ok(uuid.into())
}

/// Serves until a signal; then requests get a moment to finish, and a second signal ends that.
async fn serve(
    services: &Services,
    engine: &Arc<Engine>,
    cri: Cri,
    socket: Socket,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let (stop, stopping) = watch::channel(false);
    let routes = api::routes(services, engine, cri).await;
    let layers = Arc::new(Layers::new(&services.config.grpc, routes, Settle::start()));
    let server = api::server::serve(socket, layers, stopping);
    tokio::pin!(server);
    ready::tell();
    tokio::select! {
        () = &mut server => anyhow::bail!("the socket takes no more connections"),
        name = signals.next() => tracing::info!("{name}: stopping"),
    }
    stop.send_replace(true);
    tokio::select! {
        () = &mut server => Ok(()),
        () = tokio::time::sleep(STOP_TIMEOUT) => {
            tracing::info!("requests that did not finish within {} s are cut", STOP_TIMEOUT.as_secs());
            Ok(())
        }
        name = signals.next() => {
            tracing::info!("{name} again: requests are cut");
            Ok(())
        }
    }
}

async fn export_now_and_then(db: Arc<Db>, seconds: u64) {
    let mut ticks = tokio::time::interval(Duration::from_secs(seconds.max(1)));
    loop {
        ticks.tick().await;
        let db = Arc::clone(&db);
        if let Err(error) = blocking(move || db.export()).await {
            tracing::error!("the metadata was not exported: {error}");
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
