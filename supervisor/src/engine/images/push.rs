//! Sending an image to its registry: one tag, or all tags of a repository one after the other.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::parts::Part;
use super::pull::{Auth, credentials};
use crate::content::Digest;
use crate::engine::Engine;
use crate::engine::conflict::Conflict;
use crate::error::{Error, Result};
use crate::images::fetch::host::Access;
use crate::images::push as pusher;
use crate::images::reference::Reference;
use crate::images::store::Image;
use crate::images::track::{Direction, Event, Tracker};

/// Events that wait for a client to read them.
const WAITING: usize = 64;

/// What is pushed.
#[derive(Clone, Debug)]
pub struct PushRequest {
    pub reference: String,
    pub tags: Tags,
    /// `os/arch[/variant]`; empty: all that is here.
    pub platform: String,
    pub auth: Option<Auth>,
}

/// Which tags of a repository are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// The one of the reference.
    One,
    All,
}

/// How far a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushStep {
    Preparing,
    Pushing,
    Pushed,
    Exists,
    Mounted,
}

/// What is reported.
#[derive(Clone, Debug)]
pub enum PushEvent {
    /// Where it goes.
    Repository(String),
    Tag(String),
    Layer {
        diff_id: String,
        step: PushStep,
        current: u64,
        total: u64,
        /// The repository that it was mounted from.
        from: String,
    },
    Pushed {
        tag: String,
        digest: String,
        size: u64,
    },
    /// For people.
    Note(String),
}

impl Engine {
    /// Pushes, until whoever receives the events goes away. What the registry has got by then is not sent again the next time.
    pub async fn push(self: &Arc<Self>, request: PushRequest, events: mpsc::Sender<PushEvent>) -> Result<()> {
        let reference = match request.tags {
            Tags::One => Reference::parse(&request.reference)?,
            Tags::All => Reference::parse_untagged(&request.reference)?,
        };
        if reference.digest().is_some() {
            return Err(Error::invalid("cannot push a digest reference", reference.familiar()));
        }
        if request.tags == Tags::All && reference.tag().is_some() {
            return Err(Error::invalid("tag can't be used with --all-tags/-a", reference.familiar()));
        }
        // Who went away is noticed while something is sent.
        let _ = events.send(PushEvent::Repository(reference.name())).await;
        for image in self.to_push(&reference, request.tags)? {
            self.push_one(&image, &request, &events).await?;
        }
        Ok(())
    }

    fn to_push(&self, reference: &Reference, tags: Tags) -> Result<Vec<Image>> {
        let tagged = |image: &Image| {
            Reference::parse(&image.name)
                .is_ok_and(|other| other.digest().is_none() && other.name() == reference.name())
        };
        let mut images = self.all_images()?;
        images.retain(tagged);
        let absent = images.is_empty();
        if tags == Tags::One {
            images.retain(|image| image.name == reference.canonical());
        }
        match (images.is_empty(), absent) {
            (false, _) => Ok(images),
            (true, true) => Err(Conflict::NoLocalImage { name: reference.familiar_name() }.into()),
            (true, false) => Err(Conflict::NoSuchTag { name: reference.familiar() }.into()),
        }
    }

    async fn push_one(
        self: &Arc<Self>,
        image: &Image,
        request: &PushRequest,
        events: &mpsc::Sender<PushEvent>,
    ) -> Result<()> {
        let reference = Reference::parse(&image.name)?;
        let part = self.pushable(image, &request.platform).await?;
        let tag = reference.tag().unwrap_or_default().to_owned();
        let _ = events.send(PushEvent::Tag(tag.clone())).await;
        let layers = self.layers_below(image, &part, &request.platform).await?;
        for (digest, diff_id) in layers.iter().rev() {
            let _ = events.send(step(digest, diff_id, PushStep::Preparing)).await;
        }
        let target = part.target.clone();
        let push = pusher::PushRequest {
            name: reference.familiar(),
            target: target.clone(),
            reference: reference.clone(),
            platforms: Vec::new(),
            auth: request.auth.as_ref().and_then(credentials),
            access: Access::default(),
        };
        let tracker = Tracker::new(reference.familiar(), Direction::Up);
        let (sender, told) = mpsc::channel::<Event>(WAITING);
        let (end, ended) = watch::channel(false);
        let work = async {
            let pushed = self.pusher.push(&self.namespace, &push, &tracker, events.closed()).await;
            end.send_replace(true);
            pushed
        };
        let report = async {
            tracker.report(&sender, ended).await;
            drop(sender);
        };
        let (pushed, (), ()) = tokio::join!(work, report, forward(told, &layers, &tracker, events));
        pushed?;
        let id = self.open_image(image, "").await.map(|local| local.id.to_string()).unwrap_or_default();
        self.image_happened(&id, "push", &reference.familiar());
        let digest = target.digest.to_string();
        let _ = events.send(PushEvent::Pushed { tag, digest, size: target.size }).await;
        if let Some(note) = part.note {
            let _ = events.send(PushEvent::Note(note)).await;
        }
        Ok(())
    }

    // The layers that go out, with what they unpack to; the lowest first.
    async fn layers_below(
        &self,
        image: &Image,
        part: &Part,
        platform: &str,
    ) -> Result<Vec<(Digest, String)>> {
        let mut platforms = vec![platform.to_owned()];
        if platform.is_empty() && part.note.is_none() {
            let here = self.platforms_here(&part.target).await?;
            platforms.extend(here.iter().map(ToString::to_string));
        }
        let mut layers: Vec<(Digest, String)> = Vec::new();
        for platform in platforms {
            // What is no image of layers has none to show.
            let Ok(local) = self.open_image(image, &platform).await else { continue };
            for (layer, diff_id) in local.layers.iter().zip(&local.diff_ids) {
                let digest = Digest::parse(&layer.digest)?;
                if !layers.iter().any(|(known, _)| *known == digest) {
                    layers.push((digest, diff_id.clone()));
                }
            }
        }
        Ok(layers)
    }
}

fn step(digest: &Digest, diff_id: &str, step: PushStep) -> PushEvent {
    let id = if diff_id.is_empty() { digest.to_string() } else { diff_id.to_owned() };
    PushEvent::Layer { diff_id: id, step, current: 0, total: 0, from: String::new() }
}

// What is said of layers; manifests and configs are too small to be watched.
async fn forward(
    mut told: mpsc::Receiver<Event>,
    layers: &[(Digest, String)],
    tracker: &Tracker,
    events: &mpsc::Sender<PushEvent>,
) {
    while let Some(event) = told.recv().await {
        let Some(descriptor) = &event.descriptor else { continue };
        let Some((digest, diff_id)) = layers.iter().find(|(digest, _)| *digest == descriptor.digest) else {
            continue;
        };
        let from = tracker.mounted_from(digest).unwrap_or_default();
        let step = match event.event.as_str() {
            "uploading" => PushStep::Pushing,
            "complete" => PushStep::Pushed,
            "already exists" if from.is_empty() => PushStep::Exists,
            "already exists" => PushStep::Mounted,
            _ => continue,
        };
        let diff_id = diff_id.clone();
        let layer = PushEvent::Layer { diff_id, step, current: event.progress, total: event.total, from };
        if events.send(layer).await.is_err() {
            return;
        }
    }
}
