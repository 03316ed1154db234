//! `import`: a tar stream of files becomes an image of one layer.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, json};
use tokio::sync::mpsc;

use super::assemble::{Assembled, Layer, Parent, target};
use super::instructions;
use crate::content::digest::Algorithm;
use crate::content::store::blocking;
use crate::content::{CommitOptions, Descriptor, Hasher, WriterOptions};
use crate::diff::PLAIN_LAYER;
use crate::engine::Engine;
use crate::engine::copy;
use crate::error::{Error, Result};
use crate::images::held::Held;
use crate::images::platform::Platform;
use crate::images::reference::Reference;
use crate::images::unpack::compression::{self, Compression};
use crate::labels::Labels;

/// Most bytes of the files of one image, unpacked.
const MAX_BYTES: u64 = 1 << 40;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Import {
    /// `NAME[:TAG]`; empty: the image has no name.
    pub reference: String,
    pub message: String,
    /// Lines of a Dockerfile.
    pub changes: Vec<String>,
    /// Empty: the host's.
    pub platform: String,
    /// Where the files are from, for people.
    pub source: String,
}

impl Engine {
    /// Returns the image's id.
    pub async fn import(
        self: &Arc<Self>,
        request: Import,
        pieces: mpsc::Receiver<io::Result<Bytes>>,
    ) -> Result<String> {
        let reference = target(&request.reference)?;
        let platform =
            if request.platform.is_empty() { Platform::host() } else { request.platform.parse()? };
        let mut config = Map::new();
        instructions::apply(&mut config, &request.changes)?;
        config.retain(|_, value| !value.is_null());
        let engine = self.clone();
        let work = async move {
            let held = Held::begin(&engine.leases, &engine.gc, &engine.namespace).await?;
            let made = async {
                let layer = engine.store_layer(&held, pieces).await?;
                let created = Timestamp::now();
                let comment = match request.message.as_str() {
                    "" => format!("Imported from {}", request.source),
                    message => message.to_owned(),
                };
                let history = json!({ "created": created.to_string(), "comment": comment });
                let parent = Parent::nothing(&platform);
                let image = Assembled { parent, layer, config, history, author: String::new(), created };
                engine.assemble_image(&held, image, reference.as_ref()).await
            };
            let made = made.await;
            held.end().await;
            let id = made?;
            let name = reference.as_ref().map(Reference::familiar).unwrap_or_default();
            engine.image_happened(&id, "import", &name);
            Ok(id)
        };
        // A client that goes away ends the stream with an error, after which everything is given back.
        self.carry("importing an image", work).await
    }

    /// The stream as a layer, inflated.
    async fn store_layer(&self, held: &Held, pieces: mpsc::Receiver<io::Result<Bytes>>) -> Result<Layer> {
        let options = WriterOptions {
            namespace: self.namespace.clone(),
            reference: format!("import-{}", held.lease()),
            total: 0,
            expected: None,
            lease: Some(held.lease().to_owned()),
        };
        let writer = self.content.writer(options).await?;
        let (parts, source) = (writer.parts(), copy::source(pieces));
        let copied = blocking(move || {
            let failed = |source| Error::io("reading", "the archive", source);
            let (mut inflated, _) = compression::open(source, Compression::Plain).map_err(failed)?;
            let mut hasher = Hasher::new(Algorithm::Sha256);
            let (mut buffer, mut offset) = (vec![0; 256 * 1024], 0_u64);
            loop {
                let count = match inflated.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(failed(error)),
                };
                hasher.update(&buffer[..count]);
                parts.write_at(offset, &buffer[..count])?;
                offset += count as u64;
                if offset > MAX_BYTES {
                    let limit = "bytes of an imported archive";
                    return Err(Error::ResourceExhausted {
                        what: "import".to_owned(),
                        limit,
                        max: MAX_BYTES,
                    });
                }
            }
            if offset == 0 {
                // Nothing at all is an empty archive.
                let end = [0; 1024];
                hasher.update(&end);
                parts.write_at(0, &end)?;
                offset = end.len() as u64;
            }
            Ok((hasher.digest(), offset))
        })
        .await;
        let (digest, size) = match copied {
            Ok(copied) => copied,
            Err(error) => {
                if let Err(error) = writer.abort().await {
                    tracing::warn!("dropping an unfinished import: {error}");
                }
                return Err(error);
            }
        };
        let commit = CommitOptions { hashed: Some(digest.clone()), ..CommitOptions::default() };
        match writer.commit(commit).await {
            Ok(_) => {}
            Err(Error::AlreadyExists { .. }) => {
                self.content.claim(&self.namespace, &digest, Some(held.lease())).await?;
            }
            Err(error) => return Err(error),
        }
        let diff_id = digest.to_string();
        let media_type = PLAIN_LAYER.to_owned();
        Ok(Layer { descriptor: Descriptor { media_type, digest, size, annotations: Labels::new() }, diff_id })
    }
}
