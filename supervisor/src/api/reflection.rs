//! gRPC reflection, built when it is first asked for: the decoded descriptors of all interfaces take memory that an
//! idle daemon does without.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::Service;

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
    type Future = <Routes as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.built.get_or_init(build).clone().call(request)
    }
}

fn build() -> Routes {
    let built = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(longshore_proto::DESCRIPTORS)
        .build_v1();
    match built {
        Ok(service) => Routes::new(service),
        Err(error) => {
            tracing::error!("reflection is not available: {error}");
            Routes::default()
        }
    }
}
