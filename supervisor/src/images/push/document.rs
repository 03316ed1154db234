//! One manifest or index, sent whole.
//!
//! What always holds: it is sent byte for byte as it is stored, and what the registry says to have stored is that.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};

use super::{Push, PushError};
use crate::content::{Descriptor, Digest};
use crate::error::Error;
use crate::images::fetch::MAX_MANIFEST;
use crate::images::fetch::http::Upload;
use crate::images::fetch::retry::Patience;
use crate::images::graph::Kind;
use crate::images::track::Step;

pub(super) struct DocumentPush<'a> {
    pub push: &'a Push<'a>,
    pub descriptor: &'a Descriptor,
    /// The tag or digest under which it is put.
    pub object: &'a str,
}

impl DocumentPush<'_> {
    pub async fn run(self) -> Result<(), PushError> {
        let mut patience = Patience::new();
        loop {
            match self.attempt().await {
                Ok(step) => {
                    self.push.done(self.descriptor, step);
                    return Ok(());
                }
                Err(PushError::Fetch(error)) => patience.wait(error).await?,
                Err(error) => return Err(error),
            }
        }
    }

    fn what(&self) -> String {
        format!("manifest {}", self.descriptor.digest)
    }

    async fn attempt(&self) -> Result<Step, PushError> {
        if self.exists().await? {
            return Ok(Step::Exists);
        }
        let bytes = self.read().await?;
        let host = self.push.remote.target();
        let url = host.url(&format!("{}/manifests/{}", self.push.remote.repository(), self.object)).await?;
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&self.descriptor.media_type) {
            headers.insert(CONTENT_TYPE, value);
        }
        let upload = Upload {
            length: bytes.len() as u64,
            body: Box::new(move || bytes.clone().into()),
            sent: Arc::new(AtomicU64::new(0)),
        };
        let answer = host.send(Method::PUT, &url, headers, Some(&upload), &host.authorizer).await?;
        if !answer.status().is_success() {
            let dangling = matches!(answer.status(), StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND);
            let error = host.refusal(&self.what(), answer).await;
            if dangling && Kind::of(&self.descriptor.media_type) == Kind::Index {
                let (what, host) = (self.what(), host.name.clone());
                return Err(PushError::Dangling { what, host, source: Box::new(error) });
            }
            return Err(error.into());
        }
        let stored = answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        let stored = stored.and_then(|text| Digest::parse(text).ok());
        match stored.filter(|digest| digest.algorithm() == self.descriptor.digest.algorithm()) {
            Some(got) if got != self.descriptor.digest => {
                Err(PushError::Stored { what: self.what(), host: host.name.clone(), got: got.to_string() })
            }
            _ => Ok(Step::Complete),
        }
    }

    // Whether the tag or digest stands for just this.
    async fn exists(&self) -> Result<bool, PushError> {
        let host = self.push.remote.target();
        let url = host.url(&format!("{}/manifests/{}", self.push.remote.repository(), self.object)).await?;
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&format!("{}, */*", self.descriptor.media_type)) {
            headers.insert(ACCEPT, value);
        }
        let answer = host.send(Method::HEAD, &url, headers, None, &host.authorizer).await?;
        match answer.status() {
            StatusCode::OK => {
                let digest = answer.headers().get("docker-content-digest");
                let same = digest
                    .is_some_and(|digest| digest.as_bytes() == self.descriptor.digest.as_str().as_bytes());
                Ok(same || self.object.contains(':') && digest.is_none())
            }
            StatusCode::NOT_FOUND => Ok(false),
            // Some registries let nobody look before something is there: the answer to the push decides.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED => Ok(false),
            _ => Err(host.refusal(&self.what(), answer).await.into()),
        }
    }

    async fn read(&self) -> Result<Bytes, PushError> {
        match self.push.content.reader(self.push.namespace, &self.descriptor.digest).await {
            Ok(blob) => Ok(blob.read_all(MAX_MANIFEST as u64).await?),
            Err(Error::NotFound { .. }) => {
                let digest = self.descriptor.digest.clone();
                let host = self.push.remote.target().name.clone();
                Err(PushError::Missing { what: "manifest", digest, host })
            }
            Err(error) => Err(error.into()),
        }
    }
}
