//! What every request passes before its service: each step in a file of its own.
//!
//! The order, from the outside: trace (everything is logged, refusals too), deadline, arrival, limits, namespace. Peers were
//! looked at when they connected.
//!
//! What always holds: a request costs one future, however many steps there are; whoever adds a step adds it to [`Layers::pass`].

mod arrival;
mod deadline;
mod limits;
mod namespace;
mod trace;

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;

use super::routes::Routes;
use crate::config::Grpc;
use crate::listen::Peer;
use crate::settle::Settle;
use arrival::Arrival;
use limits::Limits;

pub use limits::Counted;

pub struct Layers {
    arrival: Arrival,
    limits: Limits,
    routes: Routes,
}

impl Layers {
    pub fn new(config: &Grpc, routes: Routes, settle: Settle) -> Self {
        Self { arrival: Arrival::new(config), limits: Limits::new(config, settle), routes }
    }

    /// The answer to a request; a refusal is one, too.
    pub async fn answer(
        self: Arc<Self>,
        peer: Peer,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Counted>, Infallible> {
        let trace = trace::Trace::new(peer, &request);
        let answer = match deadline::of(request.headers()) {
            None => self.pass(request).await,
            Some(deadline) => deadline::within(deadline, trace.path(), self.pass(request)).await,
        };
        let answer = answer.unwrap_or_else(|status| status.into_http().map(Counted::free));
        trace.log(answer.headers());
        Ok(answer)
    }

    async fn pass(&self, request: http::Request<Incoming>) -> Result<http::Response<Counted>, Status> {
        let mut request: http::Request<Body> = self.arrival.wait(request).await?;
        let place = self.limits.take(request.uri().path())?;
        namespace::read(&mut request)?;
        let answer = self.routes.answer(request).await;
        Ok(answer.map(|body| Counted::new(body, place)))
    }
}
