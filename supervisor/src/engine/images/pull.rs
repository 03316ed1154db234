//! Getting an image: from here if it is here, from its registry if that is asked for.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::engine::Engine;
use crate::engine::create::Progress;
use crate::error::{Error, Result};
use crate::images::reference::Reference;
use crate::images::store::Image;

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
        layers: Vec<super::Layer>,
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
            match self.find_image(&request.reference).await {
                Ok((image, _)) => return self.usable(image, &request.platform).await,
                Err(error) if !error.is_not_found() || policy == Policy::Never => return Err(error),
                Err(_) => {
                    let reference = Reference::parse(&request.reference)?;
                    // The client may be gone; the pull notices.
                    let _ = progress.send(Progress::Missing(reference.familiar())).await;
                }
            }
        }
        let (events, mut reported) = mpsc::channel(64);
        let pull = self.pull(request.clone(), events);
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

    /// Fetches an image and unpacks it.
    pub async fn pull(
        self: &Arc<Self>,
        request: PullRequest,
        events: mpsc::Sender<PullEvent>,
    ) -> Result<Image> {
        let _ = events;
        Err(Error::Unimplemented { what: format!("pulling {}", request.reference) })
    }

    /// Makes sure that the image is unpacked.
    async fn usable(self: &Arc<Self>, image: Image, platform: &str) -> Result<Image> {
        let _ = self.open_image(&image, platform).await?;
        Ok(image)
    }
}
