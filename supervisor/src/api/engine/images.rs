//! The Images service.

use std::sync::Arc;

use longshore_proto::longshore::engine::v1 as wire;
use longshore_proto::longshore::engine::v1::images_server::Images;
use tokio::sync::mpsc;
use tonic::{Request, Response};

use super::{Answer, STREAM_BUFFER, Stream, convert, empty, status};
use crate::engine::Engine;
use crate::engine::images::{Force, ImageSummary, PullRequest, Unused};

/// The service.
#[derive(Clone)]
pub struct ImagesService {
    engine: Arc<Engine>,
}

impl ImagesService {
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl Images for ImagesService {
    type PullStream = Stream<wire::PullProgress>;

    async fn pull(&self, request: Request<wire::PullRequest>) -> Answer<Self::PullStream> {
        let (engine, request) = (self.engine.clone(), request.into_inner());
        let request = PullRequest {
            reference: request.reference,
            platform: request.platform,
            auth: request.auth.map(convert::auth),
        };
        let (out, receiver) = mpsc::channel(STREAM_BUFFER);
        tokio::spawn(async move {
            let (sender, mut events) = mpsc::channel(STREAM_BUFFER);
            let forward = async {
                while let Some(event) = events.recv().await {
                    if out.send(Ok(convert::pull_event(event))).await.is_err() {
                        return;
                    }
                }
            };
            let both = async { tokio::join!(engine.pull(request, sender), forward) };
            tokio::select! {
                (pulled, ()) = both => if let Err(error) = pulled {
                    // The client may be gone; nobody else asked.
                    let _ = out.send(Err(status(error))).await;
                },
                () = out.closed() => {}
            }
        });
        Ok(Response::new(Stream::new(receiver)))
    }

    async fn list(&self, request: Request<wire::ListImagesRequest>) -> Answer<wire::ListImagesResponse> {
        let images = self.engine.list_images(&request.into_inner().filters).await.map_err(status)?;
        Ok(Response::new(wire::ListImagesResponse { images: images.into_iter().map(summary).collect() }))
    }

    async fn inspect(&self, request: Request<wire::ImageRequest>) -> Answer<wire::InspectImageResponse> {
        let request = request.into_inner();
        let found = self.engine.inspect_image(&request.image, &request.platform).await.map_err(status)?;
        let layers = found.local.layers.iter();
        Ok(Response::new(wire::InspectImageResponse {
            summary: Some(summary(found.summary)),
            config_json: found.local.config_json.to_vec(),
            manifest_digest: found.local.manifest.as_str().to_owned(),
            target_digest: found.target_digest,
            target_media_type: found.target_media_type,
            layers: layers
                .map(|layer| wire::LayerPlan { digest: layer.digest.clone(), size: layer.size })
                .collect(),
        }))
    }

    async fn tag(&self, request: Request<wire::TagRequest>) -> Answer<()> {
        let request = request.into_inner();
        self.engine.tag(&request.source, &request.target).await.map_err(status)?;
        empty()
    }

    async fn remove(&self, request: Request<wire::RemoveImageRequest>) -> Answer<wire::RemoveImageResponse> {
        let request = request.into_inner();
        let force = if request.force { Force::Yes } else { Force::No };
        let removed = self.engine.remove_image(&request.image, force).await.map_err(status)?;
        Ok(Response::new(wire::RemoveImageResponse { untagged: removed.untagged, deleted: removed.deleted }))
    }

    async fn prune(&self, request: Request<wire::PruneImagesRequest>) -> Answer<wire::PruneImagesResponse> {
        let request = request.into_inner();
        let which = if request.all { Unused::Any } else { Unused::Dangling };
        let pruned = self.engine.prune_images(which, &request.filters).await.map_err(status)?;
        Ok(Response::new(wire::PruneImagesResponse {
            untagged: pruned.untagged,
            deleted: pruned.deleted,
            reclaimed_bytes: pruned.reclaimed,
        }))
    }
}

fn summary(summary: ImageSummary) -> wire::ImageSummary {
    wire::ImageSummary {
        id: summary.id,
        tags: summary.tags,
        repo_digests: summary.repo_digests,
        created_at: Some(convert::timestamp(summary.created_at)),
        size: i64::try_from(summary.size).unwrap_or(i64::MAX),
        labels: summary.labels.into_iter().collect(),
        containers: summary.containers,
    }
}
