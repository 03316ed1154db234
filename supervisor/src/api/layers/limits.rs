//! How many requests are answered at one time. What lives long by its nature (waits, subscriptions, attached streams)
//! has a bound of its own, so that it never keeps short requests out.

use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::Semaphore;
use tonic::body::Body;
use tower::{Layer, Service};

use super::{Answer, Boxed};
use crate::error::Error;

/// Methods whose answers may take as long as a container lives.
const LONG: &[&str] = &[
    "/containerd.services.tasks.v1.Tasks/Wait",
    "/containerd.services.events.v1.Events/Subscribe",
    "/containerd.services.diff.v1.Diff/Apply",
    "/longshore.engine.v1.Containers/Run",
    "/longshore.engine.v1.Containers/Attach",
    "/longshore.engine.v1.Containers/Wait",
    "/longshore.engine.v1.Containers/Logs",
    "/longshore.engine.v1.Containers/Exec",
    "/longshore.engine.v1.Containers/Stats",
    "/longshore.engine.v1.Containers/Stop",
    "/longshore.engine.v1.Images/Pull",
    "/longshore.engine.v1.System/Events",
    "/grpc.health.v1.Health/Watch",
];

#[derive(Clone)]
pub struct LimitsLayer {
    short: Bound,
    long: Bound,
}

#[derive(Clone)]
struct Bound {
    permits: Arc<Semaphore>,
    name: &'static str,
    max: usize,
}

impl Bound {
    fn new(name: &'static str, max: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(max)), name, max }
    }
}

impl LimitsLayer {
    pub fn new(config: &crate::config::Grpc) -> Self {
        Self {
            short: Bound::new("grpc.max_requests", config.max_requests),
            long: Bound::new("grpc.max_streams", config.max_streams),
        }
    }
}

impl<S> Layer<S> for LimitsLayer {
    type Service = Limited<S>;
    fn layer(&self, inner: S) -> Self::Service {
        Limited { inner, limits: self.clone() }
    }
}

#[derive(Clone)]
pub struct Limited<S> {
    inner: S,
    limits: LimitsLayer,
}

impl<S> Service<http::Request<Body>> for Limited<S>
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
        let path = request.uri().path();
        let bound = if LONG.contains(&path) { &self.limits.long } else { &self.limits.short };
        let Ok(permit) = Arc::clone(&bound.permits).try_acquire_owned() else {
            let error =
                Error::ResourceExhausted { what: path.to_owned(), limit: bound.name, max: bound.max as u64 };
            return Answer::refused(error.into());
        };
        let future = self.inner.call(request);
        Answer::Inner(Box::pin(async move {
            let answer = future.await;
            drop(permit);
            answer
        }))
    }
}
