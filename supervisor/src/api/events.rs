//! containerd.services.events.v1.

use longshore_proto::containerd::services::events::v1 as wire;
use longshore_proto::containerd::types::Envelope;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{STREAM_BUFFER, convert, namespace, required};
use crate::events::{Event, check_topic};
use crate::namespaces::Namespace;
use crate::services::Services;

pub struct Service(pub Services);

fn to_wire(event: Event) -> Envelope {
    Envelope {
        timestamp: Some(convert::timestamp(event.timestamp)),
        namespace: event.namespace.to_string(),
        topic: event.topic,
        event: Some(event.payload.into()),
    }
}

#[tonic::async_trait]
impl wire::events_server::Events for Service {
    type SubscribeStream = ReceiverStream<Result<Envelope, Status>>;

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
        request: Request<wire::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut subscription = self.0.events.subscribe(&request.get_ref().filters)?;
        let (sender, receiver) = tokio::sync::mpsc::channel(STREAM_BUFFER);
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    event = subscription.next() => event,
                    () = sender.closed() => return,
                };
                let Some(event) = event else { return };
                if sender.send(event.map(to_wire).map_err(Status::from)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
