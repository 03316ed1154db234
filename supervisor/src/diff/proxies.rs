//! Differs in other processes, and the order in which they and the own one are asked.
//!
//! What always holds: one that says that it is not implemented passes the request on to the next.

use longshore_proto::containerd::services::diff::v1 as wire;
use tonic::Code;
use wire::diff_client::DiffClient;

use crate::config::{Config, ProxyKind, WALKING};
use crate::error::Result;
use crate::namespaces::Namespace;
use crate::plugins::{MAX_MESSAGE, Plugin};

/// Who is asked, in order.
pub struct Differs(Vec<Differ>);

/// One that applies and makes layers.
pub enum Differ {
    /// The daemon itself.
    Walking,
    Remote(Remote),
}

pub struct Remote(Plugin);

impl Differs {
    /// As the configuration says. Needs a runtime.
    pub fn new(config: &Config) -> Result<Self> {
        let mut differs = Vec::new();
        for name in &config.diff.order {
            if name == WALKING {
                differs.push(Differ::Walking);
            } else if let Some((_, plugin)) =
                config.proxies(ProxyKind::Diff).find(|(other, _)| *other == name)
            {
                differs.push(Differ::Remote(Remote(Plugin::new("differ", name, plugin)?)));
            }
        }
        Ok(Self(differs))
    }

    /// In the order in which they are asked; there is always one.
    pub fn iter(&self) -> impl Iterator<Item = &Differ> {
        self.0.iter()
    }
}

/// Whether the next one is to be asked.
pub fn passes_on<R>(outcome: &Result<R>) -> bool {
    matches!(outcome, Err(error) if error.code() == Code::Unimplemented)
}

impl Remote {
    pub async fn apply(
        &self,
        namespace: &Namespace,
        request: wire::ApplyRequest,
    ) -> Result<wire::ApplyResponse> {
        let call = |channel, request| async move {
            let mut client = DiffClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
            client.apply(request).await
        };
        self.0.call("apply", namespace, request, call).await
    }

    pub async fn diff(
        &self,
        namespace: &Namespace,
        request: wire::DiffRequest,
    ) -> Result<wire::DiffResponse> {
        let call = |channel, request| async move {
            let mut client = DiffClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
            client.diff(request).await
        };
        self.0.call("diff", namespace, request, call).await
    }
}
