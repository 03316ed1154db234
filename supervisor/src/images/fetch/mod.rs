//! A repository in a registry: manifests and blobs, by whichever of its hosts answers.
//!
//! What always holds: bodies are bounded, silence is bounded, the number of attempts and the time spent waiting are bounded;
//! credentials go to the host they belong to. What is returned as a manifest has the digest that was asked for.

#![forbid(unsafe_code)]

pub mod blob;
pub mod error;
pub mod feed;
pub mod http;
pub mod response;
pub mod retry;

use std::sync::Arc;
use std::time::Duration;

use ::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use ::http::{Method, StatusCode};
use bytes::Bytes;
use reqwest::{Response, Url};
use tokio::sync::OnceCell;

use self::error::FetchError;
use self::http::{Http, Trust, read_body};
use self::retry::Patience;
use super::auth::{Authorizer, Credentials};
use super::reference::Reference;
use crate::config::Registry as RegistryConfig;
use crate::content::{Digest, Hasher};

/// Of a manifest or an index, in bytes; what registries accept at most.
pub const MAX_MANIFEST: usize = 4 << 20;
const MAX_ERROR_BODY: usize = 64 * 1024;
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

/// A manifest as it came.
#[derive(Debug, Clone)]
pub struct FetchedManifest {
    pub bytes: Bytes,
    pub digest: Digest,
    /// Of the answer's header; may be empty.
    pub media_type: String,
    /// The host that sent it; blobs are asked for there first.
    pub host: usize,
}

/// The hosts of one repository: mirrors in order, then the registry itself.
pub struct Remote {
    hosts: Vec<Host>,
    repository: String,
}

struct Host {
    http: Arc<Http>,
    /// As in messages.
    name: String,
    /// Schemes to try, and then the one that works.
    candidates: Vec<Url>,
    base: OnceCell<Url>,
    authorizer: Authorizer,
}

impl Remote {
    /// `credentials` are for the registry itself; mirrors get what the configuration has for them.
    pub fn new(
        http: &Arc<Http>,
        config: &RegistryConfig,
        reference: &Reference,
        credentials: Option<Credentials>,
    ) -> Result<Remote, FetchError> {
        let configured = |host: &str| {
            let auth = config.auth.get(host)?;
            Credentials::from_parts(&auth.username, &auth.password, &auth.identity_token)
        };
        let registry = reference.registry();
        let mut hosts = Vec::new();
        for mirror in config.mirrors.get(registry).into_iter().flatten() {
            let (scheme, host) = match mirror.trim_end_matches('/').split_once("://") {
                Some((scheme, host)) => (Some(scheme), host),
                None => (None, mirror.as_str()),
            };
            hosts.push(Host::new(http, host, scheme, reference.repository(), configured(host))?);
        }
        let address = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let credentials = credentials.or_else(|| configured(registry));
        hosts.push(Host::new(http, address, None, reference.repository(), credentials)?);
        Ok(Remote { hosts, repository: reference.repository().to_owned() })
    }

    pub fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// For messages.
    pub fn host_name(&self, host: usize) -> String {
        self.hosts[host].name.clone()
    }

    /// Fetches a manifest or index by tag or digest. A digest is verified; so is what the registry says the digest of a tag is.
    pub async fn manifest(&self, object: &str, what: &str) -> Result<FetchedManifest, FetchError> {
        let mut first = None;
        for (index, host) in self.hosts.iter().enumerate() {
            // A mirror that cannot help now is not waited for.
            let mut patience = if index + 1 < self.hosts.len() { Patience::none() } else { Patience::new() };
            loop {
                let error = match self.manifest_from(host, index, object, what).await {
                    Ok(manifest) => return Ok(manifest),
                    Err(error) => error,
                };
                if let Err(error) = patience.wait(error).await {
                    if index + 1 < self.hosts.len() {
                        tracing::info!("mirror {} is passed over: {error}", host.name);
                    }
                    first = Some(error);
                    break;
                }
            }
        }
        Err(first.unwrap_or_else(|| FetchError::Address { text: self.repository.clone() }))
    }

    /// Fetches a blob of a known small size; its digest is the caller's to verify.
    pub async fn small_blob(&self, host: usize, digest: &Digest, size: u64) -> Result<Bytes, FetchError> {
        let what = format!("blob {digest}");
        let path = format!("v2/{}/blobs/{digest}", self.repository);
        let answer = self.hosts[host].request(&what, &path, HeaderMap::new()).await?;
        let limit = usize::try_from(size).unwrap_or(usize::MAX);
        let body = read_body(answer, limit, &what).await?;
        if body.len() < limit {
            let host = self.hosts[host].name.clone();
            return Err(FetchError::Short { what, host, got: body.len() as u64, wanted: size });
        }
        Ok(body.into())
    }

    async fn manifest_from(
        &self,
        host: &Host,
        index: usize,
        object: &str,
        what: &str,
    ) -> Result<FetchedManifest, FetchError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(MANIFESTS));
        let path = format!("v2/{}/manifests/{object}", self.repository);
        let answer = host.request(what, &path, headers).await?;
        let header = |name: &str| {
            answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let media_type =
            header(CONTENT_TYPE.as_str()).split(';').next().unwrap_or_default().trim().to_owned();
        let claimed = header("docker-content-digest");
        let bytes = Bytes::from(read_body(answer, MAX_MANIFEST, &format!("the manifest of {what}")).await?);
        let expected = if object.contains(':') { object } else { claimed.as_str() };
        let digest = match Digest::parse(expected) {
            Ok(expected) => {
                let mut hasher = Hasher::new(expected.algorithm());
                hasher.update(&bytes);
                let digest = hasher.digest();
                if digest != expected {
                    let got = digest.to_string();
                    return Err(FetchError::Digest {
                        what: format!("manifest {expected}"),
                        host: host.name.clone(),
                        got,
                    });
                }
                digest
            }
            Err(_) => Digest::of(&bytes),
        };
        Ok(FetchedManifest { bytes, digest, media_type, host: index })
    }
}

impl Host {
    fn new(
        http: &Arc<Http>,
        host: &str,
        scheme: Option<&str>,
        repository: &str,
        credentials: Option<Credentials>,
    ) -> Result<Host, FetchError> {
        let schemes: &[&str] = match (scheme, http.trust(host)) {
            (Some("http"), _) => &["http"],
            (Some(_), _) | (None, Trust::Verified) => &["https"],
            (None, Trust::Loopback) => &["http", "https"],
            // Nothing secret is said in plain to a host that can do better.
            (None, Trust::Insecure) => &["https", "http"],
        };
        let parse = |scheme: &&str| {
            Url::parse(&format!("{scheme}://{host}/"))
                .map_err(|_| FetchError::Address { text: host.to_owned() })
        };
        let candidates: Vec<Url> = schemes.iter().map(parse).collect::<Result<_, _>>()?;
        let authorizer = Authorizer::new(http.clone(), host, repository, credentials);
        Ok(Host { http: http.clone(), name: host.to_owned(), candidates, base: OnceCell::new(), authorizer })
    }

    // Where there is a choice of schemes, the first that answers.
    async fn base(&self) -> Result<&Url, FetchError> {
        self.base.get_or_try_init(|| self.probe()).await
    }

    async fn probe(&self) -> Result<Url, FetchError> {
        let mut first = None;
        for candidate in &self.candidates {
            if self.candidates.len() == 1 {
                return Ok(candidate.clone());
            }
            let url = join(candidate, "v2/")?;
            match self.http.get(Method::GET, &url, HeaderMap::new()).await {
                // What a TLS server says to one who speaks http.
                Ok(answer) if answer.status() == StatusCode::BAD_REQUEST && candidate.scheme() == "http" => {}
                Ok(_) => return Ok(candidate.clone()),
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
        match first {
            Some(error) => Err(error),
            None => Ok(self.candidates[0].clone()),
        }
    }

    /// One GET, authorized; anything but success is an error. `what` is for messages.
    async fn request(&self, what: &str, path: &str, headers: HeaderMap) -> Result<Response, FetchError> {
        let url = join(self.base().await?, path)?;
        // Without authorization, with what is known, and with a new token after that has expired.
        let mut attempts = 3;
        loop {
            let mut headers = headers.clone();
            let sent = self.authorizer.authorize(&mut headers).await;
            let answer = self.http.get(Method::GET, &url, headers).await?;
            attempts -= 1;
            // A host that was redirected to has no business with our credentials.
            let ours = answer.url().origin() == url.origin();
            if answer.status() == StatusCode::UNAUTHORIZED && ours && attempts > 0 {
                let refused = answer.headers().clone();
                if self.authorizer.refresh(&sent, &refused).await? {
                    continue;
                }
            }
            if answer.status().is_success() {
                return Ok(answer);
            }
            return Err(self.refusal(what, answer).await);
        }
    }

    async fn refusal(&self, what: &str, answer: Response) -> FetchError {
        let status = answer.status();
        let host = answer.url().host_str().map_or_else(
            || self.name.clone(),
            |host| match answer.url().port() {
                Some(port) => format!("{host}:{port}"),
                None => host.to_owned(),
            },
        );
        let wait = response::retry_after(answer.headers()).unwrap_or(Duration::from_secs(5));
        let limit = response::rate_limit(answer.headers());
        let body = read_body(answer, MAX_ERROR_BODY, "the error").await.unwrap_or_default();
        let (what, detail) = (what.to_owned(), response::detail(&body));
        match status {
            StatusCode::UNAUTHORIZED => FetchError::Unauthorized { what, host, detail },
            StatusCode::FORBIDDEN => FetchError::Denied { what, host, detail },
            StatusCode::NOT_FOUND => FetchError::NotFound { what, detail },
            StatusCode::TOO_MANY_REQUESTS => FetchError::RateLimited {
                what,
                host,
                limit,
                wait: wait.as_secs(),
                budget: retry::BUDGET.as_secs(),
                detail,
            },
            status => FetchError::Status { what, host, status: status.as_u16(), detail },
        }
    }
}

fn join(base: &Url, path: &str) -> Result<Url, FetchError> {
    base.join(path).map_err(|_| FetchError::Address { text: path.to_owned() })
}
