//! Pulling what a client selects of an image: any platforms, with or without the metadata of the others, unpacked or not. The image
//! may be anything that is made of manifests and blobs.
//!
//! What always holds: what was fetched belongs to a lease until [`Sessions::end`]; each document is verified and stored with labels
//! for all that it names; what is unpacked has passed the strict reading of an ordinary pull.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, FuturesUnordered, StreamExt, TryStreamExt};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::Puller;
use super::commit::{CONNECTIONS, LAYERS};
use super::error::PullError;
use super::layers::Work;
use super::progress::{LayerPlan, LayerStatus, Progress};
use super::resolve::Origin;
use super::session::{Ending, Session};
use crate::content::{Descriptor, Digest};
use crate::error::{Error, Result};
use crate::images::fetch::host::Access;
use crate::images::fetch::{MAX_MANIFEST, Purpose, Remote};
use crate::images::graph::{self, Child, Kind};
use crate::images::manifest::{self, Layer, MAX_DEPTH, ManifestRule};
use crate::images::platform::Platform;
use crate::images::reference::Reference;
use crate::images::track::{Step, Tracker};
use crate::images::unpack::Compression;
use crate::namespaces::Namespace;

/// Documents that are fetched at one time.
const DOCUMENTS: usize = 6;

/// What is to be pulled.
#[derive(Clone)]
pub struct Selection {
    pub reference: Reference,
    /// Whose layers are wanted; all if there is none.
    pub platforms: Vec<Platform>,
    /// Manifests and configs of the other platforms, too.
    pub all_metadata: bool,
    /// Of an index, so many manifests, the best ones; 0: all.
    pub manifest_limit: usize,
    pub unpacks: Vec<Unpack>,
    pub access: Access,
}

/// What is unpacked, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpack {
    pub platform: Platform,
    /// The default one if it is not named.
    pub snapshotter: Option<String>,
}

/// Which of several applies to an image: the one for its platform, else one for its operating system.
pub fn unpack_for<'a>(unpacks: &'a [Unpack], offered: &Platform) -> Option<&'a Unpack> {
    let exact = unpacks.iter().find(|unpack| unpack.platform.rank(offered) == Some(0));
    exact.or_else(|| unpacks.iter().find(|unpack| unpack.platform.os == offered.os))
}

/// What one pull holds, for each snapshotter that it unpacks with.
pub struct Sessions {
    puller: Arc<Puller>,
    namespace: Namespace,
    open: Vec<Session>,
}

// A document that was fetched.
struct Met {
    descriptor: Descriptor,
    platform: Option<Platform>,
    /// All below it is wanted.
    whole: bool,
    bytes: Bytes,
    children: Vec<Child>,
}

struct Pull<'a> {
    puller: &'a Puller,
    origin: Origin<'a>,
    selection: &'a Selection,
    tracker: &'a Arc<Tracker>,
}

impl Sessions {
    pub fn new(puller: &Arc<Puller>, namespace: &Namespace) -> Sessions {
        Sessions { puller: puller.clone(), namespace: namespace.clone(), open: Vec::new() }
    }

    // The session that unpacks with this snapshotter; its place.
    async fn with(&mut self, snapshotter: Option<&str>) -> Result<usize> {
        let snapshotter = match snapshotter {
            Some(name) => self.puller.snapshots.by_name(name)?,
            None => self.puller.snapshots.default_for(&self.namespace)?,
        };
        let found = self.open.iter().position(|session| session.snapshotter.name() == snapshotter.name());
        if let Some(at) = found {
            return Ok(at);
        }
        self.open.push(Session::begin(&self.puller, &self.namespace, snapshotter).await?);
        Ok(self.open.len() - 1)
    }

    /// Fetches and unpacks. What the reference stands for is returned; its record is the caller's to write, before the end.
    /// `pulling` is said once it is known what that is.
    pub async fn fetch(
        &mut self,
        selection: &Selection,
        pulling: &str,
        tracker: &Arc<Tracker>,
    ) -> Result<Descriptor> {
        let puller = self.puller.clone();
        let reference = &selection.reference;
        let remote = Remote::open(
            &puller.http,
            &puller.config.registry,
            reference,
            None,
            Purpose::Pull,
            &selection.access,
        );
        let remote = remote.await.map_err(PullError::from).map_err(shared)?;
        let first = selection.unpacks.first().and_then(|unpack| unpack.snapshotter.clone());
        let home = self.with(first.as_deref()).await?;
        let (bytes, mut target, host) = puller.ask(&remote, reference).await.map_err(shared)?;
        target.media_type = media_type(&bytes, &target).map_err(shared)?;
        let origin = Origin::Registry { remote: &remote, reference, host };
        let pull = Pull { puller: &puller, origin, selection, tracker };
        tracker.say(pulling);
        tracker.about_root("fetching image content", &target);
        let met = pull.walk(&self.open[home], bytes, target.clone()).await.map_err(shared)?;
        for document in &met {
            if document.whole {
                self.unpack(&pull, home, document).await?;
            }
        }
        pull.blobs(&self.open[home], &met).await.map_err(shared)?;
        Ok(target)
    }

    async fn unpack(&mut self, pull: &Pull<'_>, home: usize, document: &Met) -> Result<()> {
        let config = document.children.first().map(|child| &child.descriptor);
        let config = config.filter(|config| Kind::of(&config.media_type) == Kind::Config);
        let Some(config) = config.filter(|_| Kind::of(&document.descriptor.media_type) == Kind::Manifest)
        else {
            return Ok(());
        };
        if pull.selection.unpacks.is_empty() {
            return Ok(());
        }
        let there = pull.puller.content.exists(&self.namespace, &config.digest)?;
        let platform = match &document.platform {
            Some(platform) => platform.clone(),
            None => pull.platform(&self.open[home], config).await.map_err(shared)?,
        };
        let Some(unpack) = unpack_for(&pull.selection.unpacks, &platform) else {
            tracing::debug!("{} is for {platform}: not unpacked", document.descriptor.digest);
            return Ok(());
        };
        let at = self.with(unpack.snapshotter.as_deref()).await?;
        pull.unpack(&self.open[at], document, &platform).await.map_err(shared)?;
        pull.tracker.set(&config.digest, if there { Step::Exists } else { Step::Complete });
        Ok(())
    }

    /// Gives what is held to a client's lease as well.
    pub async fn share(&self, lease: &str) -> Result<()> {
        let leases = &self.puller.leases;
        for session in &self.open {
            for resource in leases.resources(&self.namespace, &session.lease)? {
                leases.add(&self.namespace, lease, &resource).await?;
            }
        }
        Ok(())
    }

    /// Gives back what is not needed; after an `error` that may pass, what was fetched stays a while for another attempt.
    pub async fn end(self, error: Option<&Error>) {
        let ending = match error {
            None => Ending::Complete,
            Some(Error::Canceled { .. }) => Ending::Interrupted,
            Some(Error::Pull(error)) if error.may_be_resumed() => Ending::Interrupted,
            Some(_) => Ending::Failed,
        };
        for session in &self.open {
            session.end(ending).await;
        }
    }
}

fn shared(error: PullError) -> Error {
    Arc::new(error).into()
}

impl Pull<'_> {
    // Level by level, so that the documents of an index come side by side.
    async fn walk(&self, session: &Session, bytes: Bytes, top: Descriptor) -> Result<Vec<Met>, PullError> {
        self.tracker.add(&top, None);
        let mut seen = BTreeSet::from([top.digest.clone()]);
        let mut all = Vec::new();
        let mut level =
            vec![(Child { descriptor: top.clone(), platform: None, foreign: false }, true, Some(bytes))];
        for _ in 0..=MAX_DEPTH + 1 {
            let fetches: Vec<_> = level
                .into_iter()
                .map(|(child, whole, bytes)| self.document(session, child, whole, bytes))
                .collect();
            let documents: Vec<Met> = stream::iter(fetches).buffered(DOCUMENTS).try_collect().await?;
            level = Vec::new();
            for document in &documents {
                for (child, whole) in self.below(document) {
                    self.tracker.add(&child.descriptor, Some(&document.descriptor));
                    let nested = Kind::of(&child.descriptor.media_type).has_children();
                    if nested && seen.insert(child.descriptor.digest.clone()) {
                        level.push((child, whole, None));
                    }
                }
            }
            all.extend(documents);
            if level.is_empty() {
                self.check_platforms(&top, &all)?;
                return Ok(all);
            }
        }
        Err(PullError::manifest(&top.digest, ManifestRule::TooDeep))
    }

    // What is to be fetched of what a document names, and whether with all below it.
    fn below(&self, document: &Met) -> Vec<(Child, bool)> {
        if Kind::of(&document.descriptor.media_type) == Kind::Manifest {
            let wanted =
                |child: &&Child| document.whole || Kind::of(&child.descriptor.media_type) == Kind::Config;
            return document
                .children
                .iter()
                .filter(wanted)
                .map(|child| (child.clone(), document.whole))
                .collect();
        }
        let Selection { platforms, manifest_limit, all_metadata, .. } = self.selection;
        let meant: BTreeSet<Digest> = graph::select(document.children.clone(), platforms)
            .into_iter()
            .map(|child| child.descriptor.digest)
            .collect();
        let mut children = document.children.clone();
        if *manifest_limit > 0 {
            graph::sort(&mut children, platforms);
            children.truncate(*manifest_limit);
        }
        children
            .into_iter()
            .map(|child| {
                let whole = document.whole && meant.contains(&child.descriptor.digest);
                (child, whole)
            })
            .filter(|(_, whole)| *whole || *all_metadata)
            .collect()
    }

    fn check_platforms(&self, top: &Descriptor, all: &[Met]) -> Result<(), PullError> {
        let manifest = |met: &&Met| Kind::of(&met.descriptor.media_type) != Kind::Index;
        let any = all.iter().filter(manifest).any(|met| met.whole);
        let offered: Vec<&Platform> =
            all.iter().flat_map(|met| &met.children).filter_map(|child| child.platform.as_ref()).collect();
        if any || self.selection.platforms.is_empty() || offered.is_empty() {
            return Ok(());
        }
        let list = |platforms: &mut dyn Iterator<Item = String>| {
            platforms.filter(|name| name != "unknown/unknown").take(20).collect::<Vec<_>>().join(", ")
        };
        let wanted = list(&mut self.selection.platforms.iter().map(Platform::to_string));
        let offered = list(&mut offered.iter().map(|platform| platform.to_string()));
        Err(PullError::manifest(&top.digest, ManifestRule::NoPlatform { wanted, offered }))
    }

    async fn document(
        &self,
        session: &Session,
        child: Child,
        whole: bool,
        bytes: Option<Bytes>,
    ) -> Result<Met, PullError> {
        let Child { descriptor, platform, .. } = child;
        let what = if Kind::of(&descriptor.media_type) == Kind::Index { "index" } else { "manifest" };
        let there = self.puller.content.exists(&session.namespace, &descriptor.digest)?;
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => {
                self.puller
                    .document(session, self.origin, "manifest", &descriptor, MAX_MANIFEST as u64)
                    .await?
            }
        };
        let refuse = |rule| PullError::manifest(&descriptor.digest, rule);
        let children = graph::children(&bytes, &descriptor.media_type).map_err(refuse)?;
        let labels = graph::gc_labels(&children);
        self.puller.store(session, self.origin, what, &descriptor, bytes.clone(), labels).await?;
        self.tracker.set(&descriptor.digest, if there { Step::Exists } else { Step::Complete });
        Ok(Met { descriptor, platform, whole, bytes, children })
    }

    // Of an image that no index lists.
    async fn platform(&self, session: &Session, config: &Descriptor) -> Result<Platform, PullError> {
        let bytes =
            self.puller.document(session, self.origin, "config", config, manifest::MAX_CONFIG).await?;
        Ok(config_platform(&bytes).unwrap_or_else(Platform::host))
    }

    async fn unpack(&self, session: &Session, document: &Met, platform: &Platform) -> Result<(), PullError> {
        let read = (document.bytes.clone(), document.descriptor.clone());
        let resolved = self.puller.resolve(session, self.origin, read, platform).await?;
        let plan = |layer: &Layer| LayerPlan {
            digest: layer.descriptor.digest.clone(),
            size: layer.descriptor.size,
        };
        let layers = resolved.manifest.layers.iter().map(plan).collect();
        let progress = Progress::tracked(Some(self.tracker.clone()), layers);
        self.puller.unpack_all(session, self.origin, &resolved, &progress).await?;
        Ok(())
    }

    // What was not fetched on the way to a snapshot.
    async fn blobs(&self, session: &Session, met: &[Met]) -> Result<(), PullError> {
        let mut seen = BTreeSet::new();
        let mut blobs = Vec::new();
        for document in met {
            for (child, _) in self.below(document) {
                let Child { descriptor, .. } = child;
                if Kind::of(&descriptor.media_type).has_children() || !seen.insert(descriptor.digest.clone())
                {
                    continue;
                }
                if descriptor.size == 0 {
                    return Err(PullError::manifest(&document.descriptor.digest, ManifestRule::BadSize(0)));
                }
                // It is what it is: nothing is read of it.
                blobs.push(Layer { descriptor, compression: Compression::Plain });
            }
        }
        let plan = |layer: &Layer| LayerPlan {
            digest: layer.descriptor.digest.clone(),
            size: layer.descriptor.size,
        };
        let progress = Progress::tracked(Some(self.tracker.clone()), blobs.iter().map(plan).collect());
        let connections = Semaphore::new(CONNECTIONS);
        let work = Work {
            puller: self.puller,
            session,
            origin: self.origin,
            progress: &progress,
            connections: &connections,
        };
        let limit = match self.puller.config.registry.max_downloads {
            0 => LAYERS,
            limit => limit,
        };
        let mut running = FuturesUnordered::new();
        let mut next = blobs.iter().enumerate();
        loop {
            while running.len() < limit
                && let Some((index, blob)) = next.next()
            {
                running.push(self.blob(&work, index, blob));
            }
            match running.next().await {
                Some(result) => result?,
                None => return Ok(()),
            }
        }
    }

    async fn blob(&self, work: &Work<'_>, index: usize, blob: &Layer) -> Result<(), PullError> {
        let (namespace, digest) = (&work.session.namespace, &blob.descriptor.digest);
        // Held from here on, if it is here.
        if self.puller.content.claim(namespace, digest, Some(&work.session.lease)).await? {
            let labels = super::resolve::source_labels(self.origin);
            self.puller.merge_labels(namespace, digest, labels).await?;
            if !self.tracker.is_done(digest) {
                work.progress.set(index, LayerStatus::Exists);
            }
            return Ok(());
        }
        work.layer(index, blob, None).await.map(drop)
    }
}

/// The platform that an image's config states.
pub fn config_platform(config: &[u8]) -> Option<Platform> {
    #[derive(Deserialize)]
    struct Config {
        os: Option<String>,
        architecture: Option<String>,
        #[serde(default)]
        variant: Option<String>,
    }
    let config: Config = serde_json::from_slice(config).ok()?;
    let (os, architecture) = (config.os?, config.architecture?);
    (!os.is_empty() && !architecture.is_empty())
        .then(|| Platform::new(&os, &architecture, &config.variant.unwrap_or_default()))
}

// What the registry has called it, unless the document itself says otherwise or says more.
fn media_type(bytes: &[u8], target: &Descriptor) -> Result<String, PullError> {
    #[derive(Deserialize)]
    struct Shape {
        #[serde(rename = "mediaType")]
        media_type: Option<String>,
        #[serde(rename = "schemaVersion")]
        schema_version: Option<i64>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let refuse = |rule| PullError::manifest(&target.digest, rule);
    let malformed = |error: serde_json::Error| refuse(ManifestRule::Malformed(error.to_string()));
    let shape: Shape = serde_json::from_slice(bytes).map_err(malformed)?;
    let told = &target.media_type;
    if shape.schema_version == Some(1) || told.starts_with("application/vnd.docker.distribution.manifest.v1+")
    {
        return Err(refuse(ManifestRule::Schema1));
    }
    let short = |text: &str| text.chars().take(100).collect::<String>();
    let found = match shape.media_type {
        Some(own) if told.starts_with("application/vnd.") && own != *told => {
            return Err(refuse(ManifestRule::MediaType { found: short(&own), expected: short(told) }));
        }
        Some(own) => own,
        None if told.starts_with("application/vnd.") => told.clone(),
        None if shape.manifests.is_some() => graph::OCI_INDEX.to_owned(),
        None => graph::OCI_MANIFEST.to_owned(),
    };
    if Kind::of(&found).has_children() {
        return Ok(found);
    }
    Err(refuse(ManifestRule::MediaType { found: short(&found), expected: graph::OCI_MANIFEST.to_owned() }))
}
