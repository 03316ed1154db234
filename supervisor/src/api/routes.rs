//! Which service answers a request, by the first part of its path.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;

use tonic::body::Body;
use tonic::server::NamedService;

use crate::error::Error;

/// A service's answer, as generated servers make it.
pub type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

/// A service that answers; what it costs to make a copy of it is next to nothing.
trait Answers: Send + Sync {
    fn answer(&self, request: http::Request<Body>) -> Answer;
}

impl<S> Answers for S
where
    S: tower::Service<http::Request<Body>, Future = Answer> + Clone + Send + Sync,
{
    fn answer(&self, request: http::Request<Body>) -> Answer {
        // Generated servers are always ready.
        self.clone().call(request)
    }
}

type Method = Box<dyn Fn(http::Request<Body>) -> Answer + Send + Sync>;

#[derive(Default)]
pub struct Routes {
    services: HashMap<&'static str, Box<dyn Answers>>,
    /// What is answered past the service, by the whole path.
    methods: HashMap<&'static str, Method>,
}

impl Routes {
    pub fn add<S>(&mut self, service: S) -> &mut Self
    where
        S: tower::Service<http::Request<Body>, Future = Answer>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.services.insert(S::NAME, Box::new(service));
        self
    }

    /// A method that is not answered by its service.
    pub fn add_method(
        &mut self,
        path: &'static str,
        method: impl Fn(http::Request<Body>) -> Answer + Send + Sync + 'static,
    ) {
        self.methods.insert(path, Box::new(method));
    }

    /// The answer of the service that the path names; its absence is an answer, too.
    pub async fn answer(&self, request: http::Request<Body>) -> http::Response<Body> {
        let path = request.uri().path();
        if let Some(method) = self.methods.get(path) {
            return settled(method(request).await);
        }
        let name = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(name, _)| name);
        let Some(service) = name.and_then(|name| self.services.get(name)) else {
            return tonic::Status::from(Error::Unimplemented { what: format!("the service of {path}") })
                .into_http();
        };
        let answer = service.answer(request);
        settled(answer.await)
    }
}

fn settled(answer: Result<http::Response<Body>, Infallible>) -> http::Response<Body> {
    match answer {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_that_nobody_has_is_unimplemented() {
        for path in ["/no.such.Service/Method", "/", "/x", "*"] {
            let request = http::Request::builder().uri(path).body(Body::empty()).unwrap();
            let answer = Routes::default().answer(request).await;
            let status = tonic::Status::from_header_map(answer.headers()).map(|status| status.code());
            assert_eq!(status, Some(tonic::Code::Unimplemented), "{path}");
        }
    }
}
