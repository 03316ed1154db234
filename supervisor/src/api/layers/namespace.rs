//! The header `containerd-namespace`, parsed once; whether one is needed is the service's to say.

use std::task::{Context, Poll};

use tonic::body::Body;
use tower::{Layer, Service};

use super::{Answer, Boxed};
use crate::error::Error;
use crate::namespaces::Namespace;

pub const HEADER: &str = "containerd-namespace";

#[derive(Clone, Copy)]
pub struct NamespaceLayer;

impl<S> Layer<S> for NamespaceLayer {
    type Service = ReadNamespace<S>;
    fn layer(&self, inner: S) -> Self::Service {
        ReadNamespace { inner }
    }
}

#[derive(Clone)]
pub struct ReadNamespace<S> {
    inner: S,
}

impl<S> Service<http::Request<Body>> for ReadNamespace<S>
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

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match parse(request.headers().get(HEADER)) {
            Ok(Some(namespace)) => {
                request.extensions_mut().insert(namespace);
            }
            Ok(None) => {}
            Err(error) => return Answer::refused(error.into()),
        }
        Answer::Inner(Box::pin(self.inner.call(request)))
    }
}

fn parse(header: Option<&http::HeaderValue>) -> Result<Option<Namespace>, Error> {
    match header.map(http::HeaderValue::to_str) {
        None | Some(Ok("")) => Ok(None),
        Some(Ok(name)) => Namespace::parse(name).map(Some),
        Some(Err(_)) => Err(Error::invalid("header containerd-namespace", "is not ASCII")),
    }
}
