//! The snapshots of all namespaces: the drivers, with namespaces, leases, events and the collector's claims around them.
//!
//! What always holds:
//! - A driver sees a snapshot of a namespace under the key `NAMESPACE/KEY`, and keeps its labels itself: there is no second record
//!   that could disagree.
//! - What a lease is to hold is held before it is made, so that the collector never sees it without.
//! - Whatever a verb works on is claimed while it does: the collector leaves it alone, and a verb on something
//!   that the collector has condemned waits until it is gone.
//! - `prepare`, `remove` and `update` survive a kill of the daemon when they return, and a power cut half a second later or after
//!   [`Snapshotters::flush`]; commits survive both when they return.

mod backend;
mod claims;
mod collect;
mod keys;
mod remote;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use longshore_proto::containerd::events as wire;
use longshore_snapshotter::LabelChange;
pub use longshore_snapshotter::{Info, Kind, Mount, UpperDir, Usage};
use longshore_snapshotter::{Native, Overlayfs, Recovery, Snapshotter as Driver};

use backend::Backend;
use claims::Claims;
pub use claims::Hold;
use keys::internal;
use remote::Remote;

use crate::config::{Config, ProxyKind};
use crate::error::{Error, Result};
use crate::events::EventBus;
use crate::filters::{self, Adaptor, Filter};
use crate::labels::{self, Labels};
use crate::leases::{self, Resource};
use crate::metadata::{Db, Reader, tables};
use crate::namespaces::{self, Namespace, Preference};
use crate::plugins::Plugin;

/// The label by which a client says which committed snapshot it is about to make.
const TARGET: &str = "containerd.io/snapshot.ref";

/// How long changes may stay off the disk that nobody waits for.
const FLUSH_DELAY: Duration = Duration::from_millis(500);

/// All drivers by name.
pub struct Snapshots {
    drivers: BTreeMap<String, Result<Snapshotter, String>>,
    default: String,
    db: Arc<Db>,
}

/// One driver, as every namespace uses it. Cheap to clone.
#[derive(Clone)]
pub struct Snapshotter(Arc<Inner>);

struct Inner {
    name: String,
    backend: Backend,
    claims: Arc<Claims>,
    db: Arc<Db>,
    events: Arc<EventBus>,
    /// A flush is going to happen that includes all changes until it begins.
    flush_planned: AtomicBool,
}

/// One snapshot to be committed.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    pub name: String,
    pub key: String,
    pub labels: Labels,
    /// A parent for one that was prepared without; `None` keeps what it has. Where the snapshotter's capabilities have `rebase`.
    pub parent: Option<String>,
    /// What its files take, if the caller has counted it; otherwise they are walked over.
    pub usage: Option<Usage>,
}

impl Snapshots {
    /// Opens every driver below `root`/snapshotter, and the plugins of the configuration. One that cannot work here is kept with the
    /// reason. Blocks, and needs a runtime.
    pub fn open(config: &Config, db: &Arc<Db>, events: &Arc<EventBus>) -> Result<Arc<Self>> {
        let folder = config.root.join("snapshotter");
        let wrap = |name: &str, backend: Backend| {
            Snapshotter(Arc::new(Inner {
                name: name.to_owned(),
                backend,
                claims: Arc::default(),
                db: Arc::clone(db),
                events: Arc::clone(events),
                flush_planned: AtomicBool::new(false),
            }))
        };
        let local = |name, driver: Arc<dyn Driver>| wrap(name, Backend::Local(driver));
        let overlayfs = Overlayfs::open(&folder.join("overlayfs")).map_err(opening)?;
        report("overlayfs", overlayfs.recovery());
        let usable = overlayfs.probe().map_err(|e| e.to_string());
        let native = Native::open(&folder.join("native")).map_err(opening)?;
        report("native", native.recovery());
        let mut default = config.snapshotter.default.clone();
        if default == "overlayfs"
            && let Err(why) = &usable
        {
            tracing::warn!("overlayfs cannot be used, so snapshots are full copies by default: {why}");
            default = "native".to_owned();
        }
        let mut drivers = BTreeMap::from([
            ("overlayfs".to_owned(), usable.map(|()| local("overlayfs", Arc::new(overlayfs)))),
            ("native".to_owned(), Ok(local("native", Arc::new(native)))),
        ]);
        for (name, plugin) in config.proxies(ProxyKind::Snapshot) {
            let capabilities = plugin.capabilities.clone();
            let remote = Remote::new(Plugin::new("snapshotter", name, plugin)?, name.clone(), capabilities);
            drivers.insert(name.clone(), Ok(wrap(name, Backend::Remote(remote))));
        }
        Ok(Arc::new(Self { drivers, default, db: Arc::clone(db) }))
    }

    /// The driver of that name.
    pub fn by_name(&self, name: &str) -> Result<Snapshotter> {
        match self.drivers.get(name) {
            Some(Ok(snapshotter)) => Ok(snapshotter.clone()),
            Some(Err(why)) => Err(Error::unavailable(format!("snapshotter \"{name}\""), why)),
            None if name.is_empty() => Err(Error::invalid("snapshotter", "must be named")),
            None => {
                let names: Vec<_> = self.drivers.keys().map(String::as_str).collect();
                let why = format!("does not exist here: there are {}", names.join(", "));
                Err(Error::invalid(format!("snapshotter \"{name}\""), why))
            }
        }
    }

    /// The driver for those who name none: the one that the namespace's label names, or else the configured one.
    pub fn default_for(&self, namespace: &Namespace) -> Result<Snapshotter> {
        match namespaces::preferred(&self.db, namespace, Preference::Snapshotter)? {
            Some(name) => self.by_name(&name),
            None => self.by_name(&self.default),
        }
    }

    /// All that can be used, except this one.
    pub fn others(&self, than: &Snapshotter) -> Vec<Snapshotter> {
        self.usable().filter(|snapshotter| snapshotter.0.name != than.0.name).cloned().collect()
    }

    /// Whether the namespace has any snapshot: then it cannot be deleted.
    pub async fn any(&self, namespace: &Namespace) -> Result<bool> {
        for snapshotter in self.usable() {
            if !snapshotter.0.backend.list(namespace).await?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings everything to the disk, at the end. Blocks.
    pub fn close(&self) {
        for snapshotter in self.usable() {
            if let Backend::Local(driver) = &snapshotter.0.backend
                && let Err(e) = driver.close()
            {
                tracing::error!(snapshotter = snapshotter.0.name, "cannot close: {e}");
            }
        }
    }

    fn usable(&self) -> impl Iterator<Item = &Snapshotter> {
        self.drivers.values().filter_map(|driver| driver.as_ref().ok())
    }
}

impl Snapshotter {
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Keeps the collector away from `key` as long as the result lives, whether it exists yet or not: for what
    /// is made first and referred to afterwards.
    pub async fn hold(&self, namespace: &Namespace, key: &str) -> Hold {
        self.0.claims.claim([internal(namespace, key)]).await
    }

    pub async fn stat(&self, namespace: &Namespace, key: &str) -> Result<Info> {
        let _claim = self.hold(namespace, key).await;
        self.0.backend.stat(namespace, key).await
    }

    /// Snapshots of the namespace that match, in the order of their keys.
    pub async fn list(&self, namespace: &Namespace, filter: &Filter) -> Result<Vec<Info>> {
        let mut found = self.0.backend.list(namespace).await?;
        found.retain(|info| filter.matches(&Fields(info)));
        Ok(found)
    }

    /// What to mount for an active snapshot or a view.
    pub async fn mounts(&self, namespace: &Namespace, key: &str) -> Result<Vec<Mount>> {
        let _claim = self.hold(namespace, key).await;
        self.0.backend.mounts(namespace, key).await
    }

    /// The directory that the files of an active snapshot are in.
    pub async fn upper_dir(&self, namespace: &Namespace, key: &str) -> Result<UpperDir> {
        let _claim = self.hold(namespace, key).await;
        self.0.backend.upper_dir(namespace, key)
    }

    /// What clients may expect of it, in containerd's words.
    pub fn capabilities(&self) -> Vec<String> {
        self.0.backend.capabilities()
    }

    /// Whether layers may be unpacked side by side, each into its snapshot's own directory.
    pub fn unpacks_aside(&self) -> bool {
        self.0.backend.unpacks_aside()
    }

    pub async fn usage(&self, namespace: &Namespace, key: &str) -> Result<Usage> {
        let _claim = self.hold(namespace, key).await;
        self.0.backend.usage(namespace, key).await
    }

    /// Makes a writable snapshot; `parent` is empty for none.
    pub async fn prepare(
        &self,
        namespace: &Namespace,
        key: &str,
        parent: &str,
        labels: Labels,
        lease: Option<&str>,
    ) -> Result<Vec<Mount>> {
        let mounts = self.create(Kind::Active, namespace, key, parent, labels, lease).await?;
        let event = wire::SnapshotPrepare {
            key: key.to_owned(),
            parent: parent.to_owned(),
            snapshotter: self.0.name.clone(),
        };
        self.publish(namespace, "/snapshot/prepare", "containerd.events.SnapshotPrepare", &event);
        Ok(mounts)
    }

    /// Makes a read-only snapshot; `parent` is empty for none.
    pub async fn view(
        &self,
        namespace: &Namespace,
        key: &str,
        parent: &str,
        labels: Labels,
        lease: Option<&str>,
    ) -> Result<Vec<Mount>> {
        self.create(Kind::View, namespace, key, parent, labels, lease).await
    }

    async fn create(
        &self,
        kind: Kind,
        namespace: &Namespace,
        key: &str,
        parent: &str,
        mut labels: Labels,
        lease: Option<&str>,
    ) -> Result<Vec<Mount>> {
        keys::check(key)?;
        labels::settle(&mut labels)?;
        let full = internal(namespace, key);
        let full_parent = (!parent.is_empty()).then(|| internal(namespace, parent));
        let target = labels.get(TARGET).filter(|target| !target.is_empty()).cloned();
        let claimed =
            [Some(full.clone()), full_parent.clone(), target.as_ref().map(|t| internal(namespace, t))];
        let _claim = self.0.claims.claim(claimed.into_iter().flatten()).await;
        if let Some(target) = &target
            && self.is_there(namespace, target).await?
        {
            self.claim_namespace(namespace, &[target], lease).await?;
            return Err(Error::already_exists("target snapshot", target));
        }
        self.claim_namespace(namespace, &[key], lease).await?;
        let made = self.0.backend.create(kind, namespace, key, parent, labels).await;
        // A plugin may have made by itself what was about to be made.
        if let (Err(Error::AlreadyExists { .. }), Some(target), Backend::Remote(_)) =
            (&made, &target, &self.0.backend)
            && self.is_there(namespace, target).await?
        {
            self.let_go(namespace, key, lease);
            self.claim_namespace(namespace, &[target], lease).await?;
            return Err(Error::already_exists("target snapshot", target));
        }
        match &made {
            Ok(_) => self.plan_flush(),
            // Another's snapshot of that key may be held by the same lease.
            Err(Error::AlreadyExists { .. }) => {}
            Err(_) => self.let_go(namespace, key, lease),
        }
        made
    }

    async fn is_there(&self, namespace: &Namespace, key: &str) -> Result<bool> {
        match self.0.backend.stat(namespace, key).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Turns the active `key` into the committed `name`. Durable when it returns.
    pub async fn commit(&self, namespace: &Namespace, commit: Commit, lease: Option<&str>) -> Result<()> {
        self.commit_all(namespace, vec![commit], lease).await
    }

    /// Commits several, all or none, with one sync of the file system: the layers of an image, bottom first.
    pub async fn commit_all(
        &self,
        namespace: &Namespace,
        mut commits: Vec<Commit>,
        lease: Option<&str>,
    ) -> Result<()> {
        for commit in &mut commits {
            keys::check(&commit.name)?;
            labels::settle(&mut commit.labels)?;
        }
        let mut claimed = Vec::with_capacity(3 * commits.len());
        for commit in &commits {
            let keys = [Some(&commit.key), Some(&commit.name), commit.parent.as_ref()];
            claimed.extend(keys.into_iter().flatten().map(|key| internal(namespace, key)));
        }
        let _claim = self.0.claims.claim(claimed).await;
        let names: Vec<&str> = commits.iter().map(|c| c.name.as_str()).collect();
        self.claim_namespace(namespace, &names, lease).await?;
        self.0.backend.commit_all(namespace, &commits).await?;
        for commit in commits {
            self.let_go(namespace, &commit.key, lease);
            let (key, name) = (commit.key, commit.name);
            let event = wire::SnapshotCommit { key, name, snapshotter: self.0.name.clone() };
            self.publish(namespace, "/snapshot/commit", "containerd.events.SnapshotCommit", &event);
        }
        Ok(())
    }

    /// Removes a snapshot that is nobody's parent, with its files, and takes it out of the lease.
    pub async fn remove_leased(&self, namespace: &Namespace, key: &str, lease: Option<&str>) -> Result<()> {
        self.remove(namespace, key).await?;
        self.let_go(namespace, key, lease);
        Ok(())
    }

    /// Removes a snapshot that is nobody's parent, with its files.
    pub async fn remove(&self, namespace: &Namespace, key: &str) -> Result<()> {
        let _claim = self.hold(namespace, key).await;
        self.0.backend.remove(namespace, key).await?;
        self.plan_flush();
        self.removed(namespace, key);
        Ok(())
    }

    /// Changes labels: those that `keys` names (an empty value takes one away), or all of them.
    pub async fn update(
        &self,
        namespace: &Namespace,
        key: &str,
        labels: Labels,
        keys: Option<&[String]>,
    ) -> Result<Info> {
        labels::check(&labels)?;
        let _claim = self.hold(namespace, key).await;
        let info = self.0.backend.update(namespace, key, labels, keys).await?;
        self.plan_flush();
        Ok(info)
    }

    /// Returns when everything that was done so far survives a power cut.
    pub async fn flush(&self) -> Result<()> {
        self.0.backend.flush().await
    }

    /// Removes directories that resisted earlier.
    pub async fn cleanup(&self, namespace: &Namespace) -> Result<()> {
        self.0.backend.cleanup(namespace).await
    }

    /// Makes the namespace known, and gives what is about to be made to the lease.
    async fn claim_namespace(&self, namespace: &Namespace, keys: &[&str], lease: Option<&str>) -> Result<()> {
        let db = &self.0.db;
        if lease.is_none() && db.contains(&tables::NAMESPACES, namespace, namespace.as_str())? {
            return Ok(());
        }
        db.write(|tx| {
            namespaces::ensure(tx, namespace)?;
            let Some(lease) = lease else { return Ok(()) };
            keys.iter().try_for_each(|key| leases::hold(tx, namespace, lease, &self.resource(key)))
        })
        .await
    }

    fn let_go(&self, namespace: &Namespace, key: &str, lease: Option<&str>) {
        let Some(lease) = lease else { return };
        let outcome = self.0.db.write_lazy(|tx| leases::release(tx, namespace, lease, &self.resource(key)));
        if let Err(e) = outcome {
            // The lease holds a name that stands for nothing; it ends with the lease.
            tracing::warn!(%namespace, lease, key, "cannot take a snapshot out of its lease: {e}");
        }
    }

    fn resource(&self, key: &str) -> Resource {
        Resource::Snapshot { snapshotter: self.0.name.clone(), key: key.to_owned() }
    }

    fn removed(&self, namespace: &Namespace, key: &str) {
        let event = wire::SnapshotRemove { key: key.to_owned(), snapshotter: self.0.name.clone() };
        self.publish(namespace, "/snapshot/remove", "containerd.events.SnapshotRemove", &event);
    }

    fn publish<M: prost::Message>(&self, namespace: &Namespace, topic: &str, name: &str, event: &M) {
        self.0.events.publish_message(namespace, topic, name, event);
    }

    /// Brings what was done to the disk soon, together with what else happens until then.
    fn plan_flush(&self) {
        if self.0.flush_planned.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            tokio::time::sleep(FLUSH_DELAY).await;
            inner.flush_planned.store(false, Ordering::Release);
            if let Err(e) = Snapshotter(inner).flush().await {
                tracing::error!("cannot bring snapshots' records to the disk: {e}");
            }
        });
    }
}

/// A snapshot as filters see it.
struct Fields<'a>(&'a Info);

impl Adaptor for Fields<'_> {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["name"] => Some(self.0.name.clone()),
            ["parent"] => Some(self.0.parent.clone().unwrap_or_default()),
            ["kind"] => Some(
                match self.0.kind {
                    Kind::View => "view",
                    Kind::Active => "active",
                    Kind::Committed => "committed",
                }
                .to_owned(),
            ),
            ["labels", key @ ..] => filters::label(&self.0.labels, key),
            _ => None,
        }
    }
}

/// An error of a driver as a whole.
fn opening(error: longshore_snapshotter::Error) -> Error {
    keys::plain(error)
}

fn report(name: &str, recovery: &Recovery) {
    if recovery.removed > 0 {
        tracing::info!(snapshotter = name, "removed {} unfinished snapshots", recovery.removed);
    }
    if recovery.damaged {
        tracing::error!(
            snapshotter = name,
            "the journal was damaged; directories that it may have named are in unowned/"
        );
    }
    for key in &recovery.emptied {
        tracing::warn!(snapshotter = name, key, "the files of this snapshot were lost in a power cut");
    }
    for key in &recovery.lost {
        tracing::error!(
            snapshotter = name,
            key,
            "the files of this committed snapshot are missing: pull its image again"
        );
    }
}
