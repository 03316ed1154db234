//! Getting an image: from here if it is here, from its registry if that is asked for.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::Layer;
use super::naming::Displaced;
use crate::engine::Engine;
use crate::engine::create::Progress;
use crate::error::{Error, Result};
use crate::images::platform::Platform;
use crate::images::pull as puller;
use crate::images::reference::Reference;
use crate::images::store::Image;

/// Events that wait for a client to read them.
const WAITING: usize = 64;

/// Whether a registry is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    Missing,
    Always,
    Never,
}

/// Credentials that a client brings along.
#[derive(Clone, Default)]
pub struct Auth {
    pub username: String,
    pub password: String,
    /// Instead of a password.
    pub identity_token: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What is pulled.
#[derive(Clone, Debug)]
pub struct PullRequest {
    pub reference: String,
    /// `os/arch[/variant]`; empty: the host's.
    pub platform: String,
    pub auth: Option<Auth>,
}

/// Where a layer is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerStep {
    Pulling,
    Waiting,
    Downloading,
    Downloaded,
    Extracting,
    Complete,
    Exists,
}

/// What a puller reports.
#[derive(Clone, Debug)]
pub enum PullEvent {
    /// The canonical reference that is being resolved.
    Resolving(String),
    /// The manifest is known.
    Plan {
        familiar_name: String,
        tag: String,
        layers: Vec<Layer>,
    },
    Layer {
        digest: String,
        step: LayerStep,
        current: i64,
        total: i64,
    },
    Done {
        digest: String,
        canonical_reference: String,
        was_up_to_date: bool,
    },
}

impl Engine {
    /// The image of a container to be made, by its policy.
    pub(in crate::engine) async fn ensure_image(
        self: &Arc<Self>,
        request: PullRequest,
        policy: Policy,
        progress: &mpsc::Sender<Progress>,
    ) -> Result<Image> {
        if policy != Policy::Always {
            match self.local_image(&request).await {
                Ok(image) => return Ok(image),
                Err(error) if !error.is_not_found() || policy == Policy::Never => return Err(error),
                Err(_) => {
                    let reference = Reference::parse(&request.reference)?;
                    // The client may be gone; the pull notices.
                    let _ = progress.send(Progress::Missing(reference.familiar())).await;
                }
            }
        }
        let (events, mut reported) = mpsc::channel(WAITING);
        let pull = self.pull(request, events);
        let forward = async {
            while let Some(event) = reported.recv().await {
                if progress.send(Progress::Pull(event)).await.is_err() {
                    break;
                }
            }
        };
        let (pulled, ()) = tokio::join!(pull, forward);
        pulled
    }

    /// The image as it is here, if it is here for the platform.
    async fn local_image(&self, request: &PullRequest) -> Result<Image> {
        let (image, _) = self.find_image(&request.reference).await?;
        self.open_image(&image, &request.platform).await?;
        Ok(image)
    }

    /// Fetches an image and unpacks it. Dropping the future ends the pull unless others wait for the same one.
    pub async fn pull(
        self: &Arc<Self>,
        request: PullRequest,
        events: mpsc::Sender<PullEvent>,
    ) -> Result<Image> {
        let wanted = puller::PullRequest {
            reference: Reference::parse(&request.reference)?,
            platform: platform(&request.platform)?,
            auth: request.auth.as_ref().and_then(credentials),
        };
        self.pull_as(wanted, events).await
    }

    /// Those that are under way.
    pub fn pulls(&self) -> Vec<puller::UnderWay> {
        self.puller.under_way(&self.namespace)
    }

    /// As [`Engine::pull`], by what was read already.
    pub async fn pull_as(
        self: &Arc<Self>,
        wanted: puller::PullRequest,
        events: mpsc::Sender<PullEvent>,
    ) -> Result<Image> {
        // Its tag may go to a newer one.
        let before = self.hold_named(&wanted.reference).await?;
        let pulled = self.pull_wanted(wanted, &events).await?;
        if let Some(before) = &before
            && before.image.target.digest != pulled.image.target.digest
        {
            self.keep_displaced(&before.image, Displaced::ByDigest).await?;
        }
        drop(before);
        self.forget_nameless(&pulled.image.target.digest).await?;
        let familiar = Reference::parse(&pulled.image.name).map(|reference| reference.familiar());
        let familiar = familiar.unwrap_or_else(|_| pulled.image.name.clone());
        self.image_happened(&familiar, "pull", &familiar);
        let done = PullEvent::Done {
            digest: pulled.image.target.digest.as_str().to_owned(),
            canonical_reference: pulled.image.name.clone(),
            was_up_to_date: pulled.was_up_to_date,
        };
        // Who went away does not want to know.
        let _ = events.send(done).await;
        Ok(pulled.image)
    }

    async fn pull_wanted(
        &self,
        wanted: puller::PullRequest,
        events: &mpsc::Sender<PullEvent>,
    ) -> Result<puller::Pulled> {
        let (sender, mut reported) = mpsc::channel::<puller::PullEvent>(WAITING);
        let forward = async {
            while let Some(event) = reported.recv().await {
                if events.send(event.into()).await.is_err() {
                    break;
                }
            }
        };
        let (pulled, ()) = tokio::join!(self.puller.pull(&self.namespace, wanted, Some(sender)), forward);
        pulled
    }

    /// Pulls every tag of a repository, one after the other. At the end is told of the repository as a whole.
    pub async fn pull_all(
        self: &Arc<Self>,
        request: PullRequest,
        events: mpsc::Sender<PullEvent>,
    ) -> Result<()> {
        let reference = Reference::parse_untagged(&request.reference)?;
        if reference.tag().is_some() || reference.digest().is_some() {
            return Err(Error::invalid("tag can't be used with --all-tags/-a", reference.familiar()));
        }
        let auth = request.auth.as_ref().and_then(credentials);
        let mut all_up_to_date = true;
        for tag in self.puller.tags(&reference, auth).await? {
            let one = PullRequest { reference: format!("{}:{tag}", reference.name()), ..request.clone() };
            let (sender, mut told) = mpsc::channel(WAITING);
            let forward = async {
                let mut up_to_date = false;
                while let Some(event) = told.recv().await {
                    if let PullEvent::Done { was_up_to_date, .. } = &event {
                        up_to_date = *was_up_to_date;
                    }
                    if events.send(event).await.is_err() {
                        break;
                    }
                }
                up_to_date
            };
            let (pulled, up_to_date) = tokio::join!(self.pull(one, sender), forward);
            pulled?;
            all_up_to_date &= up_to_date;
        }
        let (digest, canonical_reference) = (String::new(), reference.name());
        let done = PullEvent::Done { digest, canonical_reference, was_up_to_date: all_up_to_date };
        // Who went away does not want to know.
        let _ = events.send(done).await;
        Ok(())
    }

    /// Unpacks an image that is here but was not unpacked, as one that containerd's clients imported.
    pub async fn unpack(&self, image_ref: &str, wanted: &str) -> Result<()> {
        let image = self.images.get(&self.namespace, image_ref)?;
        self.puller.unpack(&self.namespace, &image.target, &platform(wanted)?, None).await?;
        Ok(())
    }
}

/// What the client has, if it has something.
pub(super) fn credentials(auth: &Auth) -> Option<puller::Auth> {
    puller::Auth::from_parts(&auth.username, &auth.password, &auth.identity_token)
}

fn platform(text: &str) -> Result<Platform> {
    if text.is_empty() { Ok(Platform::host()) } else { Ok(text.parse()?) }
}

impl From<puller::PullEvent> for PullEvent {
    fn from(event: puller::PullEvent) -> PullEvent {
        let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        match event {
            puller::PullEvent::Resolving(reference) => PullEvent::Resolving(reference),
            puller::PullEvent::Plan { familiar_name, tag, layers } => PullEvent::Plan {
                familiar_name,
                tag,
                layers: layers
                    .into_iter()
                    .map(|layer| Layer { digest: layer.digest.as_str().to_owned(), size: bytes(layer.size) })
                    .collect(),
            },
            puller::PullEvent::Layer { digest, status, current, total } => PullEvent::Layer {
                digest: digest.as_str().to_owned(),
                step: status.into(),
                current: bytes(current),
                total: bytes(total),
            },
        }
    }
}

impl From<puller::LayerStatus> for LayerStep {
    fn from(status: puller::LayerStatus) -> LayerStep {
        match status {
            puller::LayerStatus::Pulling => LayerStep::Pulling,
            puller::LayerStatus::Waiting => LayerStep::Waiting,
            puller::LayerStatus::Downloading => LayerStep::Downloading,
            puller::LayerStatus::Downloaded => LayerStep::Downloaded,
            puller::LayerStatus::Extracting => LayerStep::Extracting,
            puller::LayerStatus::Complete => LayerStep::Complete,
            puller::LayerStatus::Exists => LayerStep::Exists,
        }
    }
}
