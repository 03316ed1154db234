//! One log line per request: method, namespace, peer, outcome and time; refusals and failures above debug level.

use std::task::{Context, Poll};
use std::time::Instant;

use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::Boxed;
use super::namespace::HEADER;
use crate::listen::Peer;

#[derive(Clone, Copy)]
pub struct TraceLayer;

impl<S> Layer<S> for TraceLayer {
    type Service = Traced<S>;
    fn layer(&self, inner: S) -> Self::Service {
        Traced { inner }
    }
}

#[derive(Clone)]
pub struct Traced<S> {
    inner: S,
}

impl<S> Service<http::Request<Body>> for Traced<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Boxed<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().to_owned();
        let namespace = request
            .headers()
            .get(HEADER)
            .and_then(|value| value.to_str().ok())
            .map(|name| name.chars().take(crate::namespaces::MAX_IDENTIFIER).collect::<String>())
            .unwrap_or_default();
        let peer = request.extensions().get::<Peer>().map(|peer| (peer.uid, peer.pid));
        let started = Instant::now();
        let future = self.inner.call(request);
        Box::pin(async move {
            let answer = future.await;
            if let Ok(answer) = &answer {
                log(&method, &namespace, peer, started, answer);
            }
            answer
        })
    }
}

fn log(
    method: &str,
    namespace: &str,
    peer: Option<(u32, i32)>,
    started: Instant,
    answer: &http::Response<Body>,
) {
    let took = started.elapsed();
    let (uid, pid) = peer.unwrap_or_default();
    // A failure that is known with the headers; one in mid-stream is the service's to log.
    match Status::from_header_map(answer.headers()) {
        Some(status) if status.code() == Code::Internal || status.code() == Code::DataLoss => {
            tracing::error!(method, namespace, uid, pid, ?took, "{}", status.message());
        }
        Some(status)
            if status.code() == Code::PermissionDenied || status.code() == Code::ResourceExhausted =>
        {
            tracing::warn!(method, namespace, uid, pid, ?took, "refused: {}", status.message());
        }
        Some(status) if status.code() != Code::Ok => {
            tracing::debug!(method, namespace, uid, pid, ?took, code = ?status.code(), "{}", status.message());
        }
        _ => tracing::debug!(method, namespace, uid, pid, ?took, "ok"),
    }
}
