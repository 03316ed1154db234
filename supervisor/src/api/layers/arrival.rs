//! A request of one message is let in when all of it has arrived: half a request, or one that trickles in, keeps nobody else out.
//!
//! What always holds: requests that arrive or are being answered take no more than [`MAX_BYTES`] of memory together; one that has
//! not arrived within [`PATIENCE`] is answered with DeadlineExceeded. Streams from clients, and methods that no interface of ours
//! has, pass by.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::Body as _;
use hyper::body::Incoming;
use longshore_proto::UNARY;
use tonic::Status;
use tonic::body::Body;

use super::limits::Bound;
use crate::error::Error;

/// How long a client may take to send a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of all requests together.
const MAX_BYTES: usize = 256 * 1024 * 1024;
/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

pub struct Arrival {
    places: Bound,
    max_message: usize,
    bytes: Arc<AtomicUsize>,
}

impl Arrival {
    pub fn new(config: &crate::config::Grpc) -> Self {
        Self {
            places: Bound::new("grpc.max_streams (requests that arrive)", config.max_streams),
            max_message: config.max_message_bytes,
            bytes: Arc::default(),
        }
    }

    /// The request when all of it is there; what passes by, at once.
    pub async fn wait(&self, request: http::Request<Incoming>) -> Result<http::Request<Body>, Status> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        if UNARY.binary_search(&path).is_err() {
            return Ok(http::Request::from_parts(parts, Body::new(body)));
        }
        let _place = self.places.take(path)?;
        let arrived = tokio::time::timeout(PATIENCE, self.gather(body)).await.unwrap_or_else(|_| {
            let what = format!("the arrival of request {path}");
            Err(Error::Timeout { what, seconds: PATIENCE.as_secs() }.into())
        })?;
        Ok(http::Request::from_parts(parts, Body::new(arrived)))
    }

    /// Reads a request's body to its end.
    async fn gather(&self, mut body: Incoming) -> Result<Arrived, Status> {
        let mut arrived =
            Arrived { chunks: VecDeque::new(), held: Held { all: Arc::clone(&self.bytes), own: 0 } };
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            let frame =
                frame.map_err(|error| Status::cancelled(format!("the request did not arrive: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_from_clients_are_not_waited_for() {
        let is_unary = |path| UNARY.binary_search(&path).is_ok();
        assert!(is_unary("/containerd.services.version.v1.Version/Version"));
        assert!(is_unary("/containerd.services.events.v1.Events/Subscribe"));
        assert!(!is_unary("/containerd.services.content.v1.Content/Write"));
        assert!(!is_unary("/longshore.engine.v1.Containers/Attach"));
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
