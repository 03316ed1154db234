//! Images out of an archive: what `docker save` writes, or an OCI layout, packed or not.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::parts::platforms;
use crate::content::Descriptor;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::images::archive::{NAME, REF_NAME};
use crate::images::held::Held;
use crate::images::import::{Form, ImportRequest};
use crate::images::platform::Platform;
use crate::images::pull::selection::Unpack;
use crate::images::reference::Reference;
use crate::images::store::Image;
use crate::labels::Labels;
use crate::pipe::Reader;

/// What is told of an archive.
#[derive(Clone, Debug)]
pub enum LoadEvent {
    /// An image's familiar name.
    Loaded(String),
    /// The id of one that has no name.
    LoadedId(String),
    /// A name that was another image's.
    Renamed { name: String, old_id: String },
}

impl Engine {
    /// Takes the archive, until whoever receives the events goes away. Nothing is named unless all of it is right.
    pub async fn load(
        self: &Arc<Self>,
        archive: Reader,
        wanted: &[String],
        events: mpsc::Sender<LoadEvent>,
    ) -> Result<()> {
        let platforms = platforms(wanted)?;
        let held = Held::begin(&self.leases, &self.gc, &self.namespace).await?;
        let loaded = tokio::select! {
            loaded = self.load_held(archive, platforms, &held, &events) => loaded,
            () = events.closed() => Err(Error::Canceled { what: "load".to_owned() }),
        };
        held.end().await;
        loaded
    }

    async fn load_held(
        &self,
        archive: Reader,
        platforms: Vec<Platform>,
        held: &Held,
        events: &mpsc::Sender<LoadEvent>,
    ) -> Result<()> {
        let request = ImportRequest {
            form: Form::Detected,
            compress: false,
            platforms,
            all_metadata: false,
            manifest_limit: 0,
            unpacks: vec![Unpack { platform: Platform::host(), snapshotter: None }],
        };
        let imported = self.importer.import(held, archive, &request).await?;
        for target in imported.images {
            self.name_loaded(target, events).await?;
        }
        Ok(())
    }

    async fn name_loaded(&self, mut target: Descriptor, events: &mpsc::Sender<LoadEvent>) -> Result<()> {
        let name = name_of(&target);
        target.annotations = Labels::new();
        let displaced = self.name_image(name.as_ref(), target.clone(), Labels::new()).await?;
        let id = self.id_of(&target).await;
        if let (Some(name), Some(displaced)) = (&name, displaced) {
            let (name, old_id) = (name.familiar(), self.id_of(&displaced.target).await);
            let _ = events.send(LoadEvent::Renamed { name, old_id }).await;
        }
        let told = match name {
            Some(name) => LoadEvent::Loaded(name.familiar()),
            None => LoadEvent::LoadedId(id.clone()),
        };
        let named = match &told {
            LoadEvent::Loaded(name) => name.clone(),
            _ => id.clone(),
        };
        self.image_happened(&id, "load", &named);
        // Who went away does not want to know.
        let _ = events.send(told).await;
        Ok(())
    }

    /// The image's id for the host's platform; the target's digest where there is none.
    async fn id_of(&self, target: &Descriptor) -> String {
        let image = Image {
            name: target.digest.to_string(),
            target: target.clone(),
            labels: Labels::new(),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            updated_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let local = self.open_image(&image, "").await;
        local.map_or_else(|_| target.digest.to_string(), |local| local.id.to_string())
    }
}

// What the archive calls it: the full name, or one that others than us have written.
fn name_of(target: &Descriptor) -> Option<Reference> {
    let full = target.annotations.get(NAME).and_then(|name| Reference::parse(name).ok());
    // A tag alone names nothing.
    let short = target.annotations.get(REF_NAME).filter(|name| name.contains(['/', ':']));
    full.or_else(|| short.and_then(|name| Reference::parse(name).ok())).filter(|name| name.digest().is_none())
}
