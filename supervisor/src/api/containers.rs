//! containerd.services.containers.v1.

use std::sync::Arc;

use longshore_proto::containerd::services::containers::v1 as wire;
use prost::Message;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{STREAM_BUFFER, convert, namespace, required};
use crate::containers::{Container, ContainerStore, Runtime};
use crate::error::{Error, Result as CoreResult};
use crate::filters::Filter;
use crate::labels::{from_hash, to_hash};
use crate::namespaces::Namespace;
use crate::services::Services;
use crate::tasks::ProcessId;

/// Containers that are read at one time; each may be as large as a message.
const PAGE: usize = 32;

pub struct Service(pub Services);

fn to_wire(container: Container) -> wire::Container {
    let Runtime { name, options } = container.runtime;
    wire::Container {
        id: container.id,
        labels: to_hash(&container.labels),
        image: container.image,
        runtime: Some(wire::container::Runtime { name, options: options.map(Into::into) }),
        spec: container.spec.map(Into::into),
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        created_at: Some(convert::timestamp(container.created_at)),
        updated_at: Some(convert::timestamp(container.updated_at)),
        extensions: container.extensions.into_iter().map(|(key, value)| (key, value.into())).collect(),
        sandbox: container.sandbox_id,
    }
}

pub fn from_wire(asked: wire::Container) -> Container {
    let runtime = asked.runtime.unwrap_or_default();
    let runtime = Runtime { name: runtime.name, options: runtime.options.map(Into::into) };
    let mut container = Container::new(asked.id, runtime);
    container.labels = from_hash(asked.labels);
    container.image = asked.image;
    container.spec = asked.spec.map(Into::into);
    container.snapshotter = asked.snapshotter;
    container.snapshot_key = asked.snapshot_key;
    container.extensions = asked.extensions.into_iter().map(|(key, value)| (key, value.into())).collect();
    container.sandbox_id = asked.sandbox;
    container
}

fn message(container: wire::Container) -> wire::ListContainerMessage {
    wire::ListContainerMessage { container: Some(container) }
}

/// Containers of a namespace that match, a page at a time: no list is in memory as a whole.
struct Pages {
    store: Arc<ContainerStore>,
    namespace: Namespace,
    filter: Filter,
    /// The last id that was read; `None`: the list is at its end.
    after: Option<String>,
}

impl Pages {
    async fn next(&mut self) -> CoreResult<Option<Vec<wire::Container>>> {
        let Some(after) = self.after.take() else { return Ok(None) };
        // Others get a turn, too.
        tokio::task::yield_now().await;
        let after = (!after.is_empty()).then_some(after);
        let page = self.store.page(&self.namespace, after.as_deref(), PAGE)?;
        if page.len() == PAGE {
            self.after = page.last().map(|container| container.id.clone());
        }
        Ok(Some(page.into_iter().filter(|container| self.filter.matches(container)).map(to_wire).collect()))
    }
}

impl Service {
    fn pages(&self, namespace: Namespace, filter: Filter) -> Pages {
        Pages { store: Arc::clone(&self.0.containers), namespace, filter, after: Some(String::new()) }
    }
}

#[tonic::async_trait]
impl wire::containers_server::Containers for Service {
    type ListStreamStream = ReceiverStream<Result<wire::ListContainerMessage, Status>>;

    async fn get(
        &self,
        request: Request<wire::GetContainerRequest>,
    ) -> Result<Response<wire::GetContainerResponse>, Status> {
        let namespace = namespace(&request)?;
        let container = self.0.containers.get(&namespace, &request.get_ref().id)?;
        Ok(Response::new(wire::GetContainerResponse { container: Some(to_wire(container)) }))
    }

    async fn list(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Result<Response<wire::ListContainersResponse>, Status> {
        let namespace = namespace(&request)?;
        let filter = Filter::parse_all(&request.get_ref().filters)?;
        let max = self.0.config.grpc.max_message_bytes;
        let (mut pages, mut containers, mut bytes) = (self.pages(namespace, filter), Vec::new(), 0);
        while let Some(page) = pages.next().await? {
            for container in page {
                let length = container.encoded_len();
                bytes += length + 1 + prost::length_delimiter_len(length);
                if bytes > max {
                    let (what, limit) =
                        ("list of containers".into(), "grpc.max_message_bytes; use ListStream");
                    return Err(Error::ResourceExhausted { what, limit, max: max as u64 }.into());
                }
                containers.push(container);
            }
        }
        Ok(Response::new(wire::ListContainersResponse { containers }))
    }

    async fn list_stream(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Result<Response<Self::ListStreamStream>, Status> {
        let namespace = namespace(&request)?;
        let filter = Filter::parse_all(&request.get_ref().filters)?;
        let mut pages = self.pages(namespace, filter);
        let (sender, receiver) = tokio::sync::mpsc::channel(STREAM_BUFFER);
        tokio::spawn(async move {
            loop {
                let messages = match pages.next().await {
                    Ok(None) => return,
                    Ok(Some(page)) => page.into_iter().map(|container| Ok(message(container))).collect(),
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
        let container = self.0.containers.create(&namespace, from_wire(asked)).await?;
        Ok(Response::new(wire::CreateContainerResponse { container: Some(to_wire(container)) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateContainerRequest>,
    ) -> Result<Response<wire::UpdateContainerResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let asked = required(request.container, "container")?;
        let mask = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let container = self.0.containers.update(&namespace, from_wire(asked), &mask).await?;
        Ok(Response::new(wire::UpdateContainerResponse { container: Some(to_wire(container)) }))
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
