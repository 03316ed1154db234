//! A repository in a registry: manifests and blobs, by whichever of its hosts answers.
//!
//! What always holds: bodies are bounded, silence is bounded, the number of attempts and the time spent waiting are bounded;
//! credentials go to the host they belong to. What is returned as a manifest has the digest that was asked for.

#![forbid(unsafe_code)]

pub mod blob;
pub mod error;
pub mod feed;
pub mod host;
pub mod http;
pub mod response;
pub mod retry;
mod tags;

use std::sync::Arc;

use ::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use bytes::Bytes;

use self::error::FetchError;
use self::host::{Access, Host, HostSpec, Scheme, registry_address};
use self::http::{Http, read_body};
use self::retry::Patience;
use super::auth::{Credentials, Secret};
use super::hosts::{self, HostConfig};
use super::reference::Reference;
use crate::config::Registry as RegistryConfig;
use crate::content::{Digest, Hasher};

/// Of a manifest or an index, in bytes; what registries accept at most.
pub const MAX_MANIFEST: usize = 4 << 20;
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

/// A manifest as it came.
#[derive(Debug, Clone)]
pub struct FetchedManifest {
    pub bytes: Bytes,
    pub digest: Digest,
    /// Of the answer's header; may be empty.
    pub media_type: String,
    /// The host that sent it, or one that hands out blobs; they are asked for there first.
    pub host: usize,
}

/// The hosts of one repository: mirrors in order, then the registry itself.
pub struct Remote {
    hosts: Vec<Host>,
    repository: String,
}

/// What is to be done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Pull,
    Push,
}

impl Remote {
    /// `credentials` are for the registry itself; mirrors get what the configuration has for them.
    pub async fn new(
        http: &Arc<Http>,
        config: &RegistryConfig,
        reference: &Reference,
        credentials: Option<Credentials>,
    ) -> Result<Remote, FetchError> {
        Remote::open(http, config, reference, credentials, Purpose::Pull, &Access::default()).await
    }

    /// As [`Remote::new`], with what a client asks for. To push there is one host, and no mirror.
    pub async fn open(
        http: &Arc<Http>,
        config: &RegistryConfig,
        reference: &Reference,
        credentials: Option<Credentials>,
        purpose: Purpose,
        access: &Access,
    ) -> Result<Remote, FetchError> {
        let configured = |host: &str| {
            let auth = config.auth.get(host)?;
            Credentials::from_parts(&auth.username, &auth.password, &auth.identity_token)
        };
        let registry = reference.registry();
        let repository = reference.repository();
        let secret = |host: &str, given: Option<&Credentials>| match (given, &access.helper) {
            (Some(given), _) => Secret::Known(Some(given.clone())),
            (None, Some(helper)) => Secret::Asked(helper.clone()),
            (None, None) => Secret::Known(configured(host)),
        };
        let scopes = || match purpose {
            Purpose::Pull => Vec::new(),
            Purpose::Push => vec![format!("repository:{repository}:pull,push")],
        };
        let listed = match &access.hosts {
            Some(listed) => Some(listed.clone()),
            None => hosts::find(&config.config_path, registry).await?,
        };
        let mut hosts = Vec::new();
        let own = configured(registry);
        let given = credentials.as_ref().or(if access.helper.is_none() { own.as_ref() } else { None });
        let address = registry_address(registry);
        if let Some(listed) = &listed {
            let usable = |host: &&HostConfig| match purpose {
                Purpose::Pull => host.pull || host.resolve,
                Purpose::Push => host.push,
            };
            for host in listed.iter().filter(usable) {
                let (scheme, name) = match &host.server {
                    Some((scheme, name)) => (Some(*scheme), name.as_str()),
                    None => (access.scheme, address),
                };
                let secret = secret(name, if name == address { given } else { None });
                let spec = HostSpec { address: name, scheme, repository, scopes: scopes(), secret };
                hosts.push(Host::configured(http, host, registry, spec, access)?);
            }
        } else {
            let mirrors = config.mirrors.get(registry).filter(|_| purpose == Purpose::Pull);
            for mirror in mirrors.into_iter().flatten() {
                let (scheme, name) = match mirror.trim_end_matches('/').split_once("://") {
                    Some(("http", name)) => (Some(Scheme::Http), name),
                    Some((_, name)) => (Some(Scheme::Https), name),
                    None => (None, mirror.as_str()),
                };
                let secret = Secret::Known(configured(name));
                let spec = HostSpec { address: name, scheme, repository, scopes: scopes(), secret };
                // What a client says to the registry is not for the mirror.
                hosts.push(Host::new(http, spec, &Access { log: access.log.clone(), ..Access::default() })?);
            }
            let (scheme, secret) = (access.scheme, secret(address, given));
            let spec = HostSpec { address, scheme, repository, scopes: scopes(), secret };
            hosts.push(Host::new(http, spec, access)?);
        }
        if purpose == Purpose::Push {
            hosts.truncate(1);
        }
        if hosts.is_empty() {
            return Err(FetchError::NoHost { registry: registry.to_owned() });
        }
        Ok(Remote { hosts, repository: repository.to_owned() })
    }

    /// The repository's path.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The registry itself, or the last that stands for it.
    pub fn origin(&self) -> Option<&Host> {
        self.hosts.last()
    }

    /// The tags of the repository, of the first host that knows them; in the order of the answer.
    pub async fn tags(&self) -> Result<Vec<String>, FetchError> {
        let mut first = None;
        for (index, host) in self.hosts.iter().enumerate().filter(|(_, host)| host.resolves) {
            let last = index + 1 == self.hosts.len();
            let mut patience = if last { Patience::new() } else { Patience::none() };
            loop {
                let error = match tags::all(host, &self.repository).await {
                    Ok(tags) => return Ok(tags),
                    Err(error) => error,
                };
                if let Err(error) = patience.wait(error).await {
                    first = Some(error);
                    break;
                }
            }
        }
        Err(first.unwrap_or_else(|| FetchError::Address { text: self.repository.clone() }))
    }

    /// The host that is pushed to.
    pub fn target(&self) -> &Host {
        &self.hosts[0]
    }

    /// The hosts besides this one that hand out blobs, in the order in which they are asked.
    pub fn others(&self, host: usize) -> Vec<usize> {
        let round = (host + 1..self.hosts.len()).chain(0..host);
        round.filter(|at| self.hosts[*at].pulls).collect()
    }

    /// For messages.
    pub fn host_name(&self, host: usize) -> String {
        self.hosts[host].name.clone()
    }

    /// Fetches a manifest or index by tag or digest. A digest is verified; so is what the registry says the digest of a tag is.
    pub async fn manifest(&self, object: &str, what: &str) -> Result<FetchedManifest, FetchError> {
        let mut first = None;
        let by_digest = object.contains(':');
        for (index, host) in self.hosts.iter().enumerate() {
            if !(host.resolves || by_digest && host.pulls) {
                continue;
            }
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
        let path = format!("{}/blobs/{digest}", self.repository);
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
        let path = format!("{}/manifests/{object}", self.repository);
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
        let pulls = |at: &usize| self.hosts[*at].pulls;
        // One before it that was not asked, since it hands out blobs alone, comes first; those that were asked have failed.
        let asked = |at: &usize| self.hosts[*at].resolves || object.contains(':') && self.hosts[*at].pulls;
        let unasked = (0..index).filter(|at| !asked(at)).find(pulls);
        let next = || (index..self.hosts.len()).chain(0..index).find(pulls);
        let host = unasked.or_else(next).unwrap_or(index);
        Ok(FetchedManifest { bytes, digest, media_type, host })
    }
}
