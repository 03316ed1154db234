//! One log line per request: method, namespace, peer, outcome and time; refusals and failures above debug level.

use std::time::Instant;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue};
use tonic::{Code, Status};

use super::namespace::HEADER;
use crate::listen::Peer;
use crate::namespaces::MAX_IDENTIFIER;

/// What is to be logged of a request when it is answered.
pub struct Trace {
    path: Option<PathAndQuery>,
    namespace: Option<HeaderValue>,
    peer: Peer,
    started: Instant,
}

impl Trace {
    pub fn new<B>(peer: Peer, request: &http::Request<B>) -> Self {
        let (path, namespace) = (request.uri().path_and_query(), request.headers().get(HEADER));
        Self { path: path.cloned(), namespace: namespace.cloned(), peer, started: Instant::now() }
    }

    pub fn path(&self) -> &str {
        self.path.as_ref().map_or("", PathAndQuery::path)
    }

    /// Logs the answer with these headers. A failure in mid-stream is the service's to log.
    pub fn log(&self, answer: &HeaderMap) {
        let status = Status::from_header_map(answer);
        if status.is_none() && !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let method = self.path();
        let namespace = self.namespace.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default();
        let namespace = namespace.get(..MAX_IDENTIFIER).unwrap_or(namespace);
        let Peer { uid, pid } = self.peer;
        let took = self.started.elapsed();
        let Some(status) = status else {
            tracing::debug!(method, namespace, uid, pid, ?took, "ok");
            return;
        };
        match status.code() {
            Code::Internal | Code::DataLoss => {
                tracing::error!(method, namespace, uid, pid, ?took, "{}", status.message());
            }
            Code::PermissionDenied | Code::ResourceExhausted => {
                tracing::warn!(method, namespace, uid, pid, ?took, "refused: {}", status.message());
            }
            code => tracing::debug!(method, namespace, uid, pid, ?took, ?code, "{}", status.message()),
        }
    }
}
