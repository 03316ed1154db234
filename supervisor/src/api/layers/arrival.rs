//! A request of one message is let in when all of it has arrived: half a request, or one that trickles in, keeps nobody else out.
//!
//! What always holds: requests that arrive or are being answered take no more than [`MAX_BYTES`] of memory together; one that has
//! not arrived within [`PATIENCE`] is answered with DeadlineExceeded. Streams from clients, and methods that no interface of ours
//! has, pass by.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::Body as _;
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::limits::Bound;
use super::{Answer, Boxed};
use crate::error::Error;

/// How long a client may take to send a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of all requests together.
const MAX_BYTES: usize = 256 * 1024 * 1024;
/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

#[derive(Clone)]
pub struct ArrivalLayer {
    places: Bound,
    max_message: usize,
    bytes: Arc<AtomicUsize>,
    /// Paths of the methods whose request is one message.
    methods: Arc<HashSet<String>>,
}

impl ArrivalLayer {
    pub fn new(config: &crate::config::Grpc) -> Self {
        Self {
            places: Bound::new("grpc.max_streams (requests that arrive)", config.max_streams),
            max_message: config.max_message_bytes,
            bytes: Arc::default(),
            methods: Arc::new(methods()),
        }
    }

    /// Reads a request's body to its end.
    async fn gather(&self, mut body: Body) -> Result<Arrived, Status> {
        let mut arrived =
            Arrived { chunks: VecDeque::new(), held: Held { all: Arc::clone(&self.bytes), own: 0 } };
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            let Ok(data) = frame?.into_data() else { continue };
            arrived.held.add(data.len())?;
            arrived.chunks.push_back(data);
            self.check(&arrived)?;
        }
        Ok(arrived)
    }

    /// Refuses what is too long, as soon as its length is known.
    fn check(&self, arrived: &Arrived) -> Result<(), Error> {
        let announced = arrived.announced().unwrap_or(0);
        let length = announced.max(arrived.held.own.saturating_sub(PREFIX));
        if length <= self.max_message {
            return Ok(());
        }
        Err(Error::ResourceExhausted {
            what: format!("request message of {length} bytes"),
            limit: "grpc.max_message_bytes",
            max: self.max_message as u64,
        })
    }
}

/// From the descriptors of all interfaces; the crate that carries them is tested to.
fn methods() -> HashSet<String> {
    let all = prost_types::FileDescriptorSet::decode(longshore_proto::DESCRIPTORS).unwrap_or_default();
    let mut methods = HashSet::new();
    for file in &all.file {
        for service in &file.service {
            let unary = service.method.iter().filter(|method| !method.client_streaming());
            methods.extend(
                unary.map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name())),
            );
        }
    }
    methods
}

/// Counts bytes of requests for as long as they are in memory.
struct Held {
    all: Arc<AtomicUsize>,
    own: usize,
}

impl Held {
    fn add(&mut self, bytes: usize) -> Result<(), Error> {
        self.own += bytes;
        if self.all.fetch_add(bytes, Ordering::Relaxed) + bytes <= MAX_BYTES {
            return Ok(());
        }
        let (what, limit) = ("request".to_owned(), "bytes of all requests that are being answered");
        Err(Error::ResourceExhausted { what, limit, max: MAX_BYTES as u64 })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

/// A request's body that is all there.
struct Arrived {
    chunks: VecDeque<Bytes>,
    held: Held,
}

impl Arrived {
    /// The length in the message's prefix, once that is there.
    fn announced(&self) -> Option<usize> {
        let mut prefix = [0; PREFIX];
        let mut filled = 0;
        for chunk in &self.chunks {
            let part = &chunk[..chunk.len().min(PREFIX - filled)];
            prefix[filled..filled + part.len()].copy_from_slice(part);
            filled += part.len();
            if filled == PREFIX {
                let mut length = &prefix[1..];
                return usize::try_from(length.get_u32()).ok();
            }
        }
        None
    }
}

impl http_body::Body for Arrived {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        Poll::Ready(self.chunks.pop_front().map(|chunk| Ok(http_body::Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty()
    }
}

impl<S> Layer<S> for ArrivalLayer {
    type Service = Arriving<S>;
    fn layer(&self, inner: S) -> Self::Service {
        Arriving { inner, layer: self.clone() }
    }
}

#[derive(Clone)]
pub struct Arriving<S> {
    inner: S,
    layer: ArrivalLayer,
}

impl<S> Service<http::Request<Body>> for Arriving<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Unpin,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answer<Boxed<S::Error>, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if !self.layer.methods.contains(request.uri().path()) {
            return Answer::Inner(Box::pin(self.inner.call(request)));
        }
        let place = match self.layer.places.take(request.uri().path()) {
            Ok(place) => place,
            Err(error) => return Answer::refused(error.into()),
        };
        // The one that said it is ready is used; its copy takes its place.
        let copy = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, copy);
        let layer = self.layer.clone();
        Answer::Inner(Box::pin(async move {
            let (parts, body) = request.into_parts();
            let arrived = match tokio::time::timeout(PATIENCE, layer.gather(body)).await {
                Ok(Ok(arrived)) => arrived,
                Ok(Err(status)) => return Ok(status.into_http()),
                Err(_) => {
                    let what = format!("the arrival of request {}", parts.uri.path());
                    return Ok(Status::from(Error::Timeout { what, seconds: PATIENCE.as_secs() }).into_http());
                }
            };
            drop(place);
            inner.call(http::Request::from_parts(parts, Body::new(arrived))).await
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_from_clients_are_not_waited_for() {
        let methods = methods();
        assert!(methods.contains("/containerd.services.version.v1.Version/Version"));
        assert!(methods.contains("/containerd.services.events.v1.Events/Subscribe"));
        assert!(!methods.contains("/containerd.services.content.v1.Content/Write"));
        assert!(!methods.contains("/longshore.engine.v1.Containers/Attach"));
    }

    #[test]
    fn a_length_is_known_from_its_prefix_however_it_arrives() {
        let held = || Held { all: Arc::default(), own: 0 };
        let of = |chunks: &[&'static [u8]]| Arrived {
            chunks: chunks.iter().map(|chunk| Bytes::from_static(chunk)).collect(),
            held: held(),
        };
        assert_eq!(of(&[b"\0\0\0\x01\x02abc"]).announced(), Some(258));
        assert_eq!(of(&[b"\0", b"", b"\0\0", b"\x01\x02"]).announced(), Some(258));
        assert_eq!(of(&[b"\0\0\0\x01"]).announced(), None);
    }
}
