//! Files of containers and images as streams: the parts of the Containers and Images services that carry tar.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use longshore_proto::longshore::engine::v1 as wire;
use tokio::sync::{mpsc, oneshot};
use tonic::{Response, Status, Streaming};

use super::session::Out;
use super::{Answer, STREAM_BUFFER, convert, empty, status};
use crate::diff::changes::Kind;
use crate::engine::Engine;
use crate::engine::commit::{Commit, Pause};
use crate::engine::copy::{Ownership, PathStat};
use crate::engine::images::import::Import;

fn stat_message(stat: PathStat) -> wire::PathStat {
    wire::PathStat {
        name: stat.name,
        size: i64::try_from(stat.size).unwrap_or(i64::MAX),
        mode: stat.mode,
        modified_at: Some(convert::timestamp(stat.modified)),
        link_target: stat.target,
    }
}

pub async fn stat(engine: &Arc<Engine>, request: wire::StatPathRequest) -> Answer<wire::PathStat> {
    let found = engine.stat_path(&request.container, &request.path).await.map_err(status)?;
    Ok(Response::new(stat_message(found)))
}

/// Hands on pieces until there are no more, or the client goes away.
async fn hand_on<T>(mut pieces: mpsc::Receiver<Bytes>, out: &Out<T>, wrap: impl Fn(Bytes) -> T) {
    while let Some(piece) = pieces.recv().await {
        if out.send(Ok(wrap(piece))).await.is_err() {
            return;
        }
    }
}

pub async fn copy_from(
    engine: Arc<Engine>,
    request: wire::StatPathRequest,
    out: Out<wire::CopyFromResponse>,
) -> Result<(), Status> {
    use wire::copy_from_response::What;
    let message = |what| wire::CopyFromResponse { what: Some(what) };
    let (told, stat) = oneshot::channel();
    let (sender, pieces) = mpsc::channel(STREAM_BUFFER);
    let copying = engine.copy_from(&request.container, &request.path, told, sender);
    let handing = async {
        if let Ok(stat) = stat.await
            && out.send(Ok(message(What::Stat(stat_message(stat))))).await.is_ok()
        {
            hand_on(pieces, &out, |piece| message(What::Data(piece.into()))).await;
        }
    };
    tokio::join!(copying, handing).0.map_err(status)
}

pub async fn export(
    engine: Arc<Engine>,
    request: wire::ContainerRequest,
    out: Out<wire::ExportResponse>,
) -> Result<(), Status> {
    let (sender, pieces) = mpsc::channel(STREAM_BUFFER);
    let exporting = engine.export(&request.container, sender);
    let handing = hand_on(pieces, &out, |piece| wire::ExportResponse { data: piece.into() });
    tokio::join!(exporting, handing).0.map_err(status)
}

/// Reads a client's stream into `sender` until its end. An error of the stream is one of the request: what came is not all.
async fn take_in<T>(
    mut stream: Streaming<T>,
    sender: mpsc::Sender<io::Result<Bytes>>,
    unwrap: impl Fn(T) -> Option<Vec<u8>>,
) -> Result<(), Status> {
    while let Some(message) = stream.next().await {
        let refused = || Status::invalid_argument("only the first message of the stream may be `start`");
        let data = match message.and_then(|message| unwrap(message).ok_or_else(refused)) {
            Ok(data) => data,
            Err(status) => {
                // What came so far must not pass for the whole.
                let _ = sender.send(Err(io::Error::other(status.message().to_owned()))).await;
                return Err(status);
            }
        };
        if !data.is_empty() && sender.send(Ok(data.into())).await.is_err() {
            // Nobody wants more: the work's answer says why.
            return Ok(());
        }
    }
    // The end, said in so many words: that of a request that is dropped is none.
    let _ = sender.send(Ok(Bytes::new())).await;
    Ok(())
}

pub async fn copy_to(engine: &Arc<Engine>, mut stream: Streaming<wire::CopyToRequest>) -> Answer<()> {
    use wire::copy_to_request::What;
    let first = stream.next().await.transpose()?.and_then(|message| message.what);
    let Some(What::Start(start)) = first else { return Err(missing_start()) };
    let ownership = if start.own { Ownership::OfTheContainer } else { Ownership::Kept };
    let (sender, pieces) = mpsc::channel(STREAM_BUFFER);
    let copying = engine.copy_to(&start.container, &start.path, ownership, pieces);
    let taking = take_in(stream, sender, |message| match message.what {
        Some(What::Data(data)) => Some(data),
        _ => None,
    });
    let (copied, taken) = tokio::join!(copying, taking);
    taken?;
    copied.map_err(status)?;
    empty()
}

pub async fn import(
    engine: &Arc<Engine>,
    mut stream: Streaming<wire::ImportRequest>,
) -> Answer<wire::ImportResponse> {
    use wire::import_request::What;
    let first = stream.next().await.transpose()?.and_then(|message| message.what);
    let Some(What::Start(start)) = first else { return Err(missing_start()) };
    let request = Import {
        reference: start.reference,
        message: start.message,
        changes: start.changes,
        platform: start.platform,
        source: if start.source.is_empty() { "-".to_owned() } else { start.source },
    };
    let (sender, pieces) = mpsc::channel(STREAM_BUFFER);
    let importing = engine.import(request, pieces);
    let taking = take_in(stream, sender, |message| match message.what {
        Some(What::Data(data)) => Some(data),
        _ => None,
    });
    let (imported, taken) = tokio::join!(importing, taking);
    taken?;
    Ok(Response::new(wire::ImportResponse { id: imported.map_err(status)? }))
}

fn missing_start() -> Status {
    Status::invalid_argument("the first message of the stream must be `start`")
}

pub async fn diff(engine: &Arc<Engine>, request: wire::ContainerRequest) -> Answer<wire::DiffResponse> {
    let changes = engine.diff(&request.container).await.map_err(status)?;
    let message = |change: crate::engine::diff::Change| wire::Change {
        path: change.path,
        kind: match change.kind {
            Kind::Changed => wire::ChangeKind::Changed,
            Kind::Added => wire::ChangeKind::Added,
            Kind::Deleted => wire::ChangeKind::Deleted,
        }
        .into(),
    };
    Ok(Response::new(wire::DiffResponse { changes: changes.into_iter().map(message).collect() }))
}

pub async fn commit(engine: &Arc<Engine>, request: wire::CommitRequest) -> Answer<wire::CommitResponse> {
    let request = Commit {
        container: request.container,
        reference: request.reference,
        author: request.author,
        comment: request.comment,
        changes: request.changes,
        pause: if request.no_pause { Pause::No } else { Pause::Yes },
    };
    let id = engine.commit(request).await.map_err(status)?;
    Ok(Response::new(wire::CommitResponse { id }))
}
