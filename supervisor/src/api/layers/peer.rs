//! Who may speak: root, the daemon's own user, and members of the configured group, by SO_PEERCRED.

use std::task::{Context, Poll};

use tonic::body::Body;
use tower::{Layer, Service};

use super::{Answer, Boxed};
use crate::error::Error;
use crate::listen::Peer;

#[derive(Clone, Copy)]
pub struct PeerLayer;

impl<S> Layer<S> for PeerLayer {
    type Service = CheckPeer<S>;
    fn layer(&self, inner: S) -> Self::Service {
        CheckPeer { inner }
    }
}

#[derive(Clone)]
pub struct CheckPeer<S> {
    inner: S,
}

impl<S> Service<http::Request<Body>> for CheckPeer<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
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
        let refusal = match request.extensions().get::<Peer>() {
            Some(peer) => peer.refusal.clone(),
            None => Some("its credentials are not known".into()),
        };
        match refusal {
            None => Answer::Inner(Box::pin(self.inner.call(request))),
            Some(why) => Answer::refused(
                Error::PermissionDenied { what: "this socket".into(), why: why.to_string() }.into(),
            ),
        }
    }
}
