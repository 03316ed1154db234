//! One host of a repository: its address, its authorization, and how a request to it is made.
//!
//! What always holds: credentials and a client's own headers are said to this host and to nobody that it names or redirects to;
//! a request is repeated for the sake of authorization at most twice.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::header::HeaderMap;
use ::http::{Method, StatusCode};
use bytes::Bytes;
use reqwest::{Response, Url};
use tokio::sync::{OnceCell, mpsc};

use super::error::FetchError;
use super::http::{Http, Tls, Trust, Upload, read_body, shown};
use super::{response, retry};
use crate::images::auth::{Authorizer, Helper, Secret};
use crate::images::hosts::HostConfig;

const MAX_ERROR_BODY: usize = 64 * 1024;

/// How a client of the daemon wants a registry to be spoken to, beyond the configuration.
#[derive(Clone, Default)]
pub struct Access {
    /// Credentials come from here, before those of the configuration.
    pub helper: Option<Arc<dyn Helper>>,
    /// Said in each request to the registry.
    pub headers: HeaderMap,
    /// Instead of the configuration's mirrors: in the order in which they are asked.
    pub hosts: Option<Vec<HostConfig>>,
    /// `http` or `https`, where the address alone does not decide.
    pub scheme: Option<Scheme>,
    pub log: Option<HttpLog>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

/// Where requests and answers are written down, without what is secret in them.
#[derive(Clone)]
pub struct HttpLog {
    /// Lines; those that find no room are dropped.
    pub lines: mpsc::Sender<Bytes>,
    /// Headers, too.
    pub headers: bool,
}

impl HttpLog {
    fn answered(&self, method: &Method, url: &Url, sent: &HeaderMap, answer: &Response, took: Duration) {
        let mut text = format!("{method} {} -> {} in {} ms\n", shown(url), answer.status(), took.as_millis());
        if self.headers {
            let request = sent.iter().map(|pair| ("> ", pair));
            for (mark, (name, value)) in request.chain(answer.headers().iter().map(|pair| ("< ", pair))) {
                let secret = value.is_sensitive()
                    || matches!(name.as_str(), "authorization" | "set-cookie" | "cookie" | "location");
                let value =
                    if secret { "<not shown>".into() } else { String::from_utf8_lossy(value.as_bytes()) };
                text.push_str(&format!("{mark}{name}: {value}\n"));
            }
        }
        let _ = self.lines.try_send(text.into());
    }
}

/// See the module.
pub struct Host {
    http: Arc<Http>,
    /// As in messages.
    pub name: String,
    /// The folder of the API, between slashes: `/v2/`.
    api: String,
    /// Schemes to try, and then the one that works.
    candidates: Vec<Url>,
    base: OnceCell<Url>,
    pub authorizer: Authorizer,
    headers: HeaderMap,
    /// For a host that stands for another: the other's name.
    stands_for: Option<String>,
    pub resolves: bool,
    pub pulls: bool,
    log: Option<HttpLog>,
}

/// What a host is made from.
pub struct HostSpec<'a> {
    /// `host[:port]`.
    pub address: &'a str,
    pub scheme: Option<Scheme>,
    pub repository: &'a str,
    pub scopes: Vec<String>,
    pub secret: Secret,
}

impl Host {
    pub fn new(http: &Arc<Http>, spec: HostSpec<'_>, access: &Access) -> Result<Host, FetchError> {
        let HostSpec { address, scheme, repository, scopes, secret } = spec;
        // Who asks for plain http to a host by name trusts it.
        let http = match (scheme, http.trust(address)) {
            (Some(Scheme::Http), Trust::Verified) => {
                let mut tls = http.tls().clone();
                tls.insecure.push(address.to_owned());
                &Http::with(tls)
            }
            _ => http,
        };
        let schemes: &[&str] = match (scheme, http.trust(address)) {
            (Some(Scheme::Http), _) => &["http"],
            (Some(Scheme::Https), _) | (None, Trust::Verified) => &["https"],
            (None, Trust::Loopback) => &["http", "https"],
            // Nothing secret is said in plain to a host that can do better.
            (None, Trust::Insecure) => &["https", "http"],
        };
        let parse = |scheme: &&str| {
            Url::parse(&format!("{scheme}://{address}/"))
                .map_err(|_| FetchError::Address { text: address.to_owned() })
        };
        let candidates: Vec<Url> = schemes.iter().map(parse).collect::<Result<_, _>>()?;
        let authorizer = Authorizer::new(http.clone(), address, repository, scopes, secret);
        Ok(Host {
            http: http.clone(),
            name: address.to_owned(),
            api: "/v2/".to_owned(),
            candidates,
            base: OnceCell::new(),
            authorizer,
            headers: access.headers.clone(),
            stands_for: None,
            resolves: true,
            pulls: true,
            log: access.log.clone(),
        })
    }

    /// A host as a hosts directory describes it, for the registry `registry`.
    pub fn configured(
        http: &Arc<Http>,
        config: &HostConfig,
        registry: &str,
        spec: HostSpec<'_>,
        access: &Access,
    ) -> Result<Host, FetchError> {
        let mut tls: Tls = http.tls().clone();
        tls.ca_files.extend(config.ca_files.iter().cloned());
        tls.identity = config.identity.clone().or(tls.identity);
        tls.connect_timeout = config.connect_timeout.or(tls.connect_timeout);
        if config.skip_verify {
            tls.insecure.push(spec.address.to_owned());
        } else if !config.ca_files.is_empty() {
            tls.strict.push(spec.address.to_owned());
        }
        let http = if tls == *http.tls() { http.clone() } else { Http::with(tls) };
        let stands_for = (spec.address != registry_address(registry)).then(|| registry.to_owned());
        let mut host = Host::new(&http, spec, access)?;
        if let Some(api) = &config.api {
            host.api.clone_from(api);
        }
        for (name, value) in &config.headers {
            host.headers.append(name.clone(), value.clone());
        }
        (host.resolves, host.pulls) = (config.resolve, config.pull);
        host.stands_for = stands_for;
        Ok(host)
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
            let url = join(candidate, &self.api)?;
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

    /// The URL of a path below the API's folder.
    pub async fn url(&self, path: &str) -> Result<Url, FetchError> {
        let mut url = join(self.base().await?, &format!("{}{path}", self.api))?;
        if let Some(registry) = &self.stands_for {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        Ok(url)
    }

    /// One GET, authorized; anything but success is an error. `what` is for messages.
    pub async fn request(&self, what: &str, path: &str, headers: HeaderMap) -> Result<Response, FetchError> {
        let url = self.url(path).await?;
        let answer = self.send(Method::GET, &url, headers, None, &self.authorizer).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(self.refusal(what, answer).await)
    }

    /// One request, authorized if it goes to this host; whatever is answered is returned.
    pub async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        upload: Option<&Upload<'_>>,
        authorizer: &Authorizer,
    ) -> Result<Response, FetchError> {
        let here = self.base().await?.origin() == url.origin();
        // Without authorization, with what is known, and with a new token after that has expired.
        let mut attempts = 3;
        loop {
            let mut headers = headers.clone();
            let mut sent = None;
            if here {
                for (name, value) in &self.headers {
                    headers.append(name.clone(), value.clone());
                }
                sent = Some(authorizer.authorize(&mut headers).await);
            }
            let begun = Instant::now();
            let answer = self.http.send(method.clone(), url, headers.clone(), upload).await?;
            if let Some(log) = &self.log {
                log.answered(&method, url, &headers, &answer, begun.elapsed());
            }
            attempts -= 1;
            // A host that was redirected to has no business with our credentials.
            let ours = answer.url().origin() == url.origin();
            if let Some(sent) = sent
                && answer.status() == StatusCode::UNAUTHORIZED
                && ours
                && attempts > 0
            {
                let refused = answer.headers().clone();
                if authorizer.refresh(&sent, &refused).await? {
                    continue;
                }
            }
            return Ok(answer);
        }
    }

    /// An answer that is no success, as an error.
    pub async fn refusal(&self, what: &str, answer: Response) -> FetchError {
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

/// Where a registry is to be reached.
pub fn registry_address(registry: &str) -> &str {
    if registry == "docker.io" { "registry-1.docker.io" } else { registry }
}

fn join(base: &Url, path: &str) -> Result<Url, FetchError> {
    base.join(path).map_err(|_| FetchError::Address { text: path.to_owned() })
}
