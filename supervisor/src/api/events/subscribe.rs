//! Events.Subscribe: every event is put into its wire form once, however many subscribers there are.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes};
use longshore_proto::containerd::services::events::v1 as wire;
use longshore_proto::containerd::types::Envelope;
use prost::Message;
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::{Request, Response, Status};
use wire::events_server::EventsServer;

use super::Service;
use crate::api::convert;
use crate::api::routes::Answer;
use crate::events::{Event, Subscription};
use crate::services::Services;

const PATH: &str = "/containerd.services.events.v1.Events/Subscribe";

fn encode(event: &Event) -> Bytes {
    let envelope = Envelope {
        timestamp: Some(convert::timestamp(event.timestamp)),
        namespace: event.namespace.to_string(),
        topic: event.topic.clone(),
        event: Some(event.payload.clone().into()),
    };
    envelope.encode_to_vec().into()
}

/// The service as clients see it: subscriptions are answered here, everything else behind.
#[derive(Clone)]
pub struct Front {
    services: Services,
    behind: EventsServer<Service>,
}

impl Front {
    pub fn new(services: &Services, behind: EventsServer<Service>) -> Self {
        Self { services: services.clone(), behind }
    }
}

impl NamedService for Front {
    const NAME: &'static str = "containerd.services.events.v1.Events";
}

impl tower::Service<http::Request<Body>> for Front {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        tower::Service::<http::Request<Body>>::poll_ready(&mut self.behind, context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        if request.uri().path() != PATH {
            return Box::pin(self.behind.call(request));
        }
        let services = self.services.clone();
        Box::pin(async move {
            let max = services.config.grpc.max_message_bytes;
            let mut grpc = Grpc::new(Encoded).apply_max_message_size_config(Some(max), Some(max));
            Ok(grpc.server_streaming(Subscribe(services), request).await)
        })
    }
}

struct Subscribe(Services);

impl ServerStreamingService<wire::SubscribeRequest> for Subscribe {
    type Response = Bytes;
    type ResponseStream = Envelopes;
    type Future = Ready<Result<Response<Envelopes>, Status>>;

    fn call(&mut self, request: Request<wire::SubscribeRequest>) -> Self::Future {
        let subscription = self.0.events.subscribe(&request.get_ref().filters);
        ready(subscription.map(|subscription| Response::new(Envelopes(subscription))).map_err(Status::from))
    }
}

/// A subscription's events in their wire form.
struct Envelopes(Subscription);

impl Stream for Envelopes {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.0.poll(context);
        next.map(|next| next.map(|event| event.map(|event| event.wire(encode)).map_err(Status::from)))
    }
}

/// Answers are encoded already, requests are decoded.
#[derive(Clone, Copy)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = wire::SubscribeRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = wire::SubscribeRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let decoded = wire::SubscribeRequest::decode(buffer);
        decoded.map(Some).map_err(|error| Status::internal(format!("malformed request: {error}")))
    }
}
