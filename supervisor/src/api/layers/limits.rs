//! How many requests are answered at one time. What lives long by its nature (waits, subscriptions, attached streams)
//! has a bound of its own, so that it never keeps short requests out; a request counts until its answer was sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;

use crate::error::Error;
use crate::settle::Settle;

/// Methods whose answers may take as long as a container lives.
const LONG: &[&str] = &[
    "/containerd.services.tasks.v1.Tasks/Wait",
    "/containerd.services.sandbox.v1.Controller/Stop",
    "/containerd.services.sandbox.v1.Controller/Wait",
    "/containerd.services.events.v1.Events/Subscribe",
    "/containerd.services.diff.v1.Diff/Apply",
    "/containerd.services.content.v1.Content/Read",
    "/containerd.services.content.v1.Content/Write",
    "/containerd.services.streaming.v1.Streaming/Stream",
    "/containerd.services.transfer.v1.Transfer/Transfer",
    "/longshore.engine.v1.Containers/Create",
    "/longshore.engine.v1.Containers/Run",
    "/longshore.engine.v1.Containers/Attach",
    "/longshore.engine.v1.Containers/Wait",
    "/longshore.engine.v1.Containers/Logs",
    "/longshore.engine.v1.Containers/Exec",
    "/longshore.engine.v1.Containers/Stats",
    "/longshore.engine.v1.Containers/Stop",
    "/longshore.engine.v1.Containers/Restart",
    "/runtime.v1.RuntimeService/RunPodSandbox",
    "/runtime.v1.RuntimeService/StopPodSandbox",
    "/runtime.v1.RuntimeService/RemovePodSandbox",
    "/runtime.v1.RuntimeService/CreateContainer",
    "/runtime.v1.RuntimeService/StartContainer",
    "/runtime.v1.RuntimeService/StopContainer",
    "/runtime.v1.RuntimeService/RemoveContainer",
    "/runtime.v1.RuntimeService/ExecSync",
    "/runtime.v1.RuntimeService/CheckpointContainer",
    "/runtime.v1.RuntimeService/GetContainerEvents",
    "/runtime.v1.ImageService/PullImage",
    "/longshore.engine.v1.Images/Pull",
    "/longshore.engine.v1.Images/Push",
    "/longshore.engine.v1.Images/Save",
    "/longshore.engine.v1.Images/Load",
    "/longshore.engine.v1.System/Events",
    "/grpc.health.v1.Health/Watch",
];

/// An answer's body that holds its place until it was sent, or its client left.
pub struct Counted {
    body: Body,
    _place: Option<Place>,
}

/// A request's place among those that are answered; one that may have needed much tells of its end.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    settle: Option<Settle>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(settle) = &self.settle {
            settle.ended();
        }
    }
}

impl Counted {
    pub fn new(body: Body, place: Place) -> Self {
        Self { body, _place: Some(place) }
    }

    /// Of a request that was given no place.
    pub fn free(body: Body) -> Self {
        Self { body, _place: None }
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

pub struct Limits {
    short: Bound,
    long: Bound,
    settle: Settle,
}

/// So many at one time, and the name under which a refusal tells it.
pub(super) struct Bound {
    permits: Arc<Semaphore>,
    name: &'static str,
    max: usize,
}

impl Bound {
    pub(super) fn new(name: &'static str, max: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(max)), name, max }
    }

    /// A place for a request to `path`, or the refusal.
    pub(super) fn take(&self, path: &str) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.permits).try_acquire_owned().map_err(|_| Error::ResourceExhausted {
            what: path.to_owned(),
            limit: self.name,
            max: self.max as u64,
        })
    }
}

impl Limits {
    pub fn new(config: &crate::config::Grpc, settle: Settle) -> Self {
        Self {
            settle,
            short: Bound::new("grpc.max_requests", config.max_requests),
            long: Bound::new("grpc.max_streams", config.max_streams),
        }
    }

    /// A place for a request to `path`, or the refusal.
    pub fn take(&self, path: &str) -> Result<Place, Error> {
        let (bound, settle) = match LONG.contains(&path) {
            true => (&self.long, Some(self.settle.clone())),
            false => (&self.short, None),
        };
        Ok(Place { _permit: bound.take(path)?, settle })
    }
}
