//! containerd.services.containers.v1.

use std::sync::Arc;

use longshore_proto::containerd::services::containers::v1 as wire;
use prost::Message;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::encoded::{self, Encoded};
use super::routes::Routes;
use super::{STREAM_BUFFER, namespace, required};
use crate::containers::{Container, ContainerStore};
use crate::error::{Error, Result as CoreResult};
use crate::filters::Filter;
use crate::namespaces::Namespace;
use crate::services::Services;
use crate::tasks::ProcessId;

/// Containers that are read at one time; each may be as large as a message.
const PAGE: usize = 32;

pub struct Service(pub Services);

/// Containers of a namespace that match, a page at a time: no list is in memory as a whole.
struct Pages {
    store: Arc<ContainerStore>,
    namespace: Namespace,
    filter: Filter,
    /// The last id that was read; `None`: the list is at its end.
    after: Option<String>,
}

impl Pages {
    fn new(store: &Arc<ContainerStore>, namespace: Namespace, filters: &[String]) -> CoreResult<Self> {
        let filter = Filter::parse_all(filters)?;
        Ok(Self { store: Arc::clone(store), namespace, filter, after: Some(String::new()) })
    }

    /// The next containers' messages.
    async fn next(&mut self) -> CoreResult<Option<Vec<Vec<u8>>>> {
        let Some(after) = self.after.take() else { return Ok(None) };
        let after = (!after.is_empty()).then_some(after);
        if after.is_some() {
            // Others get a turn, too.
            tokio::task::yield_now().await;
        }
        let page = self.store.messages(&self.namespace, after.as_deref(), PAGE)?;
        if page.len() == PAGE {
            self.after = page.last().map(|(id, _)| id.clone());
        }
        let mut messages = Vec::with_capacity(page.len());
        for (id, message) in page {
            if self.store.matches(&self.filter, &id, &message)? {
                messages.push(message);
            }
        }
        Ok(Some(messages))
    }
}

/// Adds the methods whose answers are kept as they are sent.
pub fn encoded(routes: &mut Routes, services: &Services) {
    let max = services.config.grpc.max_message_bytes;
    let (getting, listing) = (Arc::clone(&services.containers), Arc::clone(&services.containers));
    routes.add_method("/containerd.services.containers.v1.Containers/Get", move |request| {
        let store = Arc::clone(&getting);
        Box::pin(async move { Ok(encoded::unary(request, |request| get(store, request)).await) })
    });
    routes.add_method("/containerd.services.containers.v1.Containers/List", move |request| {
        let store = Arc::clone(&listing);
        Box::pin(async move { Ok(encoded::unary(request, |request| list(store, request, max)).await) })
    });
}

async fn get(
    store: Arc<ContainerStore>,
    request: Request<wire::GetContainerRequest>,
) -> Result<Encoded, Status> {
    Ok(Encoded::one(store.message(&namespace(&request)?, &request.get_ref().id)?))
}

async fn list(
    store: Arc<ContainerStore>,
    request: Request<wire::ListContainersRequest>,
    max: usize,
) -> Result<Encoded, Status> {
    let mut pages = Pages::new(&store, namespace(&request)?, &request.get_ref().filters)?;
    let mut answer = Encoded::default();
    while let Some(messages) = pages.next().await? {
        for message in messages {
            answer.add(message);
            if answer.length() > max {
                let (what, limit) = ("list of containers".into(), "grpc.max_message_bytes; use ListStream");
                return Err(Error::ResourceExhausted { what, limit, max: max as u64 }.into());
            }
        }
    }
    Ok(answer)
}

fn streamed(message: &[u8]) -> CoreResult<wire::ListContainerMessage> {
    let container = wire::Container::decode(message)
        .map_err(|error| Error::Damaged { what: "a container's record".into(), why: error.to_string() })?;
    Ok(wire::ListContainerMessage { container: Some(container) })
}

#[tonic::async_trait]
impl wire::containers_server::Containers for Service {
    type ListStreamStream = ReceiverStream<Result<wire::ListContainerMessage, Status>>;

    async fn get(
        &self,
        request: Request<wire::GetContainerRequest>,
    ) -> Result<Response<wire::GetContainerResponse>, Status> {
        // Requests from the socket take the shorter way of [`encoded`].
        let container = self.0.containers.get(&namespace(&request)?, &request.get_ref().id)?;
        Ok(Response::new(wire::GetContainerResponse { container: Some(container.into()) }))
    }

    async fn list(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Result<Response<wire::ListContainersResponse>, Status> {
        // Requests from the socket take the shorter way of [`encoded`].
        let filter = Filter::parse_all(&request.get_ref().filters)?;
        let containers = self.0.containers.list(&namespace(&request)?, &filter)?;
        let containers = containers.into_iter().map(wire::Container::from).collect();
        Ok(Response::new(wire::ListContainersResponse { containers }))
    }

    async fn list_stream(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Result<Response<Self::ListStreamStream>, Status> {
        let mut pages = Pages::new(&self.0.containers, namespace(&request)?, &request.get_ref().filters)?;
        let (sender, receiver) = tokio::sync::mpsc::channel(STREAM_BUFFER);
        tokio::spawn(async move {
            loop {
                let messages = match pages.next().await {
                    Ok(None) => return,
                    Ok(Some(page)) => page.iter().map(|message| Ok(streamed(message)?)).collect(),
                    Err(error) => vec![Err(error.into())],
                };
                for message in messages {
                    if sender.send(message).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn create(
        &self,
        request: Request<wire::CreateContainerRequest>,
    ) -> Result<Response<wire::CreateContainerResponse>, Status> {
        let namespace = namespace(&request)?;
        let asked = required(request.into_inner().container, "container")?;
        let container = self.0.containers.create(&namespace, Container::asked(asked)).await?;
        Ok(Response::new(wire::CreateContainerResponse { container: Some(container.into()) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateContainerRequest>,
    ) -> Result<Response<wire::UpdateContainerResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let asked = required(request.container, "container")?;
        let mask = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let container = self.0.containers.update(&namespace, Container::asked(asked), &mask).await?;
        Ok(Response::new(wire::UpdateContainerResponse { container: Some(container.into()) }))
    }

    async fn delete(&self, request: Request<wire::DeleteContainerRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let id = &request.get_ref().id;
        if self.0.tasks.get(&namespace, id, ProcessId::Init).is_ok() {
            return Err(Error::precondition(
                format!("container \"{id}\""),
                "has a task: stop and delete the task first",
            )
            .into());
        }
        self.0.containers.delete(&namespace, id).await?;
        self.0.gc.trigger();
        Ok(Response::new(()))
    }
}
