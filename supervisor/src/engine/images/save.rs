//! An archive of images: what `docker load` reads, and an OCI layout at once.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::lookup::Named;
use super::parts::platforms;
use crate::content::Descriptor;
use crate::content::store::blocking;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::images::archive::ArchiveError;
use crate::images::export::{self, Absent, DockerManifest, ExportRequest, NonDistributable};
use crate::images::held::Held;
use crate::images::reference::Reference;
use crate::pipe::Writer;

/// Of one message, in bytes.
const PIECE: usize = 64 * 1024;
/// Images of one archive.
const MAX_IMAGES: usize = 1024;

/// What is saved.
#[derive(Clone, Debug)]
pub struct SaveRequest {
    pub images: Vec<String>,
    /// Empty: all that are here.
    pub platforms: Vec<String>,
}

impl Engine {
    /// Writes the archive, until whoever receives it goes away. What cannot be saved is told before the first byte.
    pub async fn save(self: &Arc<Self>, request: SaveRequest, out: mpsc::Sender<Bytes>) -> Result<()> {
        let held = Held::begin(&self.leases, &self.gc, &self.namespace).await?;
        let saved = tokio::select! {
            saved = self.save_held(&request, &held, &out) => saved,
            () = out.closed() => Err(ArchiveError::Write(std::io::ErrorKind::BrokenPipe.into()).into()),
        };
        held.end().await;
        saved
    }

    async fn save_held(&self, request: &SaveRequest, held: &Held, out: &mpsc::Sender<Bytes>) -> Result<()> {
        let images = self.to_save(&request.images).await?;
        let wanted = platforms(&request.platforms)?;
        let request = ExportRequest {
            images,
            absent: if wanted.is_empty() { Absent::LeftOut } else { Absent::Refused },
            platforms: wanted,
            all_platforms: false,
            docker: DockerManifest::WithRepositories,
            non_distributable: NonDistributable::Exported,
        };
        let plan = export::plan(&self.content, held, &request).await?;
        let (writer, mut pieces) = Writer::new(PIECE);
        let writing = blocking(move || plan.write(writer));
        let forward = async {
            while let Some(piece) = pieces.recv().await {
                if out.send(piece).await.is_err() {
                    break;
                }
            }
            drop(pieces);
        };
        let (written, ()) = tokio::join!(writing, forward);
        written.map(drop)
    }

    // Names and targets; a name without tag and digest means all tags of the repository.
    async fn to_save(&self, texts: &[String]) -> Result<Vec<(String, Descriptor)>> {
        let mut images: Vec<(String, Descriptor)> = Vec::new();
        for text in texts {
            let untagged =
                Reference::parse_untagged(text).ok().filter(|r| r.tag().is_none() && r.digest().is_none());
            let repository = untagged.map(|reference| reference.name());
            let of_repository = self.all_images()?.into_iter().filter(|image| {
                let parsed = Reference::parse(&image.name).ok().filter(|r| r.digest().is_none());
                parsed.is_some_and(|parsed| Some(parsed.name()) == repository)
            });
            let mut found: Vec<(String, Descriptor)> =
                of_repository.map(|image| (image.name, image.target)).collect();
            if found.is_empty() {
                let (image, named) = self.find_image(text).await.map_err(|error| absent(error, text))?;
                let name = if matches!(named, Named::Reference(_)) { image.name } else { String::new() };
                found.push((name, image.target));
            }
            images.extend(found.into_iter().filter(|one| !images.contains(one)).collect::<Vec<_>>());
            if images.len() > MAX_IMAGES {
                let (what, max) = ("images to save".to_owned(), MAX_IMAGES as u64);
                return Err(Error::ResourceExhausted { what, limit: "images of one archive", max });
            }
        }
        Ok(images)
    }
}

// In the words that docker has for it: the name as it was given.
fn absent(error: Error, text: &str) -> Error {
    match error {
        Error::NotFound { kind, .. } => Error::not_found(kind, text),
        error => error,
    }
}
