//! gRPC reflection, built when it is first asked for: the decoded descriptors of all interfaces take memory that an
//! idle daemon does without.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::routes::{Answer, Routes};

#[derive(Clone, Default)]
pub struct Reflection {
    built: Arc<OnceLock<Routes>>,
}

impl NamedService for Reflection {
    const NAME: &'static str = "grpc.reflection.v1.ServerReflection";
}

impl Service<http::Request<Body>> for Reflection {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        let built = Arc::clone(&self.built);
        Box::pin(async move { Ok(built.get_or_init(build).answer(request).await) })
    }
}

fn build() -> Routes {
    let mut routes = Routes::default();
    let built = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(longshore_proto::DESCRIPTORS)
        .build_v1();
    match built {
        Ok(service) => drop(routes.add(service)),
        Err(error) => tracing::error!("reflection is not available: {error}"),
    }
    routes
}
