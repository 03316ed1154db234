//! Content.Read: a blob, or a part of it, in chunks.

use longshore_proto::containerd::services::content::v1 as wire;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::convert;
use crate::api::STREAM_BUFFER;
use crate::content::store::blocking;
use crate::content::{Blob, ContentStore, Digest};
use crate::error::{Error, Result};
use crate::namespaces::Namespace;

/// Bytes in one message.
const CHUNK: u64 = 1024 * 1024;

pub async fn read(
    content: &ContentStore,
    namespace: &Namespace,
    request: &wire::ReadContentRequest,
) -> Result<ReceiverStream<Result<wire::ReadContentResponse, Status>>> {
    let digest = Digest::parse(&request.digest)?;
    let offset = convert::from_size("read offset", request.offset)?;
    let length = convert::from_size("read size", request.size)?;
    let blob = content.reader(namespace, &digest).await?;
    if offset > blob.size {
        return Err(Error::OutOfRange {
            what: format!("content {digest}"),
            why: format!("read at {offset}, past its {} bytes", blob.size),
        });
    }
    // Whoever asks for more than there is gets what there is, as from a file.
    let end = if length == 0 { blob.size } else { offset.saturating_add(length).min(blob.size) };
    let (sender, receiver) = tokio::sync::mpsc::channel(STREAM_BUFFER);
    tokio::spawn(async move {
        let mut at = offset;
        while at < end {
            let chunk = chunk(&blob, at, end).await;
            let failed = chunk.is_err();
            at += CHUNK;
            if sender.send(chunk).await.is_err() || failed {
                return;
            }
        }
    });
    Ok(ReceiverStream::new(receiver))
}

async fn chunk(blob: &Blob, at: u64, end: u64) -> Result<wire::ReadContentResponse, Status> {
    let blob = blob.clone();
    let length = usize::try_from((end - at).min(CHUNK)).unwrap_or(usize::MAX);
    let data = blocking(move || blob.read_at(at, length)).await?;
    Ok(wire::ReadContentResponse { offset: convert::size(at), data })
}
