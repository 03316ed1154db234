//! One blob: looked for, mounted from another repository, or uploaded; an upload that breaks goes on from what the registry has.
//!
//! What always holds: memory does not depend on the blob's size; the registry is told the digest and refuses what differs from it;
//! attempts are bounded, and count anew only after progress.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE};
use http::{Method, StatusCode};
use reqwest::{Response, Url};

use super::{Blob, Push, PushError};
use crate::content::store::blocking;
use crate::content::{Blob as Content, Descriptor};
use crate::error::Error;
use crate::images::fetch::error::FetchError;
use crate::images::fetch::host::Host;
use crate::images::fetch::http::Upload;
use crate::images::fetch::retry::Patience;
use crate::images::track::Step;

/// Blobs up to this size are sent in one request, in bytes; of larger ones so much at a time.
const CHUNK: u64 = 16 << 20;
/// The largest chunk that a registry may insist on, in bytes.
const MAX_CHUNK: u64 = 512 << 20;
/// Bytes that are read and handed to the connection at once.
const PIECE: usize = 256 * 1024;
/// Attempts count anew after this much was taken, in bytes.
const PROGRESS: u64 = 1 << 20;

pub(super) struct BlobPush<'a> {
    pub push: &'a Push<'a>,
    pub blob: &'a Blob,
}

/// An upload that the registry has begun.
struct Session {
    url: Url,
    /// Bytes that the registry has.
    offset: u64,
    chunk: u64,
}

/// How the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Chunked,
    /// In one request; what is left of a broken one in chunks.
    Resumable,
    /// In one request, each time: for registries that do not know chunks.
    Whole,
}

enum Begun {
    /// Mounted.
    There,
    Upload(Session),
}

impl BlobPush<'_> {
    pub async fn run(self) -> Result<(), PushError> {
        let mut patience = Patience::new();
        let exists = loop {
            match self.exists().await {
                Ok(exists) => break exists,
                Err(error) => patience.wait(error).await?,
            }
        };
        let step = if exists { Step::Exists } else { self.transfer().await? };
        self.push.note_source(self.descriptor()).await;
        self.push.done(self.descriptor(), step);
        Ok(())
    }

    fn descriptor(&self) -> &Descriptor {
        &self.blob.descriptor
    }

    fn host(&self) -> &Host {
        self.push.remote.target()
    }

    fn what(&self) -> String {
        format!("blob {}", self.descriptor().digest)
    }

    async fn exists(&self) -> Result<bool, FetchError> {
        let host = self.host();
        let path = format!("{}/blobs/{}", self.push.remote.repository(), self.descriptor().digest);
        let url = host.url(&path).await?;
        let answer = host.send(Method::HEAD, &url, HeaderMap::new(), None, &host.authorizer).await?;
        match answer.status() {
            StatusCode::OK => Ok(true),
            // Some registries let nobody look before something is there: the answer to the upload decides.
            StatusCode::NOT_FOUND
            | StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::METHOD_NOT_ALLOWED => Ok(false),
            _ => Err(host.refusal(&self.what(), answer).await),
        }
    }

    async fn transfer(&self) -> Result<Step, PushError> {
        let content = match self.push.content.reader(self.push.namespace, &self.descriptor().digest).await {
            Ok(content) => Some(content),
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        for source in &self.blob.sources {
            if let Some(Begun::There) = self.mount(source).await {
                self.push.tracker.mounted(&self.descriptor().digest, source);
                return Ok(Step::Exists);
            }
        }
        let Some(content) = content else {
            let (digest, host) = (self.descriptor().digest.clone(), self.host().name.clone());
            return Err(PushError::Missing { what: "blob", digest, host });
        };
        if content.size != self.descriptor().size {
            let why =
                format!("has {} bytes, not the {} of its descriptor", content.size, self.descriptor().size);
            return Err(Error::precondition(self.what(), why).into());
        }
        let sent = Arc::new(AtomicU64::new(0));
        self.push.tracker.uploading(&self.descriptor().digest, &sent);
        self.upload(&content, &sent).await?;
        Ok(Step::Complete)
    }

    // From another repository of the registry. Whatever stands against it, there is still the upload.
    async fn mount(&self, source: &str) -> Option<Begun> {
        let authorizer = self.host().authorizer.widened(format!("repository:{source}:pull"));
        let query = [("mount", self.descriptor().digest.as_str()), ("from", source)];
        let begun = self.begin(&query, &authorizer).await;
        match begun {
            Ok(Begun::Upload(session)) => {
                // It began an upload instead; that is given up, and another begun with the usual authorization.
                self.cancel(&session).await;
                None
            }
            Ok(there) => Some(there),
            Err(error) => {
                tracing::debug!("{} is not mounted from {source}: {error}", self.what());
                None
            }
        }
    }

    async fn cancel(&self, session: &Session) {
        let host = self.host();
        let gone = host.send(Method::DELETE, &session.url, HeaderMap::new(), None, &host.authorizer).await;
        if let Err(error) = gone {
            tracing::debug!("an upload that was not needed is left to expire: {error}");
        }
    }

    async fn begin(
        &self,
        query: &[(&str, &str)],
        authorizer: &crate::images::auth::Authorizer,
    ) -> Result<Begun, PushError> {
        let host = self.host();
        let mut url = host.url(&format!("{}/blobs/uploads/", self.push.remote.repository())).await?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        // An empty body, so that its length is said.
        let empty = self.empty();
        let answer = host.send(Method::POST, &url, HeaderMap::new(), Some(&empty), authorizer).await?;
        match answer.status() {
            StatusCode::CREATED if !query.is_empty() => Ok(Begun::There),
            StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => {
                let least = answer.headers().get("oci-chunk-min-length");
                let least = least.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
                let chunk = CHUNK.max(least.unwrap_or(0)).min(MAX_CHUNK);
                Ok(Begun::Upload(Session { url: self.location(&answer)?, offset: 0, chunk }))
            }
            _ => Err(host.refusal(&self.what(), answer).await.into()),
        }
    }

    fn location(&self, answer: &Response) -> Result<Url, PushError> {
        let text = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        text.and_then(|text| answer.url().join(text).ok())
            .ok_or_else(|| PushError::NoLocation { what: self.what(), host: self.host().name.clone() })
    }

    async fn upload(&self, content: &Content, sent: &Arc<AtomicU64>) -> Result<(), PushError> {
        let mut patience = Patience::new();
        let mut manner = if content.size <= CHUNK { Manner::Resumable } else { Manner::Chunked };
        let (mut session, mut counted) = (None, 0);
        loop {
            let error = match self.attempt(content, sent, &mut session, manner).await {
                Ok(()) => return Ok(()),
                Err(PushError::Fetch(error)) => error,
                Err(error) => return Err(error),
            };
            let begun = session.is_some();
            let in_chunks =
                manner == Manner::Chunked || session.as_ref().is_some_and(|session| session.offset > 0);
            let refused = matches!(&error, FetchError::Status { status: 400 | 405 | 411 | 415 | 501, .. });
            if in_chunks && refused && manner != Manner::Whole {
                tracing::info!("{} takes no chunks ({error}): the blob is sent whole", self.host().name);
                (manner, session) = (Manner::Whole, None);
                continue;
            }
            let forgotten = begun && matches!(&error, FetchError::NotFound { .. });
            let stands = match manner {
                Manner::Whole => {
                    session = None;
                    None
                }
                Manner::Chunked | Manner::Resumable => self.resume(&mut session).await,
            };
            if stands.unwrap_or(0) >= counted + PROGRESS {
                patience.renew();
            }
            counted = stands.unwrap_or(0);
            let error = if forgotten && stands.is_none() {
                // Worth another attempt, other than a repository that is not there.
                let (what, host) = (self.what(), self.host().name.clone());
                FetchError::Short { what, host, got: 0, wanted: content.size }
            } else {
                error
            };
            patience.wait(error).await?;
        }
    }

    // Where the upload stands, asked of the registry. `None`: it must be begun anew.
    async fn resume(&self, session: &mut Option<Session>) -> Option<u64> {
        let current = session.as_mut()?;
        let host = self.host();
        let answer = host.send(Method::GET, &current.url, HeaderMap::new(), None, &host.authorizer).await;
        let stands = match answer {
            Ok(answer) if answer.status().is_success() => {
                if let Ok(url) = self.location(&answer) {
                    current.url = url;
                }
                offset_of(&answer).or(Some(0))
            }
            _ => None,
        };
        match stands {
            Some(offset) if offset <= self.descriptor().size => {
                current.offset = offset;
                Some(offset)
            }
            _ => {
                *session = None;
                None
            }
        }
    }

    async fn attempt(
        &self,
        content: &Content,
        sent: &Arc<AtomicU64>,
        slot: &mut Option<Session>,
        manner: Manner,
    ) -> Result<(), PushError> {
        if slot.is_none() {
            match self.begin(&[], &self.host().authorizer).await? {
                Begun::There => return Ok(()),
                Begun::Upload(session) => *slot = Some(session),
            }
        }
        let Some(session) = slot else { return Ok(()) };
        let size = content.size;
        // What is left of a broken upload goes in a chunk, whatever the manner.
        while session.offset < size && (manner == Manner::Chunked || session.offset > 0) {
            let end = size.min(session.offset.saturating_add(session.chunk));
            self.chunk(content, sent, session, end).await?;
        }
        let mut url = session.url.clone();
        url.query_pairs_mut().append_pair("digest", self.descriptor().digest.as_str());
        let upload = body(content, session.offset, size, sent);
        let headers = octets();
        let host = self.host();
        let answer = host.send(Method::PUT, &url, headers, Some(&upload), &host.authorizer).await?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(host.refusal(&self.what(), answer).await.into())
    }

    async fn chunk(
        &self,
        content: &Content,
        sent: &Arc<AtomicU64>,
        session: &mut Session,
        end: u64,
    ) -> Result<(), PushError> {
        let mut headers = octets();
        let range = format!("{}-{}", session.offset, end - 1);
        if let Ok(value) = HeaderValue::from_str(&range) {
            headers.insert(CONTENT_RANGE, value);
        }
        let upload = body(content, session.offset, end, sent);
        let host = self.host();
        let answer = host.send(Method::PATCH, &session.url, headers, Some(&upload), &host.authorizer).await?;
        let stands = match answer.status() {
            status if status.is_success() => offset_of(&answer).unwrap_or(end),
            // It has another part than was thought, and says which.
            StatusCode::RANGE_NOT_SATISFIABLE => match offset_of(&answer) {
                Some(offset) if offset != session.offset => offset,
                _ => return Err(host.refusal(&self.what(), answer).await.into()),
            },
            _ => return Err(host.refusal(&self.what(), answer).await.into()),
        };
        if stands > content.size || (answer.status().is_success() && stands <= session.offset) {
            let (what, host) = (self.what(), host.name.clone());
            return Err(PushError::Offset { what, host, got: stands, wanted: content.size });
        }
        if let Ok(url) = self.location(&answer) {
            session.url = url;
        }
        session.offset = stands;
        Ok(())
    }

    fn empty(&self) -> Upload<'static> {
        Upload { length: 0, body: Box::new(|| Bytes::new().into()), sent: Arc::default() }
    }
}

fn octets() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))])
}

// How much the registry has, from `Range: 0-LAST`. It says `0-0` for nothing as well as for one byte.
fn offset_of(answer: &Response) -> Option<u64> {
    let text = answer.headers().get(RANGE)?.to_str().ok()?.trim();
    let (first, last) = text.strip_prefix("bytes=").unwrap_or(text).split_once('-')?;
    let last: u64 = last.parse().ok()?;
    (first == "0").then_some(if last == 0 { 0 } else { last.saturating_add(1) })
}

// The bytes from `start` to `end`, read as they go.
fn body<'a>(content: &'a Content, start: u64, end: u64, sent: &Arc<AtomicU64>) -> Upload<'a> {
    let counter = sent.clone();
    let make = move || {
        // Sent again, it is counted from here.
        counter.store(start, Ordering::Relaxed);
        let state = (content.clone(), start, counter.clone());
        let pieces = stream::unfold(state, move |(content, at, sent)| async move {
            if at >= end {
                return None;
            }
            let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(PIECE);
            let read = content.clone();
            let piece = blocking(move || read.read_at(at, length)).await;
            let count = piece.as_ref().map_or(0, Vec::len) as u64;
            sent.fetch_add(count, Ordering::Relaxed);
            // After an error nothing more is asked for.
            let next = if piece.is_ok() { at + count } else { end };
            Some((piece.map(Bytes::from).map_err(std::io::Error::other), (content, next, sent)))
        });
        reqwest::Body::wrap_stream(pieces)
    };
    Upload { length: end - start, body: Box::new(make), sent: sent.clone() }
}
