//! What every request passes before its service: each a small tower layer.
//!
//! The order, from the outside: trace (everything is logged, refusals too), arrival, limits, namespace. Peers were
//! looked at when they connected.

pub mod arrival;
pub mod limits;
pub mod namespace;
pub mod trace;

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;

/// An answer that comes from a layer, or from the service behind it.
pub enum Answer<F, E> {
    Refused(Ready<Result<http::Response<Body>, E>>),
    Inner(F),
}

impl<F, E> Answer<F, E> {
    pub fn refused(status: Status) -> Self {
        Self::Refused(ready(Ok(status.into_http())))
    }
}

impl<F, E> Future for Answer<F, E>
where
    F: Future<Output = Result<http::Response<Body>, E>> + Unpin,
    E: Unpin,
{
    type Output = Result<http::Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Refused(answer) => Pin::new(answer).poll(context),
            Self::Inner(future) => Pin::new(future).poll(context),
        }
    }
}

/// A service's future where the layers need to name it.
pub type Boxed<E> = Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send>>;
