//! Credentials that a client gives when it is asked for them, over a stream of its own.

use std::time::Duration;

use longshore_proto::containerd::types::transfer as wire;
use prost::Message;
use tokio::sync::Mutex;

use crate::any::Any;
use crate::images::auth::{Credentials, Helper};
use crate::images::fetch::error::FetchError;
use crate::streams::Stream;

/// How long a client may take to answer: it may ask a person.
const PATIENCE: Duration = Duration::from_secs(60);
const REQUEST: &str = "containerd.types.transfer.AuthRequest";
const RESPONSE: &str = "containerd.types.transfer.AuthResponse";

pub struct StreamHelper {
    /// One question at a time.
    stream: Mutex<Stream>,
    reference: String,
}

impl StreamHelper {
    pub fn new(stream: Stream, reference: &str) -> StreamHelper {
        StreamHelper { stream: Mutex::new(stream), reference: reference.to_owned() }
    }
}

#[tonic::async_trait]
impl Helper for StreamHelper {
    async fn credentials(&self, host: &str) -> Result<Option<Credentials>, FetchError> {
        let failed = |why: String| FetchError::Helper { host: host.to_owned(), why };
        let mut stream = self.stream.lock().await;
        let (host_name, reference) = (host.to_owned(), self.reference.clone());
        let request = wire::AuthRequest { host: host_name, reference, wwwauthenticate: Vec::new() };
        let exchange = async {
            let gone = || failed("the client's stream has ended".to_owned());
            stream.to_client.send(Any::pack(REQUEST, &request)).await.map_err(|_| gone())?;
            let answer = stream.from_client.recv().await.ok_or_else(gone)?;
            answer.map_err(|broken| failed(broken.0))
        };
        let answer = tokio::time::timeout(PATIENCE, exchange).await;
        let answer = answer.map_err(|_| failed(format!("no answer within {} s", PATIENCE.as_secs())))??;
        if !answer.is(RESPONSE) {
            return Err(failed(format!("the client answered with {:?}", answer.type_url)));
        }
        let answer = wire::AuthResponse::decode(answer.value).map_err(|error| failed(error.to_string()))?;
        let known = |secret: &String| !secret.is_empty();
        Ok(match answer.auth_type() {
            wire::AuthType::None => None,
            wire::AuthType::Credentials => Credentials::from_parts(&answer.username, &answer.secret, ""),
            wire::AuthType::Refresh => Some(answer.secret).filter(known).map(Credentials::Identity),
            wire::AuthType::Header => Some(answer.secret).filter(known).map(Credentials::Header),
        })
    }
}
