//! containerd.services.events.v1.

mod subscribe;

use longshore_proto::containerd::services::events::v1 as wire;
use longshore_proto::containerd::types::Envelope;
use tonic::{Request, Response, Status};

pub use subscribe::Front;

use super::{convert, namespace, required};
use crate::error::Error;
use crate::events::{Event, check_topic};
use crate::namespaces::Namespace;
use crate::services::Services;

pub struct Service(pub Services);

#[tonic::async_trait]
impl wire::events_server::Events for Service {
    type SubscribeStream = tokio_stream::Empty<Result<Envelope, Status>>;

    async fn publish(&self, request: Request<wire::PublishRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        check_topic(&request.topic)?;
        let payload = required(request.event, "event")?;
        self.0.events.publish(&namespace, &request.topic, payload.into());
        Ok(Response::new(()))
    }

    async fn forward(&self, request: Request<wire::ForwardRequest>) -> Result<Response<()>, Status> {
        let envelope = required(request.into_inner().envelope, "envelope")?;
        check_topic(&envelope.topic)?;
        let event = Event {
            timestamp: convert::from_timestamp(required(envelope.timestamp, "envelope timestamp")?)?,
            namespace: Namespace::parse(&envelope.namespace)?,
            topic: envelope.topic,
            payload: required(envelope.event, "envelope event")?.into(),
        };
        self.0.tasks.forwarded(event);
        Ok(Response::new(()))
    }

    async fn subscribe(
        &self,
        _: Request<wire::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        // The method is answered by [`Front`], with messages that are encoded once for all subscribers.
        Err(Error::Unimplemented { what: "a subscription past the front of its service".into() }.into())
    }
}
