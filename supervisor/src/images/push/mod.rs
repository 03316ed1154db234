//! Pushing: an image's blobs, then its manifests, then its indexes go to a repository.
//!
//! What always holds: a document is sent only after all that it names is there; what the registry has is not sent again; the image
//! is kept from the collector meanwhile; the number of requests at one time is bounded.

#![forbid(unsafe_code)]

mod blob;
mod document;
mod error;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};

pub use self::error::PushError;

use self::blob::BlobPush;
use self::document::DocumentPush;
use super::auth::Credentials;
use super::fetch::host::Access;
use super::fetch::http::Http;
use super::fetch::{Purpose, Remote};
use super::graph::{self, Budget, Kind};
use super::held::Held;
use super::platform::Platform;
use super::pull::resolve::{merge_source, source_label};
use super::reference::Reference;
use super::track::{Step, Tracker};
use crate::config::Config;
use crate::content::{ContentStore, Descriptor};
use crate::error::{Error, Result};
use crate::gc::Collector;
use crate::labels::Labels;
use crate::leases::{Leases, Resource};
use crate::namespaces::Namespace;

/// Blobs that are uploaded at one time; manifests, too.
const UPLOADS: usize = 4;
const SOURCE: &str = "containerd.io/distribution.source.";

/// What is to be pushed, and where to.
#[derive(Clone)]
pub struct PushRequest {
    /// For messages.
    pub name: String,
    pub target: Descriptor,
    pub reference: Reference,
    /// Of an index, only these; all if there is none.
    pub platforms: Vec<Platform>,
    /// Before those of the configuration.
    pub auth: Option<Credentials>,
    pub access: Access,
}

/// Pushes images.
pub struct Pusher {
    config: Arc<Config>,
    content: Arc<ContentStore>,
    leases: Arc<Leases>,
    gc: Arc<Collector>,
    http: Arc<Http>,
}

/// What the work on one image shares.
struct Push<'a> {
    content: &'a Arc<ContentStore>,
    namespace: &'a Namespace,
    remote: &'a Remote,
    reference: &'a Reference,
    tracker: &'a Arc<Tracker>,
}

/// The parts of an image in the order in which they go.
#[derive(Default)]
struct Plan {
    blobs: Vec<Blob>,
    manifests: Vec<Descriptor>,
    /// Those that others name come last in here, and are sent first.
    indexes: Vec<Descriptor>,
}

struct Blob {
    descriptor: Descriptor,
    /// Repositories of the same registry that may have it.
    sources: Vec<String>,
}

impl Pusher {
    pub fn new(
        config: &Arc<Config>,
        content: &Arc<ContentStore>,
        leases: &Arc<Leases>,
        gc: &Arc<Collector>,
    ) -> Arc<Pusher> {
        Arc::new(Pusher {
            config: config.clone(),
            content: content.clone(),
            leases: leases.clone(),
            gc: gc.clone(),
            http: Http::new(config.registry.insecure.clone(), config.registry.ca_files.clone()),
        })
    }

    /// Pushes an image. `abandoned` ends it early.
    pub async fn push(
        &self,
        namespace: &Namespace,
        request: &PushRequest,
        tracker: &Arc<Tracker>,
        abandoned: impl Future<Output = ()>,
    ) -> Result<()> {
        let held = Held::begin(&self.leases, &self.gc, namespace).await?;
        let result = tokio::select! {
            result = self.push_held(request, tracker, &held) => result,
            () = abandoned => Err(Error::Canceled { what: format!("push of {}", request.name) }.into()),
        };
        held.end().await;
        Ok(result?)
    }

    async fn push_held(
        &self,
        request: &PushRequest,
        tracker: &Arc<Tracker>,
        held: &Held,
    ) -> Result<(), PushError> {
        let namespace = held.namespace();
        let PushRequest { reference, target, auth, access, .. } = request;
        if let Some(named) = reference.digest().filter(|named| *named != target.digest.as_str()) {
            let (reference, named, digest) = (reference.familiar(), named.to_owned(), target.digest.clone());
            return Err(PushError::OtherDigest { reference, named, digest });
        }
        // With its target all of the image is held.
        held.hold(&Resource::Content(target.digest.clone())).await?;
        let remote =
            Remote::open(&self.http, &self.config.registry, reference, auth.clone(), Purpose::Push, access)
                .await?;
        let push = Push { content: &self.content, namespace, remote: &remote, reference, tracker };
        let plan = push.plan(request).await?;
        let blobs: Vec<_> = plan.blobs.iter().map(|blob| BlobPush { push: &push, blob }.run()).collect();
        stream::iter(blobs).buffer_unordered(UPLOADS).try_collect::<()>().await?;
        let manifests: Vec<_> =
            plan.manifests.iter().map(|descriptor| push.document(descriptor, target)).collect();
        stream::iter(manifests).buffer_unordered(UPLOADS).try_collect::<()>().await?;
        for descriptor in plan.indexes.iter().rev() {
            push.document(descriptor, target).await?;
        }
        Ok(())
    }
}

impl Push<'_> {
    // Reads the graph. What is not here is left to be found at the registry.
    async fn plan(&self, request: &PushRequest) -> Result<Plan, PushError> {
        let (mut plan, mut seen, mut budget) = (Plan::default(), BTreeSet::new(), Budget::default());
        let inherited = self.sources(&request.target)?;
        let mut level = vec![(request.target.clone(), inherited)];
        self.tracker.add(&request.target, None);
        for depth in 0.. {
            let mut next = Vec::new();
            for (descriptor, inherited) in level {
                if !seen.insert(descriptor.digest.clone()) {
                    continue;
                }
                let mut sources = self.sources(&descriptor)?;
                sources.extend(inherited);
                match Kind::of(&descriptor.media_type) {
                    Kind::Manifest => plan.manifests.push(descriptor.clone()),
                    Kind::Index => plan.indexes.push(descriptor.clone()),
                    _ => {
                        let sources = self.candidates(sources);
                        plan.blobs.push(Blob { descriptor, sources });
                        continue;
                    }
                }
                let children = match graph::read(self.content, self.namespace, &descriptor).await {
                    Err(error) if error.is_not_found() && depth > 0 => continue,
                    children => children?,
                };
                budget.spend(&descriptor.digest, depth, children.len())?;
                let offered = children.len();
                let chosen = match Kind::of(&descriptor.media_type) {
                    Kind::Index => graph::select(children, &request.platforms),
                    _ => children,
                };
                if chosen.is_empty() && offered > 0 {
                    let wanted = request.platforms.iter().map(Platform::to_string).collect::<Vec<_>>();
                    return Err(PushError::NoPlatform {
                        name: request.name.clone(),
                        wanted: wanted.join(", "),
                    });
                }
                for child in chosen {
                    self.tracker.add(&child.descriptor, Some(&descriptor));
                    next.push((child.descriptor, sources.clone()));
                }
            }
            if next.is_empty() {
                break;
            }
            level = next;
        }
        Ok(plan)
    }

    // Where a blob came from, as labels and annotations say: repositories of the registry that is pushed to.
    fn sources(&self, descriptor: &Descriptor) -> Result<BTreeSet<String>, PushError> {
        let key = format!("{SOURCE}{}", self.reference.registry());
        let labels = match self.content.info(self.namespace, &descriptor.digest) {
            Ok(info) => info.labels,
            Err(error) if error.is_not_found() => Labels::new(),
            Err(error) => return Err(error.into()),
        };
        let lists = labels.get(&key).into_iter().chain(descriptor.annotations.get(&key));
        Ok(lists.flat_map(|list| list.split(',')).map(str::to_owned).collect())
    }

    // The most likely ones first: those that share most of the path.
    fn candidates(&self, sources: BTreeSet<String>) -> Vec<String> {
        const TRIED: usize = 2;
        let own = self.reference.repository();
        let valid = |repository: &String| {
            repository != own
                && Reference::parse_untagged(&format!("{}/{repository}", self.reference.registry()))
                    .is_ok_and(|parsed| parsed.repository() == repository)
        };
        let mut candidates: Vec<String> = sources.into_iter().filter(valid).collect();
        let common = |repository: &String| {
            repository.split('/').zip(own.split('/')).take_while(|(a, b)| a == b).count()
        };
        candidates.sort_by_key(|repository| std::cmp::Reverse(common(repository)));
        candidates.truncate(TRIED);
        candidates
    }

    async fn document(&self, descriptor: &Descriptor, target: &Descriptor) -> Result<(), PushError> {
        // The reference's tag is for the image itself; what it consists of goes by digest.
        let tag = (descriptor.digest == target.digest).then(|| self.reference.tag()).flatten();
        // A reference without tag and digest means the latest, as it does elsewhere.
        let untagged = descriptor.digest == target.digest && self.reference.digest().is_none();
        let object = tag.unwrap_or(if untagged { "latest" } else { descriptor.digest.as_str() });
        DocumentPush { push: self, descriptor, object }.run().await?;
        self.note_source(descriptor).await;
        Ok(())
    }

    fn done(&self, descriptor: &Descriptor, step: Step) {
        self.tracker.set(&descriptor.digest, step);
    }

    // The registry has it there now: another repository may have it from there.
    async fn note_source(&self, descriptor: &Descriptor) {
        let (key, repository) = source_label(self.reference);
        let noted = async {
            let info = self.content.info(self.namespace, &descriptor.digest)?;
            let value = match info.labels.get(&key) {
                Some(before) => merge_source(before, &repository),
                None => repository,
            };
            if info.labels.get(&key) == Some(&value) {
                return Ok(());
            }
            let keys = [key.clone()];
            let labels = Labels::from([(key, value)]);
            self.content.update(self.namespace, &descriptor.digest, labels, Some(&keys)).await.map(drop)
        };
        match noted.await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            // It costs a later push an upload, nothing more.
            Err(error) => tracing::warn!("noting where {} was pushed to: {error}", descriptor.digest),
        }
    }
}
