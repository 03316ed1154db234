//! Plugins that live in processes of their own: a connection to each, by its socket.
//!
//! What always holds: no call waits longer than the plugin's time, at the most [`CALLS`] are under way at one time, and a plugin that is
//! away is connected to again by the next call. Whatever it answers, the error says which plugin it was and what it was asked.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::config::ProxyPlugin;
use crate::error::{Error, Result};
use crate::namespaces::Namespace;

/// Calls of one plugin at one time; others wait.
const CALLS: usize = 64;
/// How long a socket may take to answer.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest message in bytes, both ways.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// A plugin's socket; cheap to clone. Nothing is connected before the first call.
#[derive(Clone)]
pub struct Plugin {
    /// What it is and where, for messages.
    what: Arc<str>,
    channel: Channel,
    patience: Duration,
    turns: Arc<Semaphore>,
}

impl Plugin {
    /// `kind` is for messages, as in `snapshotter`. Needs a runtime.
    pub fn new(kind: &str, name: &str, config: &ProxyPlugin) -> Result<Self> {
        let address = config.socket();
        let what = format!("{kind} \"{name}\" (plugin at {})", address.display());
        let endpoint = Endpoint::from_shared(format!("unix://{}", address.display()));
        let endpoint =
            endpoint.map_err(|error| Error::invalid(what.clone(), format!("its address: {error}")))?;
        Ok(Self {
            what: what.into(),
            channel: endpoint.connect_timeout(CONNECT).connect_lazy(),
            patience: Duration::from_secs(config.timeout_seconds),
            turns: Arc::new(Semaphore::new(CALLS)),
        })
    }

    /// Asks the plugin something: `step` says what, for messages; `ask` makes the call of a request with the right header.
    pub async fn call<T, R, F>(
        &self,
        step: &'static str,
        namespace: &Namespace,
        message: T,
        ask: impl FnOnce(Channel, Request<T>) -> F,
    ) -> Result<R>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut request = Request::new(message);
        if let Ok(value) = namespace.as_str().parse() {
            request.metadata_mut().insert("containerd-namespace", value);
        }
        let work = async {
            // The semaphore is never closed.
            let _turn = self.turns.acquire().await;
            ask(self.channel.clone(), request).await
        };
        self.within(step, work).await.map(Response::into_inner)
    }

    /// Waits for a call or a part of one, as long as the plugin may take.
    pub async fn within<R>(
        &self,
        step: &'static str,
        work: impl Future<Output = Result<R, Status>>,
    ) -> Result<R> {
        match tokio::time::timeout(self.patience, work).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(self.failed(step, &status)),
            Err(_) => {
                let seconds = self.patience.as_secs();
                Err(Error::Timeout { what: format!("{}: {step}", self.what), seconds })
            }
        }
    }

    fn failed(&self, step: &'static str, status: &Status) -> Error {
        // Without a source it is the plugin's own answer.
        if status.code() == Code::Unavailable && std::error::Error::source(status).is_some() {
            return Error::unavailable(
                self.what.to_string(),
                format!("{step}: it cannot be reached, is it running? ({})", causes(status)),
            );
        }
        Error::Plugin {
            plugin: self.what.to_string(),
            step,
            code: status.code(),
            message: status.message().to_owned(),
        }
    }
}

/// The innermost reason.
fn causes(status: &Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
