//! HTTP to registries: which scheme a host may be spoken to with, which certificates count, where a redirect may lead.
//!
//! What always holds: plain http goes to loopback addresses and hosts configured as insecure, to nobody else; an
//! `Authorization` header, and what else a client wants said to a registry, goes to the origin it was made for and is dropped by
//! a redirect to any other; silence is bounded, in both directions.

#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LOCATION, RANGE,
};
use http::{Method, StatusCode};
use reqwest::{Certificate, Client, ClientBuilder, Identity, Response, Url};

use super::error::FetchError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_REDIRECTS: usize = 5;
/// Longer silence in an answer's headers or body ends the attempt.
pub const STALL: Duration = Duration::from_secs(30);
/// A registry may take this long to answer after the last byte of a body: it hashes and stores what it got.
const DIGESTING: Duration = Duration::from_secs(300);
const IDLE: Duration = Duration::from_secs(10);
/// What is said to whoever a request was redirected to; all else was meant for the registry.
const PUBLIC: [http::header::HeaderName; 6] =
    [ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE];

/// How a host is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// https with a certificate that the system or a configured authority vouches for.
    Verified,
    /// A loopback address: http, or https with any certificate.
    Loopback,
    /// Configured as insecure: https with any certificate, or http.
    Insecure,
}

/// How connections are made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// `host[:port]` that may be spoken to over http, or https with a certificate that nobody vouches for.
    pub insecure: Vec<String>,
    /// `host[:port]` whose certificate counts although the address is a loopback one.
    pub strict: Vec<String>,
    /// Authorities besides the system's, PEM.
    pub ca_files: Vec<PathBuf>,
    /// A certificate to show, with its key in the same or in another file, PEM.
    pub identity: Option<(PathBuf, Option<PathBuf>)>,
    pub connect_timeout: Option<Duration>,
}

/// A body that can be sent more than once.
pub struct Upload<'a> {
    pub length: u64,
    pub body: Box<dyn Fn() -> reqwest::Body + Send + Sync + 'a>,
    /// Counts what was handed to the connection.
    pub sent: Arc<AtomicU64>,
}

/// Clients for the three kinds of trust, made when first needed.
pub struct Http {
    tls: Tls,
    verified: OnceLock<Client>,
    loopback: OnceLock<Client>,
    unverified: OnceLock<Client>,
}

impl Http {
    pub fn new(insecure: Vec<String>, ca_files: Vec<PathBuf>) -> Arc<Http> {
        Http::with(Tls { insecure, ca_files, ..Tls::default() })
    }

    pub fn with(tls: Tls) -> Arc<Http> {
        // The first to ask decides for the process; that one is there already is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (verified, loopback, unverified) = Default::default();
        Arc::new(Http { tls, verified, loopback, unverified })
    }

    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Of a host as it stands in references: `host[:port]`.
    pub fn trust(&self, host: &str) -> Trust {
        if self.tls.insecure.iter().any(|insecure| insecure == host) {
            Trust::Insecure
        } else if self.tls.strict.iter().any(|strict| strict == host) {
            Trust::Verified
        } else if is_loopback(host) {
            Trust::Loopback
        } else {
            Trust::Verified
        }
    }

    fn trust_of(&self, url: &Url) -> Trust {
        let host = url.host_str().unwrap_or_default();
        match url.port() {
            Some(port) => self.trust(&format!("{host}:{port}")),
            None => self.trust(host),
        }
    }

    /// Refuses a URL that may not be spoken to.
    pub fn check(&self, url: &Url) -> Result<(), FetchError> {
        match url.scheme() {
            "https" => Ok(()),
            "http" if self.trust_of(url) != Trust::Verified => Ok(()),
            _ => Err(FetchError::Scheme { url: shown(url) }),
        }
    }

    fn client(&self, trust: Trust) -> Result<&Client, FetchError> {
        let cell = match trust {
            Trust::Verified => &self.verified,
            Trust::Loopback => &self.loopback,
            Trust::Insecure => &self.unverified,
        };
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        let client = self.build(trust)?;
        Ok(cell.get_or_init(|| client))
    }

    fn build(&self, trust: Trust) -> Result<Client, FetchError> {
        let builder = ClientBuilder::new()
            .user_agent(concat!("longshore/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(self.tls.connect_timeout.unwrap_or(CONNECT_TIMEOUT))
            .pool_idle_timeout(IDLE)
            .http1_only();
        let builder = match self.identity()? {
            Some(identity) => builder.identity(identity),
            None => builder,
        };
        let builder = match trust {
            // A proxy cannot reach this host's own loopback.
            Trust::Verified if self.tls.strict.iter().any(|strict| is_loopback(strict)) => {
                builder.no_proxy().tls_certs_merge(self.certificates()?)
            }
            Trust::Verified => builder.tls_certs_merge(self.certificates()?),
            Trust::Loopback => builder.no_proxy().tls_danger_accept_invalid_certs(true),
            Trust::Insecure => builder.tls_danger_accept_invalid_certs(true),
        };
        builder.build().map_err(|source| FetchError::Client { why: causes(&source) })
    }

    fn certificates(&self) -> Result<Vec<Certificate>, FetchError> {
        let mut certificates = Vec::new();
        for path in &self.tls.ca_files {
            let failed = |why| FetchError::CaFile { path: path.clone(), why };
            let pem = std::fs::read(path).map_err(|source| failed(source.to_string()))?;
            certificates
                .extend(Certificate::from_pem_bundle(&pem).map_err(|source| failed(causes(&source)))?);
        }
        Ok(certificates)
    }

    fn identity(&self) -> Result<Option<Identity>, FetchError> {
        let Some((certificate, key)) = &self.tls.identity else { return Ok(None) };
        let mut pem = Vec::new();
        for path in std::iter::once(certificate).chain(key) {
            let failed =
                |source: std::io::Error| FetchError::CaFile { path: path.clone(), why: source.to_string() };
            pem.extend(std::fs::read(path).map_err(failed)?);
            pem.push(b'\n');
        }
        let failed = |source| FetchError::CaFile { path: certificate.clone(), why: causes(&source) };
        Identity::from_pem(&pem).map(Some).map_err(failed)
    }

    /// Sends a request without a body and follows redirects. The answer's headers have arrived when this returns.
    pub async fn get(&self, method: Method, url: &Url, headers: HeaderMap) -> Result<Response, FetchError> {
        self.send(method, url, headers, None).await
    }

    /// Sends a request and follows redirects, the body being sent again.
    pub async fn send(
        &self,
        method: Method,
        url: &Url,
        mut headers: HeaderMap,
        upload: Option<&Upload<'_>>,
    ) -> Result<Response, FetchError> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            self.check(&url)?;
            let client = self.client(self.trust_of(&url))?;
            let request = client.request(method.clone(), url.clone()).headers(headers.clone());
            let answer = match upload {
                None => answer(&url, request.send()).await?,
                Some(upload) => {
                    let request = request.header(CONTENT_LENGTH, upload.length).body((upload.body)());
                    watched(&url, request.send(), upload).await?
                }
            };
            let Some(next) = redirect(&url, &answer)? else { return Ok(answer) };
            if next.origin() != url.origin() {
                headers = PUBLIC
                    .iter()
                    .filter_map(|name| Some((name.clone(), headers.get(name)?.clone())))
                    .collect();
            }
            url = next;
        }
        Err(FetchError::Redirects { url: shown(&url) })
    }

    /// Posts a form, to a token server. Redirects are not followed.
    pub async fn post_form(&self, url: &Url, body: String) -> Result<Response, FetchError> {
        self.check(url)?;
        let request = self.client(self.trust_of(url))?.post(url.clone());
        let form = "application/x-www-form-urlencoded";
        answer(url, request.header(http::header::CONTENT_TYPE, form).body(body).send()).await
    }
}

async fn answer(
    url: &Url,
    send: impl Future<Output = reqwest::Result<Response>>,
) -> Result<Response, FetchError> {
    match tokio::time::timeout(STALL, send).await {
        Ok(answer) => answer.map_err(|source| transport(url, &source)),
        Err(_) => Err(FetchError::Stalled { url: shown(url), seconds: STALL.as_secs() }),
    }
}

// A body may take as long as it needs, as long as it moves.
async fn watched(
    url: &Url,
    send: impl Future<Output = reqwest::Result<Response>>,
    upload: &Upload<'_>,
) -> Result<Response, FetchError> {
    tokio::pin!(send);
    let mut seen = upload.sent.load(Ordering::Relaxed);
    let whole = seen.saturating_add(upload.length);
    loop {
        let patience = if upload.length > 0 && seen >= whole { DIGESTING } else { STALL };
        match tokio::time::timeout(patience, &mut send).await {
            Ok(answer) => return answer.map_err(|source| transport(url, &source)),
            Err(_) => {
                let sent = upload.sent.load(Ordering::Relaxed);
                if sent == seen {
                    return Err(FetchError::Stalled { url: shown(url), seconds: patience.as_secs() });
                }
                seen = sent;
            }
        }
    }
}

fn redirect(url: &Url, answer: &Response) -> Result<Option<Url>, FetchError> {
    match answer.status() {
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::FOUND
        | StatusCode::SEE_OTHER
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => {}
        _ => return Ok(None),
    }
    let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    match location.and_then(|location| url.join(location).ok()) {
        Some(next) => Ok(Some(next)),
        None => Err(FetchError::Redirects { url: shown(url) }),
    }
}

/// The next piece of a body, with a bound on silence.
pub async fn next_chunk(answer: &mut Response) -> Result<Option<bytes::Bytes>, FetchError> {
    match tokio::time::timeout(STALL, answer.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(source)) => Err(transport(answer.url(), &source)),
        Err(_) => Err(FetchError::Stalled { url: shown(answer.url()), seconds: STALL.as_secs() }),
    }
}

/// Reads a body that must not be longer than `limit`.
pub async fn read_body(mut answer: Response, limit: usize, what: &str) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    while let Some(chunk) = next_chunk(&mut answer).await? {
        if body.len() + chunk.len() > limit {
            return Err(FetchError::TooLong { what: what.to_owned(), limit: limit as u64 });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn transport(url: &Url, source: &reqwest::Error) -> FetchError {
    FetchError::Transport { url: shown(url), why: causes(source) }
}

// An error of the HTTP client says what happened only in its causes; its URL is left out, as it may carry a signature.
fn causes(error: &reqwest::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        cause = inner.source();
    }
    if texts.is_empty() { "the request failed".to_owned() } else { texts.join(": ") }
}

/// A URL for messages: signatures in queries and credentials are left out.
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.to_string()
}

fn is_loopback(host: &str) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_and_insecure_hosts() {
        let http = Http::new(vec!["registry.lan:5000".to_owned()], Vec::new());
        let check = |url: &str| http.check(&Url::parse(url).unwrap()).is_ok();
        for good in [
            "http://127.0.0.1:5000/v2/",
            "http://127.8.9.1/v2/",
            "http://[::1]:5000/v2/",
            "http://localhost/v2/",
            "http://registry.lan:5000/v2/",
            "https://anywhere.example/v2/",
        ] {
            assert!(check(good), "{good}");
        }
        for bad in [
            "http://registry.lan/v2/",
            "http://10.0.0.1/",
            "http://localhost.example/",
            "ftp://localhost/",
            "http://127.0.0.1.example/",
        ] {
            assert!(!check(bad), "{bad}");
        }
    }

    #[test]
    fn shown_urls_keep_no_secrets() {
        let url = Url::parse("https://user:pass@cdn.example/blob?X-Signature=abc#x").unwrap();
        assert_eq!(shown(&url), "https://cdn.example/blob");
    }
}
