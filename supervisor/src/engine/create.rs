//! Making a container: its image is found, its name taken, its snapshot prepared, its spec written; then one batch
//! makes it exist. Until that batch everything is undone when it fails or the caller goes away.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tracing::Instrument;

use super::config::{ContainerConfig, MountKind, Record};
use super::image_mounts::{self, Mounted};
use super::images::{Auth, LocalImage, Policy, PullEvent, PullRequest};
use super::network::{self, Joined};
use super::registry::{Entry, Reservation};
use super::spec::layers::Layers;
use super::spec::mounts::{self, Subpaths};
use super::spec::{self, env, user};
use super::state::State;
use super::volumes::{Acquired, names as volumes_of};
use super::{Engine, etc, health, logs, names, signals};
use crate::content::store::blocking;
use crate::error::{Error, Result};

use crate::network::sandbox::Sandbox;
use crate::snapshots::{Hold, Mount};
use crate::tasks::RootfsMount;

/// Most words of a command line, variables of an environment, labels and mounts together.
const MAX_ITEMS: usize = 65_536;

/// Most bytes of all of them.
const MAX_BYTES: usize = 2 << 20;

/// Longest path that the kernel takes, with its end.
const MAX_PATH: usize = 4096;

/// Most volumes that an image makes for each of its containers.
const MAX_VOLUMES: usize = 256;

/// What a container is made from.
#[derive(Clone, Debug)]
pub struct Create {
    pub config: ContainerConfig,
    /// Empty: adjective_surname.
    pub name: String,
    pub pull: Policy,
    pub auth: Option<Auth>,
}

/// What a client that waits for an image may be told.
#[derive(Clone, Debug)]
pub enum Progress {
    /// The image is not there and is being pulled: its canonical reference.
    Missing(String),
    Pull(PullEvent),
}

/// A container that exists.
#[derive(Clone)]
pub struct Created {
    pub entry: Arc<Entry>,
    pub name: String,
    pub warnings: Vec<String>,
}

/// Everything that a container is started from.
pub(super) struct Bundle {
    pub spec: Bytes,
    pub rootfs: Vec<RootfsMount>,
    /// Given back with the bundle, unless the container was started with it.
    pub sandbox: Option<Sandbox>,
    /// Folders within volumes and namespaces of others, which the spec names by these descriptors: whoever has the volume may
    /// move them meanwhile, and numbers of processes go to others.
    pub held: Vec<OwnedFd>,
    /// Images that it has mounted: on the host until it has started.
    pub images: Mounted,
}

/// What a container is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be started some time, or never.
    Keep,
    /// To be started at once.
    Run,
}

/// A container that is not recorded yet: undone when it is dropped.
pub(super) struct Making {
    engine: Arc<Engine>,
    pub entry: Arc<Entry>,
    pub bundle: Bundle,
    pub warnings: Vec<String>,
    /// Why it will not start.
    pub failed: Option<Error>,
    name: Option<Reservation>,
    volumes: Option<Acquired>,
    _hold: Hold,
}

impl Engine {
    /// Makes a container; durable when it returns.
    pub async fn create(
        self: &Arc<Self>,
        request: Create,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Created> {
        let making = Box::pin(self.make(&request, &progress, Purpose::Keep)).await?;
        let warnings = making.warnings.clone();
        let (entry, _) = making.record()?;
        self.sync().await?;
        let name = entry.name();
        Ok(Created { entry, name, warnings })
    }

    /// Everything but the record.
    pub(super) async fn make(
        self: &Arc<Self>,
        request: &Create,
        progress: &mpsc::Sender<Progress>,
        purpose: Purpose,
    ) -> Result<Making> {
        check(&request.config)?;
        self.runtime_for(&request.config.runtime)?;
        let name = if request.name.is_empty() { None } else { Some(names::validate(&request.name)?) };
        // Looked at before anything is pulled for nothing.
        if let Some(name) = name {
            drop(self.registry.reserve(Some(name), "")?);
        }
        let (local, image_ref) =
            self.image_for(request, progress).instrument(tracing::debug_span!("run.image")).await?;
        let id = names::new_id();
        let name = self.registry.reserve(name, &id)?;
        let mut record = self.record_for(&id, &request.config, &local, image_ref, &name.name)?;
        check_record(&record, &local)?;
        let volumes = self.resolve_mounts(&id, &request.config, local.config.volumes.keys()).await?;
        record.mounts = Some(volumes.mounts.clone());
        record.mounted_images = self.mounted_images(&volumes.mounts).await?;
        let mut making = Box::pin(self.prepare(id, record, &local, name, (purpose, volumes))).await?;
        making.warnings = warnings(&request.config)?;
        Ok(making)
    }

    async fn image_for(
        self: &Arc<Self>,
        request: &Create,
        progress: &mpsc::Sender<Progress>,
    ) -> Result<(Arc<LocalImage>, String)> {
        let config = &request.config;
        let image = self
            .ensure_image(
                PullRequest {
                    reference: config.image.clone(),
                    platform: config.platform.clone(),
                    auth: request.auth.clone(),
                },
                request.pull,
                progress,
            )
            .await?;
        let local = self.open_image(&image, &config.platform).await?;
        Ok((local, image.name))
    }

    fn record_for(
        &self,
        id: &str,
        config: &ContainerConfig,
        image: &LocalImage,
        image_ref: String,
        name: &str,
    ) -> Result<Record> {
        let of_image = &image.config;
        let process_args =
            env::words(config.entrypoint.as_deref(), &config.args, &of_image.entrypoint, &of_image.cmd);
        if process_args.is_empty() {
            return Err(Error::invalid(
                "no command specified",
                "neither the image nor the command line names a program",
            ));
        }
        let hostname = etc::hostname(&config.hostname, id, &config.network);
        let first_set =
            |own: &str, images: &str| if own.is_empty() { images.to_owned() } else { own.to_owned() };
        let stop_name = first_set(&config.stop_signal, &of_image.stop_signal);
        let stop_signal = match stop_name.as_str() {
            "" => signals::TERM,
            name => signals::parse(name)?,
        };
        let cwd = first_set(&config.working_dir, &of_image.working_dir);
        let mut labels = reserved_dropped(&of_image.labels);
        labels.extend(config.labels.clone());
        let mut config = config.clone();
        config.labels = labels;
        config.stop_signal = stop_name;
        config.env = env::with_images(&config.env, &of_image.env);
        config.endpoints = network::normalised(&config);
        // Said by `warnings`.
        spec::kernel::kernel().fit(&mut config.limits);
        config.health = health::merged(config.health, &of_image.healthcheck);
        config.log = logs::driver::completed(config.log, &self.config.engine);
        Ok(Record {
            name: name.to_owned(),
            image_id: image.id.as_str().to_owned(),
            image_ref,
            snapshotter: self.snapshotter()?.name().to_owned(),
            process_env: env::merge(&env::base(&hostname, config.tty), &config.env),
            entrypoint_words: env::entrypoint(config.entrypoint.as_deref(), &of_image.entrypoint).len(),
            process_args,
            process_cwd: absolute(&cwd)?,
            user: first_set(&config.user, &of_image.user),
            stop_signal,
            stdin_once: config.open_stdin,
            health_shell: if config.health.is_shell() { of_image.shell.clone() } else { Vec::new() },
            volumes: Vec::new(),
            mounts: None,
            mounted_images: Vec::new(),
            exposed: of_image.exposed_ports.keys().cloned().collect(),
            created_at: Timestamp::now(),
            state: State::created(),
            config,
        })
    }

    async fn prepare(
        self: &Arc<Self>,
        id: String,
        mut record: Record,
        image: &LocalImage,
        name: Reservation,
        (purpose, volumes): (Purpose, Acquired),
    ) -> Result<Making> {
        let snapshotter = self.snapshotter_of(&record)?;
        let hold = snapshotter.hold(&self.namespace, &id).await;
        let parent = image.chain_id.clone().unwrap_or_default();
        let labels = crate::labels::Labels::from([(image_mounts::OWNER.to_owned(), id.clone())]);
        let prepare = || snapshotter.prepare(&self.namespace, &id, &parent, labels.clone(), None);
        let mounts = async {
            match prepare().await {
                Err(error) if error.is_not_found() => {
                    self.unpack(&record.image_ref, &record.config.platform).await?;
                    prepare().await
                }
                prepared => prepared,
            }
        };
        let mounts = mounts.instrument(tracing::debug_span!("run.snapshot"));
        let joined = async {
            match purpose {
                Purpose::Keep => Ok(Joined::default()),
                Purpose::Run => self.join_networks(&id, &record).await,
            }
        };
        let (mounts, joined) = tokio::join!(mounts, joined.instrument(tracing::debug_span!("run.network")));
        let mounts = mounts?;
        let undo = Undo { engine: self.clone(), id: Some(id.clone()), mounted: Vec::new() };
        // A network that cannot be had is why the container does not start, not why it is not made.
        let (joined, mut failed) = match joined {
            Ok(joined) => (joined, None),
            Err(error) => (Joined::default(), Some(error)),
        };
        record.state.endpoints = joined.endpoints().to_vec();
        record.state.ports = joined.published().to_vec();
        let (mut undo, hold, volumes) = if Engine::wants_copy_up(record.mounts()) {
            let (engine, id, wanted) = (self.clone(), id.clone(), record.mounts().to_vec());
            let mounts = mounts.clone();
            // With everything that it needs: what the client leaves behind is undone when the copying is over, not under it.
            self.carry("filling volumes", async move {
                engine.populate_volumes(&id, &wanted, &mounts).await?;
                Ok((undo, hold, volumes))
            })
            .await?
        } else {
            (undo, hold, volumes)
        };
        let mut for_a_start = purpose == Purpose::Run && failed.is_none();
        if for_a_start {
            undo.mounted = volumes_of(&record);
            if let Err(error) = self.mount_all(&undo.mounted, &id).await {
                (failed, for_a_start) = (Some(error), false);
            }
        }
        let purpose = if for_a_start { Purpose::Run } else { Purpose::Keep };
        let bundle = self.bundle(&id, &record, &mounts, (First::Yes, purpose), joined).await?;
        (undo.id, undo.mounted) = (None, Vec::new());
        Ok(Making {
            engine: self.clone(),
            entry: Entry::new(id, record),
            bundle,
            warnings: Vec::new(),
            failed,
            name: Some(name),
            volumes: Some(volumes),
            _hold: hold,
        })
    }

    /// Writes the container's files and its spec. Everything that may block does so in one hop. If it is started from it, its volumes
    /// are mounted.
    pub(super) async fn bundle(
        self: &Arc<Self>,
        id: &str,
        record: &Record,
        mounts: &[Mount],
        (first, purpose): (First, Purpose),
        joined: Joined,
    ) -> Result<Bundle> {
        let layers = Layers::from_mounts(
            mounts.iter().map(|mount| (mount.kind.as_str(), mount.source.as_str(), mount.options.as_slice())),
        );
        let rootfs = mounts
            .iter()
            .map(|mount| RootfsMount {
                kind: mount.kind.clone(),
                source: mount.source.clone(),
                target: mount.target.clone(),
                options: mount.options.clone(),
            })
            .collect();
        let images = match purpose {
            Purpose::Run => Box::pin(self.mount_images(id, record)).await?,
            Purpose::Keep => self.views(id, record).await.map(|_| Mounted::default())?,
        };
        let (engine, id, record) = (self.clone(), id.to_owned(), record.clone());
        let work = move || {
            let (spec, mut held) = engine.write_bundle(&id, &record, &layers, (first, purpose), &joined)?;
            held.extend(joined.held);
            Ok((spec, held, joined.sandbox))
        };
        let (spec, held, sandbox) = blocking(work).instrument(tracing::debug_span!("run.spec")).await?;
        Ok(Bundle { spec, rootfs, sandbox, held, images })
    }

    fn write_bundle(
        &self,
        id: &str,
        record: &Record,
        layers: &Layers,
        (first, purpose): (First, Purpose),
        joined: &Joined,
    ) -> Result<(Bytes, Vec<OwnedFd>)> {
        let folder = self.folder(id);
        make_folder(&folder)?;
        let config = &record.config;
        let hostname = match &joined.hostname {
            Some(shared) => shared.clone(),
            None => etc::hostname(&config.hostname, id, &config.network),
        };
        let own = network::own_lines(id, record, joined.endpoints());
        let hosts: Vec<String> = joined.hosts.iter().cloned().chain(own).collect();
        let mut resolver = self.resolver(record, joined.endpoints());
        resolver.or_else(&joined.dns);
        etc::write(&folder, &hostname, &hosts, &resolver)?;
        let mut held = Vec::new();
        let subpaths = match purpose {
            Purpose::Keep => Subpaths::Later,
            Purpose::Run => Subpaths::Opened(&mut held),
        };
        let binds = mounts::prepare(record.mounts(), |mount| self.source_of(id, mount), subpaths)?;
        if matches!(first, First::Yes) {
            layers.make_folder(&record.process_cwd)?;
        }
        let mut identity =
            user::resolve(&record.user, layers.open_file("/etc/passwd")?, layers.open_file("/etc/group")?)?;
        spec::add_groups(&mut identity, config, || layers.open_file("/etc/group"))?;
        let (joins, shm) = self.joins(id, config, &mut held)?;
        let spec = spec::generate(&spec::Input {
            id,
            record,
            identity: &identity,
            mounts: &binds,
            files: joined.files.as_deref().unwrap_or(&folder),
            network: &joined.namespace,
            cgroup_parent: &self.config.runtime.cgroup_parent,
            hostname: &hostname,
            joins: &joins,
            shm: shm.as_deref(),
            default_ulimits: &self.default_ulimits,
        })?;
        let json = serde_json::to_vec(&spec).map_err(|source| Error::Record {
            table: "bundle",
            key: id.to_owned(),
            source: source.into(),
        })?;
        Ok((json.into(), held))
    }

    /// Where on the host the files of a volume are, or of an image once it is mounted.
    pub(super) fn source_of(&self, id: &str, mount: &super::config::Mount) -> PathBuf {
        match mount.kind {
            MountKind::Image => self.image_point(id, mount),
            _ => self.volumes.data(&mount.source),
        }
    }

    /// Removes a container's writable layer from the snapshotter that has it: most likely the default one.
    pub(super) async fn remove_snapshot(&self, id: &str) -> Result<()> {
        let default = self.snapshotter()?;
        match default.remove(&self.namespace, id).await {
            Err(error) if error.is_not_found() => {}
            removed => return removed,
        }
        for other in self.snapshots.others(&default) {
            match other.remove(&self.namespace, id).await {
                Err(error) if error.is_not_found() => {}
                removed => return removed,
            }
        }
        Ok(())
    }

    /// Removes what a container has besides its record. Goes on at errors and returns the first.
    pub(super) async fn remove_remains(&self, id: &str) -> Result<()> {
        self.drop_shm(id);
        let snapshot = self.remove_snapshot(id).await;
        let folder = self.folder(id);
        let views = blocking(move || {
            let views = image_mounts::leave(&folder)?;
            match std::fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::io("removing", &folder, error))
                }
                _ => Ok(views),
            }
        })
        .await;
        let files = match views {
            Ok(views) => self.remove_views(id, &views).await,
            Err(error) => Err(error),
        };
        snapshot.and(files)
    }
}

/// Whether the container never ran, so that nobody else touches its writable layer.
#[derive(Clone, Copy, Debug)]
pub(super) enum First {
    Yes,
    No,
}

impl Making {
    /// Makes the container exist; the batch is on its way to the disk when this returns, [`Db::sync`] waits for it.
    ///
    /// [`Db::sync`]: crate::metadata::Db::sync
    pub fn record(mut self) -> Result<(Arc<Entry>, Bundle)> {
        let engine = self.engine.clone();
        let entry = self.entry.clone();
        let record = entry.record();
        let container = engine.container(&entry.id, &record, self.bundle.spec.clone())?;
        engine.db.write_lazy(|tx| engine.put_new(tx, &container, &record))?;
        engine.registry.insert(entry.clone());
        if let Some(name) = self.name.take() {
            name.keep();
        }
        if let Some(volumes) = self.volumes.take() {
            volumes.keep();
        }
        engine.containers.created(&engine.namespace, &container);
        engine.happened(&entry, "create", &[]);
        let bundle = Bundle {
            spec: self.bundle.spec.clone(),
            rootfs: std::mem::take(&mut self.bundle.rootfs),
            sandbox: self.bundle.sandbox.take(),
            held: std::mem::take(&mut self.bundle.held),
            images: std::mem::take(&mut self.bundle.images),
        };
        Ok((entry, bundle))
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // Without a name of its own it was recorded.
        if self.name.is_some() {
            let mounted = self.entry.read(volumes_of);
            drop(Undo { engine: self.engine.clone(), id: Some(self.entry.id.clone()), mounted });
        }
    }
}

/// Removes the remains of a container that never came to exist.
struct Undo {
    engine: Arc<Engine>,
    id: Option<String>,
    /// Volumes that were mounted for it.
    mounted: Vec<String>,
}

impl Drop for Undo {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let (engine, mounted) = (self.engine.clone(), std::mem::take(&mut self.mounted));
        self.engine.background.spawn(async move {
            engine.unmount_all(&mounted, &id).await;
            if let Err(error) = engine.remove_remains(&id).await {
                tracing::warn!(container = %id, %error, "a container that was not made left something; the next start removes it");
            }
        });
    }
}

fn make_folder(folder: &PathBuf) -> Result<()> {
    match std::fs::create_dir(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) => {
            std::fs::create_dir_all(folder).map_err(|source| Error::io("making the folder", folder, source))
        }
    }
}

/// Labels of an image that would mean something to containerd are the daemon's to give.
fn reserved_dropped(
    labels: &std::collections::BTreeMap<String, String>,
) -> std::collections::BTreeMap<String, String> {
    let reserved = |key: &str| key.starts_with("containerd.io/") || key.starts_with("io.containerd.");
    labels.iter().filter(|(key, _)| !reserved(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn absolute(cwd: &str) -> Result<String> {
    match cwd {
        "" => Ok("/".to_owned()),
        path if path.contains('\0') => Err(Error::invalid("working directory", "contains NUL")),
        path if path.len() >= MAX_PATH => {
            Err(Error::invalid("working directory", format!("is longer than {MAX_PATH} bytes")))
        }
        path if path.starts_with('/') => Ok(path.to_owned()),
        // An image may say it relative to the root; a user may not.
        path => Ok(format!("/{path}")),
    }
}

/// What was asked for and cannot be had on this host.
fn warnings(config: &ContainerConfig) -> Result<Vec<String>> {
    let mut warnings = spec::kernel::kernel().fit(&mut config.limits.clone());
    warnings.extend(spec::security::Security::parse(config)?.warnings);
    if config.network == super::config::NetworkMode::Host
        && (!config.publish.is_empty() || config.publish_all)
    {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    Ok(warnings)
}

/// With what the image has given to it, which is a stranger's.
fn check_record(record: &Record, image: &LocalImage) -> Result<()> {
    let volumes = &image.config.volumes;
    if volumes.len() > MAX_VOLUMES {
        let limit = "volumes of one image";
        return Err(Error::ResourceExhausted {
            what: record.config.image.clone(),
            limit,
            max: MAX_VOLUMES as u64,
        });
    }
    let words = record.process_args.iter().chain(&record.process_env).chain(&record.exposed);
    let words = words.chain(&record.health_shell).chain(volumes.keys());
    check_size(words, &record.config.labels, record.config.mounts.len())
}

fn check_size<'a>(
    words: impl Iterator<Item = &'a String>,
    labels: &std::collections::BTreeMap<String, String>,
    others: usize,
) -> Result<()> {
    let (mut items, mut bytes) = (labels.len() + others, 0);
    for word in words {
        items += 1;
        bytes += word.len();
        if word.contains('\0') {
            return Err(Error::invalid("argument", "contains NUL"));
        }
    }
    bytes += labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    for (what, limit, is, max) in [
        ("container config", "words of one container", items, MAX_ITEMS),
        ("container config", "bytes of one container's words", bytes, MAX_BYTES),
    ] {
        if is > max {
            return Err(Error::ResourceExhausted { what: what.to_owned(), limit, max: max as u64 });
        }
    }
    Ok(())
}

/// What can be refused before anything is looked up.
pub fn check(config: &ContainerConfig) -> Result<()> {
    if config.image.is_empty() {
        return Err(Error::invalid("image", "no image was named"));
    }
    let cwd = &config.working_dir;
    if !cwd.is_empty() && !cwd.starts_with('/') {
        return Err(Error::invalid(
            format!("the working directory '{cwd}' is invalid"),
            "it needs to be an absolute path",
        ));
    }
    if let Some(bad) = config.env.iter().find(|entry| entry.is_empty() || entry.starts_with('=')) {
        return Err(Error::invalid(format!("invalid environment variable: {bad}"), "it has no name"));
    }
    let words = config.args.iter().chain(config.entrypoint.iter().flatten()).chain(&config.env);
    check_size(words, &config.labels, config.mounts.len())?;
    etc::check_hostname(&config.hostname)?;
    config.mounts.iter().try_for_each(mounts::check)?;
    let mut targets: Vec<&str> =
        config.mounts.iter().map(|mount| mount.target.trim_end_matches('/')).collect();
    targets.sort_unstable();
    if let Some(pair) = targets.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::invalid(
            format!("Duplicate mount point: {}", pair[0]),
            "each target can be given once",
        ));
    }
    super::unbuilt::check(config)?;
    network::check(config)?;
    spec::check(config)?;
    super::policy::check(&config.restart, config.auto_remove)?;
    super::health::check(&config.health)?;
    spec::capabilities::resolve(&config.cap_add, &config.cap_drop, config.privileged)?;
    if !config.stop_signal.is_empty() {
        signals::parse(&config.stop_signal)?;
    }
    logs::driver::check(&config.log)?;
    Ok(())
}
