//! The Images service.

use std::sync::Arc;

use longshore_proto::longshore::engine::v1 as wire;
use longshore_proto::longshore::engine::v1::images_server::Images;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::{Answer, STREAM_BUFFER, Stream, convert, empty, files, status};
use crate::engine::Engine;
use crate::engine::images::{
    Force, ImageSummary, LoadEvent, PullRequest, PushEvent, PushRequest, PushStep, Removal, SaveRequest,
    Tags, Unused,
};
use crate::pipe::Reader;

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
    type PushStream = Stream<wire::PushProgress>;
    type SaveStream = Stream<wire::SaveResponse>;
    type LoadStream = Stream<wire::LoadResponse>;

    async fn pull(&self, request: Request<wire::PullRequest>) -> Answer<Self::PullStream> {
        let (engine, request) = (self.engine.clone(), request.into_inner());
        let all = request.all_tags;
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
            let pull = async {
                match all {
                    true => engine.pull_all(request, sender).await,
                    false => engine.pull(request, sender).await.map(drop),
                }
            };
            let both = async { tokio::join!(pull, forward) };
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

    async fn import(&self, request: Request<Streaming<wire::ImportRequest>>) -> Answer<wire::ImportResponse> {
        files::import(&self.engine, request.into_inner()).await
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
            target_size: bytes(found.target_size),
            tagged_at: convert::maybe_timestamp(found.tagged_at),
            snapshotter: found.snapshotter,
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
        let removal = Removal { image: request.image, force, platforms: request.platforms };
        let removed = self.engine.remove_image(&removal).await.map_err(status)?;
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

    async fn push(&self, request: Request<wire::PushRequest>) -> Answer<Self::PushStream> {
        let request = request.into_inner();
        let engine = self.engine.clone();
        let request = PushRequest {
            reference: request.reference,
            tags: if request.all_tags { Tags::All } else { Tags::One },
            platform: request.platform,
            auth: request.auth.map(convert::auth),
        };
        Ok(relayed(|events| async move { engine.push(request, events).await }, push_event))
    }

    async fn save(&self, request: Request<wire::SaveRequest>) -> Answer<Self::SaveStream> {
        let request = request.into_inner();
        let engine = self.engine.clone();
        let request = SaveRequest { images: request.images, platforms: request.platforms };
        let message = |data: bytes::Bytes| wire::SaveResponse { data: data.into() };
        Ok(relayed(|pieces| async move { engine.save(request, pieces).await }, message))
    }

    async fn load(&self, request: Request<Streaming<wire::LoadRequest>>) -> Answer<Self::LoadStream> {
        use wire::load_request::What;
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|message| message.what);
        let Some(What::Options(options)) = first else {
            return Err(Status::invalid_argument("the first message of the stream must be `options`"));
        };
        let engine = self.engine.clone();
        let (pieces, archive) = Reader::new();
        tokio::spawn(async move {
            loop {
                let piece = match messages.message().await {
                    Ok(Some(wire::LoadRequest { what: Some(What::Data(data)) })) => Ok(data.into()),
                    Ok(Some(_)) => Err(std::io::ErrorKind::InvalidData.into()),
                    Ok(None) => return,
                    Err(broken) => {
                        Err(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, broken.to_string()))
                    }
                };
                let failed = piece.is_err();
                if pieces.send(piece).await.is_err() || failed {
                    return;
                }
            }
        });
        let load = |events| async move { engine.load(archive, &options.platforms, events).await };
        Ok(relayed(load, load_event))
    }

    async fn history(&self, request: Request<wire::ImageRequest>) -> Answer<wire::HistoryResponse> {
        let request = request.into_inner();
        let history = self.engine.image_history(&request.image, &request.platform).await.map_err(status)?;
        let entries = history.into_iter().map(|entry| wire::HistoryEntry {
            id: entry.id,
            created_at: convert::maybe_timestamp(entry.created_at),
            created_by: entry.created_by,
            size: bytes(entry.size),
            comment: entry.comment,
            tags: entry.tags,
        });
        Ok(Response::new(wire::HistoryResponse { entries: entries.collect() }))
    }

    async fn login(&self, request: Request<wire::LoginRequest>) -> Answer<wire::LoginResponse> {
        let request = request.into_inner();
        let auth = convert::auth(request.auth.unwrap_or_default());
        let identity_token = self.engine.login(&request.registry, &auth).await.map_err(status)?;
        let (status, identity_token) = ("Login Succeeded".to_owned(), identity_token.unwrap_or_default());
        Ok(Response::new(wire::LoginResponse { status, identity_token }))
    }
}

/// Work that reports while it goes on. It notices by itself that nobody receives its reports any more.
fn relayed<E, M, W>(
    work: impl FnOnce(mpsc::Sender<E>) -> W,
    message: impl Fn(E) -> M + Send + 'static,
) -> Response<Stream<M>>
where
    E: Send + 'static,
    M: Send + 'static,
    W: Future<Output = crate::error::Result<()>> + Send + 'static,
{
    let (out, receiver) = mpsc::channel(STREAM_BUFFER);
    let (sender, mut events) = mpsc::channel(STREAM_BUFFER);
    let work = work(sender);
    tokio::spawn(async move {
        let client = out.clone();
        let forward = async move {
            loop {
                let event = tokio::select! {
                    event = events.recv() => event,
                    () = client.closed() => None,
                };
                let Some(event) = event else { return };
                if client.send(Ok(message(event))).await.is_err() {
                    return;
                }
            }
        };
        if let (Err(error), ()) = tokio::join!(work, forward) {
            // The client may be gone; nobody else asked.
            let _ = out.send(Err(status(error))).await;
        }
    });
    Response::new(Stream::new(receiver))
}

fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn push_event(event: PushEvent) -> wire::PushProgress {
    use wire::push_progress::What;
    let what = match event {
        PushEvent::Repository(name) => What::Repository(name),
        PushEvent::Tag(tag) => What::Tag(tag),
        PushEvent::Layer { diff_id, step, current, total, from } => What::Layer(wire::PushLayer {
            diff_id,
            status: match step {
                PushStep::Preparing => wire::PushStatus::Preparing,
                PushStep::Pushing => wire::PushStatus::Pushing,
                PushStep::Pushed => wire::PushStatus::Pushed,
                PushStep::Exists => wire::PushStatus::Exists,
                PushStep::Mounted => wire::PushStatus::Mounted,
            }
            .into(),
            current: bytes(current),
            total: bytes(total),
            from,
        }),
        PushEvent::Pushed { tag, digest, size } => {
            What::Pushed(wire::Pushed { tag, digest, size: bytes(size) })
        }
        PushEvent::Note(text) => What::Note(text),
    };
    wire::PushProgress { what: Some(what) }
}

fn load_event(event: LoadEvent) -> wire::LoadResponse {
    use wire::load_response::What;
    let what = match event {
        LoadEvent::Loaded(name) => What::Loaded(name),
        LoadEvent::LoadedId(id) => What::LoadedId(id),
        LoadEvent::Renamed { name, old_id } => What::Renamed(wire::Renamed { name, old_id }),
    };
    wire::LoadResponse { what: Some(what) }
}

pub(super) fn summary(summary: ImageSummary) -> wire::ImageSummary {
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
