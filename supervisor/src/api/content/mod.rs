//! containerd.services.content.v1.

mod read;
mod write;

use std::sync::Arc;

use longshore_proto::containerd::services::content::v1 as wire;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::encoded::{self, Encoded};
use super::routes::Routes;
use super::{LIST_BATCH, STREAM_BUFFER, convert, lease, namespace, required};
use crate::content::{ContentStore, Digest, IngestStatus};
use crate::filters::Filter;
use crate::labels::from_hash;
use crate::services::Services;

pub struct Service(pub Services);

fn status_to_wire(status: IngestStatus) -> wire::Status {
    wire::Status {
        started_at: Some(convert::timestamp(status.started_at)),
        updated_at: Some(convert::timestamp(status.updated_at)),
        r#ref: status.reference,
        offset: convert::size(status.offset),
        total: convert::size(status.total),
        expected: status.expected.map(|digest| digest.to_string()).unwrap_or_default(),
    }
}

/// Adds the method whose answers are kept as they are sent.
pub fn encoded(routes: &mut Routes, services: &Services) {
    let content = Arc::clone(&services.content);
    routes.add_method("/containerd.services.content.v1.Content/Info", move |request| {
        let content = Arc::clone(&content);
        Box::pin(async move { Ok(encoded::unary(request, |request| info(content, request)).await) })
    });
}

async fn info(content: Arc<ContentStore>, request: Request<wire::InfoRequest>) -> Result<Encoded, Status> {
    let namespace = namespace(&request)?;
    let digest = Digest::parse(&request.get_ref().digest)?;
    Ok(Encoded::one(content.message(&namespace, &digest)?))
}

#[tonic::async_trait]
impl wire::content_server::Content for Service {
    type ListStream = ReceiverStream<Result<wire::ListContentResponse, Status>>;
    type ReadStream = ReceiverStream<Result<wire::ReadContentResponse, Status>>;
    type WriteStream = ReceiverStream<Result<wire::WriteContentResponse, Status>>;

    async fn info(
        &self,
        request: Request<wire::InfoRequest>,
    ) -> Result<Response<wire::InfoResponse>, Status> {
        // Requests from the socket take the shorter way of [`encoded`].
        let digest = Digest::parse(&request.get_ref().digest)?;
        let info = self.0.content.info(&namespace(&request)?, &digest)?;
        Ok(Response::new(wire::InfoResponse { info: Some(info.into()) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateRequest>,
    ) -> Result<Response<wire::UpdateResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let asked = required(request.info, "content info")?;
        let digest = Digest::parse(&asked.digest)?;
        let keys = convert::label_mask("content", request.update_mask)?;
        let info =
            self.0.content.update(&namespace, &digest, from_hash(asked.labels), keys.as_deref()).await?;
        Ok(Response::new(wire::UpdateResponse { info: Some(info.into()) }))
    }

    async fn list(
        &self,
        request: Request<wire::ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let namespace = namespace(&request)?;
        let filter = Filter::parse_all(&request.get_ref().filters)?;
        let content = Arc::clone(&self.0.content);
        let (sender, receiver) = tokio::sync::mpsc::channel(STREAM_BUFFER);
        tokio::spawn(async move {
            let mut after = None;
            loop {
                let page = match content.page(&namespace, after.as_ref(), LIST_BATCH) {
                    Ok(page) => page,
                    Err(error) => return drop(sender.send(Err(error.into())).await),
                };
                let whole = page.len() == LIST_BATCH;
                after = page.last().map(|info| info.digest.clone());
                let info: Vec<_> =
                    page.into_iter().filter(|info| filter.matches(info)).map(wire::Info::from).collect();
                let sent = match info.is_empty() {
                    true => !sender.is_closed(),
                    false => sender.send(Ok(wire::ListContentResponse { info })).await.is_ok(),
                };
                if !whole || !sent {
                    return;
                }
                // Others get a turn, too.
                tokio::task::yield_now().await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn delete(&self, request: Request<wire::DeleteContentRequest>) -> Result<Response<()>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request)?);
        let digest = Digest::parse(&request.get_ref().digest)?;
        self.0.content.delete(&namespace, &digest, lease.as_deref()).await?;
        self.0.gc.trigger();
        Ok(Response::new(()))
    }

    async fn read(
        &self,
        request: Request<wire::ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let namespace = namespace(&request)?;
        Ok(Response::new(read::read(&self.0.content, &namespace, request.get_ref()).await?))
    }

    async fn status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, Status> {
        let namespace = namespace(&request)?;
        let status = self.0.content.status(&namespace, &request.get_ref().r#ref).await?;
        Ok(Response::new(wire::StatusResponse { status: Some(status_to_wire(status)) }))
    }

    async fn list_statuses(
        &self,
        request: Request<wire::ListStatusesRequest>,
    ) -> Result<Response<wire::ListStatusesResponse>, Status> {
        let namespace = namespace(&request)?;
        let filter = Filter::parse_all(&request.get_ref().filters)?;
        let statuses = self.0.content.list_statuses(&namespace, &filter).await?;
        let statuses = statuses.into_iter().map(status_to_wire).collect();
        Ok(Response::new(wire::ListStatusesResponse { statuses }))
    }

    async fn write(
        &self,
        request: Request<Streaming<wire::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let namespace = namespace(&request)?;
        let lease = lease(&request)?;
        let session = write::Session::new(self.0.content.clone(), namespace, lease);
        Ok(Response::new(session.start(request.into_inner())))
    }

    async fn abort(&self, request: Request<wire::AbortRequest>) -> Result<Response<()>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request)?);
        self.0.content.abort(&namespace, &request.get_ref().r#ref, lease.as_deref()).await?;
        Ok(Response::new(()))
    }
}
