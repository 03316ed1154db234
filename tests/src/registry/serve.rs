//! The HTTP side of the registry.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderMap};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Access, Fault, State};
use crate::image;

type Body = BoxBody<Bytes, std::io::Error>;
type Shared = Arc<Mutex<State>>;

/// Marks an answer that is never sent: the connection is closed.
#[derive(Clone)]
struct HangUp;

/// What stands for a user's password.
const IDENTITY: &str = "identity-of-tests";

/// Bytes sent at a time.
const CHUNK: usize = 64 * 1024;

pub(super) async fn accept(listener: TcpListener, state: Shared, address: SocketAddr) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let state = Arc::clone(&state);
                async move {
                    let answer = answer(&state, address, request).await;
                    match answer.extensions().get::<HangUp>() {
                        None => Ok(answer),
                        Some(HangUp) => Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
                    }
                }
            });
            // A client that goes away in the middle is part of the tests.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

fn respond(status: u16, headers: &[(&str, String)], body: Body) -> Response<Body> {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, value);
    }
    builder.body(body).expect("headers of a test are valid")
}

fn refuse(status: u16, code: &str) -> Response<Body> {
    let body = json!({"errors": [{"code": code, "message": code.to_lowercase().replace('_', " ")}]});
    respond(status, &[("content-type", "application/json".into())], full(body.to_string()))
}

/// The first fault that strikes this path, counted down.
fn strike(state: &Shared, path: &str) -> Option<Fault> {
    let mut state = lock(state);
    let at = state.rules.iter().position(|rule| path.contains(&rule.path) && rule.times != Some(0))?;
    let rule = &mut state.rules[at];
    if let Some(times) = &mut rule.times {
        *times -= 1;
    }
    Some(rule.fault.clone())
}

async fn answer(state: &Shared, address: SocketAddr, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let range = request.headers().get(header::RANGE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let query = request.uri().query().filter(|query| path == "/token" || query.contains("mount="));
    let shown = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    lock(state).requests.push(match &range {
        Some(range) => format!("{} {shown} [{range}]", request.method()),
        None => format!("{} {shown}", request.method()),
    });
    let fault = strike(state, &format!("{} {path}", request.method()));
    match &fault {
        Some(Fault::Status(status)) => {
            // A client that is still sending would not see the answer.
            let _ = take_body(request, &None).await;
            return refuse(*status, "TEST_FAULT");
        }
        Some(Fault::TooMany(after)) => {
            let mut response = refuse(429, "TOOMANYREQUESTS");
            response.headers_mut().insert(header::RETRY_AFTER, (*after).into());
            return response;
        }
        Some(Fault::Stall(time)) => tokio::time::sleep(*time).await,
        _ => {}
    }
    if path == "/token" {
        let offline = request.uri().query().is_some_and(|query| query.contains("offline_token=true"));
        let headers = request.headers().clone();
        let (form, _) = take_body(request, &None).await;
        return token(state, &headers, &String::from_utf8_lossy(&form), offline);
    }
    if let Some(refusal) = authorize(state, address, request.headers()) {
        return refusal;
    }
    if path == "/v2/" || path == "/v2" {
        return respond(200, &[("content-type", "application/json".into())], full("{}"));
    }
    let Some(rest) = path.strip_prefix("/v2/") else { return refuse(404, "NOT_FOUND") };
    let head = request.method() == Method::HEAD;
    if let Some((_, upload)) = rest.split_once("/blobs/uploads/") {
        return upload_blob(state, rest, upload.to_owned(), request, fault).await;
    }
    if let Some(repository) = rest.strip_suffix("/tags/list") {
        let tags = lock(state).tags(repository);
        return respond(
            if tags.is_empty() { 404 } else { 200 },
            &[("content-type", "application/json".into())],
            full(json!({"name": repository, "tags": tags}).to_string()),
        );
    }
    if let Some((repository, reference)) = rest.split_once("/manifests/") {
        if request.method() == Method::PUT {
            return put_manifest(state, repository.to_owned(), reference.to_owned(), request).await;
        }
        let found = lock(state).manifests.get(&(repository.to_owned(), reference.to_owned())).cloned();
        return match found {
            Some((media_type, body)) => {
                let digest = image::digest(&body);
                send(body, &media_type, &digest, range.as_deref(), head, fault)
            }
            None => refuse(404, "MANIFEST_UNKNOWN"),
        };
    }
    if let Some((repository, digest)) = rest.split_once("/blobs/") {
        let found = lock(state).find(repository, digest);
        return match found {
            Some(body) => send(body, "application/octet-stream", digest, range.as_deref(), head, fault),
            None => refuse(404, "BLOB_UNKNOWN"),
        };
    }
    refuse(404, "NOT_FOUND")
}

/// `bytes=a-b` or `bytes=a-` within a body of this length.
fn parse_range(range: &str, length: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let first: usize = first.parse().ok()?;
    let last = if last.is_empty() { length.checked_sub(1)? } else { last.parse().ok()? };
    (first <= last && first < length).then(|| (first, last.min(length - 1)))
}

fn send(
    body: Bytes,
    media_type: &str,
    digest: &str,
    range: Option<&str>,
    head: bool,
    fault: Option<Fault>,
) -> Response<Body> {
    let mut headers = vec![
        ("content-type", media_type.to_owned()),
        ("docker-content-digest", digest.to_owned()),
        ("accept-ranges", "bytes".to_owned()),
    ];
    let total = body.len();
    let mut status = 200;
    let mut part = body;
    if let (Some(range), false) = (range, matches!(fault, Some(Fault::IgnoreRange))) {
        let Some((first, last)) = parse_range(range, total) else {
            return refuse(416, "RANGE_INVALID");
        };
        status = 206;
        headers.push(("content-range", format!("bytes {first}-{last}/{total}")));
        part = part.slice(first..=last);
    }
    if !matches!(fault, Some(Fault::Endless)) {
        headers.push(("content-length", part.len().to_string()));
    }
    if head {
        return respond(status, &headers, full(""));
    }
    let body = match fault {
        None => full(part),
        Some(fault) => misbehave(part, fault),
    };
    respond(status, &headers, body)
}

fn misbehave(part: Bytes, fault: Fault) -> Body {
    match fault {
        Fault::Corrupt => full(part.iter().map(|byte| byte ^ 0x5a).collect::<Vec<u8>>()),
        Fault::CutAfter(length) => stream(part.slice(..length.min(part.len())), None, Tail::Break),
        Fault::Endless => stream(part, None, Tail::Endless),
        Fault::Slow(rate) => stream(part, Some(rate), Tail::End),
        _ => full(part),
    }
}

enum Tail {
    End,
    Break,
    Endless,
}

fn stream(part: Bytes, rate: Option<u64>, tail: Tail) -> Body {
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(2);
    tokio::spawn(async move {
        let size = rate.map_or(CHUNK, |rate| (rate as usize / 20).clamp(1, CHUNK));
        let mut rest = part;
        while !rest.is_empty() {
            let piece = rest.split_to(size.min(rest.len()));
            if sender.send(Ok(Frame::data(piece))).await.is_err() {
                return;
            }
            if rate.is_some() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        match tail {
            Tail::End => {}
            Tail::Break => {
                let _ = sender.send(Err(std::io::ErrorKind::ConnectionReset.into())).await;
            }
            Tail::Endless => {
                while sender.send(Ok(Frame::data(Bytes::from_static(&[0; CHUNK])))).await.is_ok() {}
            }
        }
    });
    BodyExt::boxed(StreamBody::new(ReceiverStream::new(receiver)))
}

fn basic(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Basic ").map(str::to_owned)
}

fn encoded(user: &str, password: &str) -> String {
    BASE64_STANDARD.encode(format!("{user}:{password}"))
}

/// Who logs in (`offline`) is given an identity token, too, by which tokens are to be had without the password.
fn token(state: &Shared, headers: &HeaderMap, form: &str, offline: bool) -> Response<Body> {
    let mut state = lock(state);
    let identified = parameter(form, "refresh_token").as_deref() == Some(IDENTITY);
    if let Access::Bearer { user: Some((user, password)) } = &state.access
        && basic(headers) != Some(encoded(user, password))
        && !identified
    {
        return refuse(401, "UNAUTHORIZED");
    }
    state.tokens += 1;
    let token = format!("token-{}", state.tokens);
    let mut body = json!({"token": token, "access_token": token, "expires_in": 300});
    if offline {
        body["refresh_token"] = json!(IDENTITY);
    }
    respond(200, &[("content-type", "application/json".into())], full(body.to_string()))
}

fn authorize(state: &Shared, address: SocketAddr, headers: &HeaderMap) -> Option<Response<Body>> {
    let state = lock(state);
    let challenge = match &state.access {
        Access::Anonymous => return None,
        Access::Basic { user, password } => {
            if basic(headers) == Some(encoded(user, password)) {
                return None;
            }
            "Basic realm=\"tests\"".to_owned()
        }
        Access::Bearer { .. } => {
            let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
            let newest = format!("Bearer token-{}", state.tokens);
            if state.tokens > 0 && given == Some(newest.as_str()) {
                return None;
            }
            format!("Bearer realm=\"http://{address}/token\",service=\"tests\"")
        }
    };
    let mut refusal = refuse(401, "UNAUTHORIZED");
    refusal.headers_mut().insert(header::WWW_AUTHENTICATE, challenge.parse().ok()?);
    Some(refusal)
}

impl State {
    fn owns(&self, repository: &str, digest: &str) -> bool {
        !self.strict || self.owned.contains(&(repository.to_owned(), digest.to_owned()))
    }

    fn tags(&self, repository: &str) -> Vec<String> {
        let named = self.manifests.keys().filter(|(of, name)| of == repository && !name.contains(':'));
        named.map(|(_, tag)| tag.clone()).collect()
    }

    fn find(&self, repository: &str, digest: &str) -> Option<Bytes> {
        self.blobs.get(digest).filter(|_| self.owns(repository, digest)).cloned()
    }

    // What a manifest names must be there.
    fn dangles(&self, repository: &str, body: &[u8]) -> bool {
        let Ok(document) = serde_json::from_slice::<serde_json::Value>(body) else { return true };
        let digest = |entry: &serde_json::Value| entry["digest"].as_str().unwrap_or_default().to_owned();
        let list = |key: &str| document[key].as_array().cloned().unwrap_or_default();
        let manifest =
            |entry: &serde_json::Value| !self.manifests.contains_key(&(repository.to_owned(), digest(entry)));
        let blob = |entry: &serde_json::Value| self.find(repository, &digest(entry)).is_none();
        list("manifests").iter().any(manifest)
            || list("layers").iter().any(blob)
            || !document["config"].is_null() && blob(&document["config"])
    }
}

fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.replace("%3A", ":").replace("%2F", "/"))
}

/// The body, or as much of it as a fault lets through.
async fn take_body(request: Request<Incoming>, fault: &Option<Fault>) -> (Vec<u8>, bool) {
    let limit = match fault {
        Some(Fault::CutUpload(limit)) => *limit,
        _ => usize::MAX,
    };
    let (mut body, mut bytes) = (request.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return (bytes, false) };
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() >= limit {
            bytes.truncate(limit);
            return (bytes, false);
        }
    }
    (bytes, true)
}

async fn upload_blob(
    state: &Shared,
    path: &str,
    upload: String,
    request: Request<Incoming>,
    fault: Option<Fault>,
) -> Response<Body> {
    let method = request.method().clone();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let range = request.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let start = range.and_then(|range| range.split('-').next()?.parse::<usize>().ok());
    let (body, whole) = take_body(request, &fault).await;
    let repository = path.split("/blobs/").next().unwrap_or_default();
    let mut state = lock(state);
    if let (Some(digest), Some(from)) = (parameter(&query, "mount"), parameter(&query, "from"))
        && state.find(&from, &digest).is_some()
    {
        state.owned.insert((repository.to_owned(), digest.clone()));
        let location = format!("/v2/{repository}/blobs/{digest}");
        return respond(201, &[("location", location), ("docker-content-digest", digest)], full(""));
    }
    if matches!(fault, Some(Fault::ForgetUpload)) {
        state.uploads.remove(&upload);
    }
    let id = if upload.is_empty() {
        state.begun += 1;
        let id = format!("upload-{}", state.begun);
        state.uploads.insert(id.clone(), Vec::new());
        id
    } else {
        upload
    };
    let location = format!("/v2/{repository}/blobs/uploads/{id}");
    let Some(so_far) = state.uploads.get_mut(&id) else { return refuse(404, "BLOB_UPLOAD_UNKNOWN") };
    let stands = |length: usize| format!("0-{}", length.saturating_sub(1));
    if let Some(start) = start
        && start != so_far.len()
    {
        let headers = [("location", location), ("range", stands(so_far.len()))];
        return respond(416, &headers, full(""));
    }
    so_far.extend_from_slice(&body);
    let length = so_far.len();
    if !whole {
        let mut cut = respond(500, &[], full(""));
        cut.extensions_mut().insert(HangUp);
        return cut;
    }
    match (method, parameter(&query, "digest")) {
        (Method::PUT, Some(digest)) | (Method::POST, Some(digest)) => {
            let bytes = state.uploads.remove(&id).unwrap_or_default();
            if image::digest(&bytes) != digest {
                return refuse(400, "DIGEST_INVALID");
            }
            state.blobs.insert(digest.clone(), Bytes::from(bytes));
            state.owned.insert((repository.to_owned(), digest.clone()));
            let location = format!("/v2/{repository}/blobs/{digest}");
            respond(201, &[("location", location), ("docker-content-digest", digest)], full(""))
        }
        (Method::POST | Method::PATCH, None) => {
            respond(202, &[("location", location), ("range", stands(length))], full(""))
        }
        (Method::GET, None) => respond(204, &[("location", location), ("range", stands(length))], full("")),
        (Method::DELETE, None) => {
            state.uploads.remove(&id);
            respond(204, &[], full(""))
        }
        _ => refuse(StatusCode::METHOD_NOT_ALLOWED.as_u16(), "UNSUPPORTED"),
    }
}

async fn put_manifest(
    state: &Shared,
    repository: String,
    reference: String,
    request: Request<Incoming>,
) -> Response<Body> {
    let media_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("application/vnd.oci.image.manifest.v1+json")
        .to_owned();
    let Ok(body) = request.into_body().collect().await else { return refuse(400, "MANIFEST_INVALID") };
    let body = body.to_bytes();
    let digest = image::digest(&body);
    let mut state = lock(state);
    if state.strict && state.dangles(&repository, &body) {
        return refuse(404, "MANIFEST_BLOB_UNKNOWN");
    }
    state.manifests.insert((repository.clone(), digest.clone()), (media_type.clone(), body.clone()));
    state.manifests.insert((repository.clone(), reference), (media_type, body));
    let location = format!("/v2/{repository}/manifests/{digest}");
    respond(201, &[("location", location), ("docker-content-digest", digest)], full(""))
}
