//! The whole of a pull: resolve, fetch and unpack side by side, commit in order, record the image.

#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::sync::Arc;

use futures::future::try_join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use rustix::fs::statvfs;
use tokio::sync::Semaphore;

use super::error::PullError;
use super::layers::{Target, Unpacked, Work};
use super::progress::{LayerPlan, LayerStatus, Progress};
use super::resolve::{Origin, Resolved};
use super::session::{Ending, Session};
use super::{PullRequest, Pulled, Puller};
use crate::content::Descriptor;
use crate::content::store::blocking;
use crate::error::Error;
use crate::images::detached;
use crate::images::fetch::{MAX_MANIFEST, Remote};
use crate::images::manifest::Layer;
use crate::images::platform::Platform;
use crate::images::unpack::{Applied, Form, UnpackError, implicit};
use crate::labels::Labels;
use crate::namespaces::Namespace;
use crate::snapshots::{Commit, Kind, Snapshotter, UpperDir, Usage};

/// Layers that are fetched and unpacked at one time.
pub(super) const LAYERS: usize = 4;
/// Connections of one pull.
pub(super) const CONNECTIONS: usize = 8;
/// How long the cleaning up after a pull that does not move is waited for.
const STUCK: std::time::Duration = std::time::Duration::from_secs(5);
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

impl Session {
    /// Opens an active snapshot to unpack a layer into its own directory.
    pub async fn target(&self, key: String, form: Form) -> Result<Target, PullError> {
        let upper = self.snapshotter.upper_dir(&self.namespace, &key).await?;
        let directory = rustix::fs::open(
            upper.path(),
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(|errno| Error::io("opening the snapshot", upper.path(), errno.into()))?;
        Ok(Target { key, directory, form })
    }
}

impl Puller {
    /// A pull from beginning to end; `abandoned` ends it early.
    pub(super) async fn run(
        self: &Arc<Self>,
        namespace: &Namespace,
        request: &PullRequest,
        progress: &Progress,
        abandoned: impl Future<Output = ()>,
    ) -> Result<Pulled, PullError> {
        let session = Session::begin(self, namespace, self.snapshots.default_for(namespace)?).await?;
        let result = tokio::select! {
            result = self.pull_in(&session, request, progress) => result,
            () = abandoned => Err(PullError::Canceled(request.reference.familiar())),
            error = self.stalled(request, progress) => Err(error),
        };
        let (ending, stuck) = (Ending::of(&result), matches!(result, Err(PullError::Stalled { .. })));
        let end = tokio::spawn(async move { session.end(ending).await });
        if stuck {
            // A disk that hangs may hold its threads for ever; whoever waits is told all the same.
            let _ = tokio::time::timeout(STUCK, end).await;
        } else {
            let _ = end.await;
        }
        result
    }

    /// Ends when nothing of the pull has moved for too long.
    async fn stalled(&self, request: &PullRequest, progress: &Progress) -> PullError {
        let seconds = self.config.registry.stall_seconds;
        if seconds == 0 {
            return std::future::pending().await;
        }
        let at = progress.stalled(std::time::Duration::from_secs(seconds)).await;
        let reference = request.reference.familiar();
        PullError::Stalled { reference, seconds, step: at.step, current: at.current, total: at.total }
    }

    async fn pull_in(
        &self,
        session: &Session,
        request: &PullRequest,
        progress: &Progress,
    ) -> Result<Pulled, PullError> {
        let reference = &request.reference;
        let remote = Remote::new(&self.http, &self.config.registry, reference, request.auth.clone()).await?;
        let (bytes, target, host) = self.ask(&remote, reference).await?;
        let origin = Origin::Registry { remote: &remote, reference, host };
        let resolved = self.resolve(session, origin, (bytes, target), &request.platform).await?;
        let plan = |layer: &Layer| LayerPlan {
            digest: layer.descriptor.digest.clone(),
            size: layer.descriptor.size,
        };
        let layers = resolved.manifest.layers.iter().map(plan).collect();
        progress.plan(reference.familiar_name(), reference.object().to_owned(), layers);
        let was_there = self.unpack_all(session, origin, &resolved, progress).await?;
        let name = reference.canonical();
        let before = match self.images.get(&session.namespace, &name) {
            Ok(image) => Some(image),
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let same = before.filter(|image| image.target.digest == resolved.target.digest);
        let was_up_to_date = was_there && same.is_some();
        let image = match same {
            Some(image) => image,
            None => {
                self.images.put(&session.namespace, &name, resolved.target.clone(), Labels::new()).await?
            }
        };
        Ok(Pulled { image, was_up_to_date })
    }

    /// Unpacks an image whose content is here.
    pub(super) async fn unpack_local(
        self: &Arc<Self>,
        namespace: &Namespace,
        target: &Descriptor,
        platform: &Platform,
        snapshotter: Snapshotter,
    ) -> Result<String, PullError> {
        let session = Session::begin(self, namespace, snapshotter).await?;
        let result = async {
            let blob = self.content.reader(namespace, &target.digest).await?;
            let bytes = blob.read_all(MAX_MANIFEST as u64).await?;
            let resolved = self.resolve(&session, Origin::Local, (bytes, target.clone()), platform).await?;
            let progress = Progress::new(target.digest.to_string());
            self.unpack_all(&session, Origin::Local, &resolved, &progress).await?;
            Ok(resolved.chain_ids.last().cloned().unwrap_or_default())
        };
        let result = result.await;
        session.end(Ending::of(&result)).await;
        result
    }

    /// Makes all layers present and unpacked. `true`: they were.
    pub(super) async fn unpack_all(
        &self,
        session: &Session,
        origin: Origin<'_>,
        resolved: &Resolved,
        progress: &Progress,
    ) -> Result<bool, PullError> {
        let layers = &resolved.manifest.layers;
        let done = committed(session, &resolved.chain_ids).await?;
        self.hold_snapshot(session, &resolved.chain_ids[..done]).await?;
        self.preflight(session, resolved, done)?;
        let connections = Semaphore::new(CONNECTIONS);
        let work = Work { puller: self, session, origin, progress, connections: &connections };
        let mut was_there = done == layers.len();
        for (index, layer) in layers.iter().enumerate() {
            let here = self.content.exists(&session.namespace, &layer.descriptor.digest)?;
            was_there &= here;
            progress
                .set(index, if here && index < done { LayerStatus::Exists } else { LayerStatus::Waiting });
        }
        let unpacked = fetch_all(&work, resolved, done).await?;
        let mut stack = Stack { work: &work, resolved, pending: Vec::new() };
        for (index, unpacked) in unpacked.into_iter().enumerate().skip(done) {
            stack.push(index, unpacked.unwrap_or(Unpacked::Later)).await?;
        }
        stack.flush().await?;
        self.label_layers(session, resolved).await?;
        for index in 0..layers.len() {
            if !was_there {
                progress.set(index, LayerStatus::Complete);
            }
        }
        Ok(was_there)
    }

    // What was unpacked before is in use from now on, whoever deletes the image that it came with.
    async fn hold_snapshot(&self, session: &Session, chain_ids: &[String]) -> Result<(), PullError> {
        let Some(chain_id) = chain_ids.last() else { return Ok(()) };
        let snapshotter = session.snapshotter.name().to_owned();
        let resource = crate::leases::Resource::Snapshot { snapshotter, key: chain_id.clone() };
        self.leases.add(&session.namespace, &session.lease, &resource).await?;
        Ok(())
    }

    // A disk that cannot hold the image is told before anything is fetched.
    fn preflight(&self, session: &Session, resolved: &Resolved, done: usize) -> Result<(), PullError> {
        let mut needed = 0u64;
        for (index, layer) in resolved.manifest.layers.iter().enumerate() {
            let size = layer.descriptor.size;
            if !self.content.exists(&session.namespace, &layer.descriptor.digest)? {
                needed = needed.saturating_add(size);
            }
            // Files are at least about as large as what they were compressed to.
            if index >= done {
                needed = needed.saturating_add(size / 10 * 9);
            }
        }
        let root = &self.config.root;
        let stat =
            statvfs(root).map_err(|errno| Error::io("looking at the free space of", root, errno.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if needed <= free {
            return Ok(());
        }
        Err(PullError::NoSpace { path: root.display().to_string(), needed, free })
    }

    // The diffIDs are verified now: they are written down.
    async fn label_layers(&self, session: &Session, resolved: &Resolved) -> Result<(), PullError> {
        let label = |(layer, diff_id): (&Layer, &String)| {
            let (digest, labels) =
                (layer.descriptor.digest.clone(), Labels::from([(UNCOMPRESSED.to_owned(), diff_id.clone())]));
            async move { self.merge_labels(&session.namespace, &digest, labels).await }
        };
        try_join_all(resolved.manifest.layers.iter().zip(&resolved.diff_ids).map(label)).await?;
        Ok(())
    }
}

// How many of the chain, from the bottom, are committed.
async fn committed(session: &Session, chain_ids: &[String]) -> Result<usize, PullError> {
    for (index, chain_id) in chain_ids.iter().enumerate().rev() {
        match session.snapshotter.stat(&session.namespace, chain_id).await {
            Ok(info) if info.kind == Kind::Committed => return Ok(index + 1),
            Ok(_) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(0)
}

// All layers, several at one time, from the bottom. Those below `done` only need their blobs.
async fn fetch_all(
    work: &Work<'_>,
    resolved: &Resolved,
    done: usize,
) -> Result<Vec<Option<Unpacked>>, PullError> {
    let layers = &resolved.manifest.layers;
    let limit = match work.puller.config.registry.max_downloads {
        0 => LAYERS,
        limit => limit,
    };
    let mut results: Vec<Option<Unpacked>> = layers.iter().map(|_| None).collect();
    let mut running = FuturesUnordered::new();
    let mut next = layers.iter().enumerate();
    loop {
        while running.len() < limit
            && let Some((index, layer)) = next.next()
        {
            running.push(async move {
                let target =
                    if index < done { None } else { side_target(work, &resolved.chain_ids[index]).await? };
                Ok::<_, PullError>((index, work.layer(index, layer, target).await?))
            });
        }
        match running.next().await {
            Some(result) => {
                let (index, unpacked) = result?;
                results[index] = Some(unpacked);
            }
            None => return Ok(results),
        }
    }
}

// A snapshot of its own for a layer, where that may get its parent afterwards.
async fn side_target(work: &Work<'_>, chain_id: &str) -> Result<Option<Target>, PullError> {
    let session = work.session;
    if !session.snapshotter.unpacks_aside() {
        return Ok(None);
    }
    let key = match session.prepare(chain_id, "").await {
        Ok((key, _)) => key,
        Err(Error::AlreadyExists { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let upper = session.snapshotter.upper_dir(&session.namespace, &key).await?;
    if !matches!(upper, UpperDir::Overlay { xattr_prefix: "trusted.overlay.", .. }) {
        session.remove(&key).await;
        return Ok(None);
    }
    session.target(key, Form::Upper).await.map(Some)
}

// The layers on their way to becoming one stack.
struct Stack<'a> {
    work: &'a Work<'a>,
    resolved: &'a Resolved,
    pending: Vec<Commit>,
}

impl Stack<'_> {
    async fn push(&mut self, index: usize, unpacked: Unpacked) -> Result<(), PullError> {
        let Unpacked::Applied { key, applied } = unpacked else { return self.merge(index).await };
        self.check(index, &applied)?;
        if index > 0 && !applied.implicit.is_empty() {
            self.flush().await?;
            if !self.inherit(index, &key, &applied).await? {
                self.work.session.remove(&key).await;
                return self.merge(index).await;
            }
        }
        let parent = (index > 0).then(|| self.resolved.chain_ids[index - 1].clone());
        self.pending.push(self.commit(index, key, &applied, parent));
        Ok(())
    }

    fn check(&self, index: usize, applied: &Applied) -> Result<(), PullError> {
        let (got, expected) = (applied.diff_id(), &self.resolved.diff_ids[index]);
        if got == *expected {
            return Ok(());
        }
        let digest = self.resolved.manifest.layers[index].descriptor.digest.clone();
        Err(PullError::DiffId { digest, got, expected: expected.clone() })
    }

    fn commit(&self, index: usize, key: String, applied: &Applied, parent: Option<String>) -> Commit {
        let name = self.resolved.chain_ids[index].clone();
        let labels = Labels::from([("containerd.io/snapshot.ref".to_owned(), name.clone())]);
        // The root directory is one more.
        let usage = Usage { inodes: applied.inodes + 1, size: applied.size + 4096 };
        Commit { name, key, labels, parent, usage: Some(usage) }
    }

    // Directories that the layer only passed through look as they do below. `false`: it must be applied on top.
    async fn inherit(&self, index: usize, key: &str, applied: &Applied) -> Result<bool, PullError> {
        let session = self.work.session;
        let (namespace, parent) = (&session.namespace, &self.resolved.chain_ids[index - 1]);
        let view = format!("look-{} {parent}", crate::hex::encode(&rand::random::<[u8; 8]>()));
        let mounts =
            session.snapshotter.view(namespace, &view, parent, Labels::new(), Some(&session.lease)).await?;
        let upper = session.target(key.to_owned(), Form::Upper).await;
        let paths = applied.implicit.clone();
        let result = match upper {
            Ok(upper) => {
                let work = move || {
                    let below = detached::open(&mounts)?;
                    Ok(implicit::inherit(upper.directory.as_fd(), below.as_fd(), &paths))
                };
                blocking(work).await.map_err(PullError::from)
            }
            Err(error) => Err(error),
        };
        session.remove(&view).await;
        match result? {
            Ok(()) => Ok(true),
            Err(UnpackError::NeedsParent { .. }) => Ok(false),
            Err(source) => Err(PullError::Layer {
                digest: self.resolved.manifest.layers[index].descriptor.digest.clone(),
                source,
            }),
        }
    }

    // Applies a layer on top of its parent.
    async fn merge(&mut self, index: usize) -> Result<(), PullError> {
        self.flush().await?;
        let session = self.work.session;
        self.work.progress.set(index, LayerStatus::Extracting);
        let parent = if index == 0 { "" } else { &self.resolved.chain_ids[index - 1] };
        let (key, mounts) = match session.prepare(&self.resolved.chain_ids[index], parent).await {
            Ok(prepared) => prepared,
            Err(Error::AlreadyExists { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let directory = blocking(move || detached::open(&mounts)).await?;
        let target = Target { key: key.clone(), directory, form: Form::Merged };
        let applied = self.work.apply_merged(&self.resolved.manifest.layers[index], target).await?;
        self.check(index, &applied)?;
        let mut commit = self.commit(index, key, &applied, None);
        // What was copied up or removed is not known here.
        commit.usage = None;
        self.pending.push(commit);
        self.flush().await
    }

    // All at once; if somebody else has unpacked one of them meanwhile, one by one.
    async fn flush(&mut self) -> Result<(), PullError> {
        let session = self.work.session;
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(());
        }
        match session.snapshotter.commit_all(&session.namespace, pending.clone(), Some(&session.lease)).await
        {
            Ok(()) => {
                pending.iter().for_each(|commit| session.committed(&commit.key));
                return Ok(());
            }
            Err(Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        for commit in pending {
            let key = commit.key.clone();
            match session.snapshotter.commit(&session.namespace, commit, Some(&session.lease)).await {
                Ok(()) => session.committed(&key),
                Err(Error::AlreadyExists { .. }) => session.remove(&key).await,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
