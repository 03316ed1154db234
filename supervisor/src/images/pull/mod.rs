//! Pulling: a reference becomes an image whose layers are verified, unpacked and recorded.
//!
//! What always holds: an image is recorded only after all of it is committed and durable; two pulls of one image are one; whatever
//! ends a pull, nothing of it is left that nothing owns. The namespace of the pull is the caller's.

#![forbid(unsafe_code)]

mod commit;
pub mod error;
mod flight;
mod layers;
mod locks;
mod progress;
pub mod resolve;
pub mod selection;
mod session;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

pub use self::error::PullError;
pub use self::progress::{LayerPlan, LayerStatus, PullEvent, UnderWay};
pub use super::auth::Credentials as Auth;

use self::flight::Flights;
use self::locks::Locks;
use super::fetch::Remote;
use super::fetch::http::Http;
use super::login::login;
use super::platform::Platform;
use super::reference::Reference;
use super::store::{Image, ImageStore};
use crate::config::Config;
use crate::content::{ContentStore, Descriptor};
use crate::error::{Error, Result};
use crate::filters::Filter;
use crate::gc::Collector;
use crate::labels::Labels;
use crate::leases::{Leases, Resource};
use crate::namespaces::{Namespace, Namespaces};
use crate::snapshots::Snapshots;

/// Marks the leases of pulls, so that those of a daemon that was killed are known.
pub const PURPOSE: &str = "longshore.io/purpose";
/// How long what was fetched stays after a pull that may be gone on with.
const RESUME_LIFE: SignedDuration = SignedDuration::from_hours(1);

/// What is to be pulled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PullRequest {
    pub reference: Reference,
    pub platform: Platform,
    /// Before those of the configuration.
    pub auth: Option<Auth>,
}

/// What was pulled.
#[derive(Debug, Clone)]
pub struct Pulled {
    pub image: Image,
    /// The name stood for the same before, and all of it was there.
    pub was_up_to_date: bool,
}

/// Pulls and unpacks images.
pub struct Puller {
    config: Arc<Config>,
    content: Arc<ContentStore>,
    images: Arc<ImageStore>,
    leases: Arc<Leases>,
    snapshots: Arc<Snapshots>,
    gc: Arc<Collector>,
    http: Arc<Http>,
    flights: Flights,
    /// One at a time fetches a blob.
    locks: Locks,
}

impl Puller {
    pub fn new(
        config: &Arc<Config>,
        content: &Arc<ContentStore>,
        images: &Arc<ImageStore>,
        leases: &Arc<Leases>,
        snapshots: &Arc<Snapshots>,
        gc: &Arc<Collector>,
    ) -> Arc<Puller> {
        Arc::new(Puller {
            config: config.clone(),
            content: content.clone(),
            images: images.clone(),
            leases: leases.clone(),
            snapshots: snapshots.clone(),
            gc: gc.clone(),
            http: Http::new(config.registry.insecure.clone(), config.registry.ca_files.clone()),
            flights: Flights::default(),
            locks: Locks::default(),
        })
    }

    /// Pulls an image and unpacks it for the namespace's default snapshotter. Dropping the future ends the pull unless others wait
    /// for the same one.
    pub async fn pull(
        self: &Arc<Self>,
        namespace: &Namespace,
        request: PullRequest,
        watcher: Option<mpsc::Sender<PullEvent>>,
    ) -> Result<Pulled> {
        let flight = self.flights.join(self, namespace, request);
        flight.wait(watcher).await
    }

    /// The pulls of a namespace that somebody waits for.
    pub fn under_way(&self, namespace: &Namespace) -> Vec<UnderWay> {
        self.flights.under_way(namespace)
    }

    /// The tags of a repository.
    pub async fn tags(&self, reference: &Reference, auth: Option<Auth>) -> Result<Vec<String>> {
        let tags = async {
            let remote = Remote::new(&self.http, &self.config.registry, reference, auth).await?;
            remote.tags().await
        };
        tags.await.map_err(|error| Error::from(Arc::new(PullError::from(error))))
    }

    /// Whether a registry takes these credentials; what is to be kept instead of the password, if it gives something.
    pub async fn login(&self, registry: &str, auth: Auth) -> Result<Option<String>> {
        let answer = login(&self.http, &self.config.registry, registry, auth).await;
        answer.map_err(|error| Error::from(Arc::new(PullError::from(error))))
    }

    /// Unpacks an image that is in the content store, for example one that was imported; nothing is fetched. Returns its chain ID.
    pub async fn unpack(
        self: &Arc<Self>,
        namespace: &Namespace,
        target: &Descriptor,
        platform: &Platform,
        snapshotter: Option<&str>,
    ) -> Result<String> {
        let snapshotter = match snapshotter {
            Some(name) => self.snapshots.by_name(name)?,
            None => self.snapshots.default_for(namespace)?,
        };
        let unpacked = self.unpack_local(namespace, target, platform, snapshotter).await;
        unpacked.map_err(|error| Error::from(Arc::new(error)))
    }

    /// After a start: what pulls of an earlier daemon have fetched may be resumed for a while, what they were unpacking goes.
    pub async fn recover(&self, namespaces: &Namespaces) -> Result<()> {
        for (namespace, _) in namespaces.list()? {
            for lease in self.leases.list(&namespace, &Filter::default())? {
                let purpose = lease.labels.get(PURPOSE).map(String::as_str);
                if !matches!(purpose, Some("pull" | "transfer")) {
                    continue;
                }
                let mut held = self.leases.resources(&namespace, &lease.id)?;
                if purpose == Some("transfer") {
                    self.abort_ingests(&namespace, &held).await?;
                    held.clear();
                }
                self.keep_for_resuming(&namespace, held).await?;
                self.leases.delete(&namespace, &lease.id).await?;
                self.gc.trigger();
            }
        }
        Ok(())
    }

    // What came from a client's archive cannot be gone on with.
    async fn abort_ingests(&self, namespace: &Namespace, held: &[Resource]) -> Result<()> {
        for resource in held {
            let Resource::Ingest(reference) = resource else { continue };
            match self.content.abort(namespace, reference, None).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    // Gives what was fetched, but no snapshot, to a lease that ends soon.
    async fn keep_for_resuming(&self, namespace: &Namespace, held: Vec<Resource>) -> Result<()> {
        let fetched: Vec<_> =
            held.into_iter().filter(|resource| !matches!(resource, Resource::Snapshot { .. })).collect();
        if fetched.is_empty() {
            return Ok(());
        }
        let expire = Timestamp::now().checked_add(RESUME_LIFE).unwrap_or(Timestamp::MAX);
        let labels = Labels::from([(PURPOSE.to_owned(), "resume".to_owned())]);
        let lease = self.leases.create(namespace, None, labels, Some(expire)).await?;
        for resource in fetched {
            self.leases.add(namespace, &lease.id, &resource).await?;
        }
        Ok(())
    }

    // Takes from the leases of interrupted pulls what has arrived meanwhile.
    async fn forget_resumed(&self, namespace: &Namespace, held: &[Resource]) -> Result<()> {
        let arrived = |resource: &Resource| match resource {
            Resource::Ingest(reference) => held.iter().any(
                |held| matches!(held, Resource::Content(digest) if reference.ends_with(digest.as_str())),
            ),
            other => held.contains(other),
        };
        for lease in self.leases.list(namespace, &Filter::default())? {
            if lease.labels.get(PURPOSE).map(String::as_str) != Some("resume") {
                continue;
            }
            let waiting = self.leases.resources(namespace, &lease.id)?;
            let (arrived, missing): (Vec<_>, Vec<_>) = waiting.into_iter().partition(arrived);
            if missing.is_empty() {
                self.leases.delete(namespace, &lease.id).await?;
                continue;
            }
            for resource in arrived {
                self.leases.remove(namespace, &lease.id, &resource).await?;
            }
        }
        Ok(())
    }
}
