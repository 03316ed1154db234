//! A registry in this process, on loopback: the distribution specification's pull side and single-request
//! and chunked uploads, with faults that strike where a test says.
//!
//! Every request is recorded, so that a test can say what was fetched, and how often.

mod faults;
mod serve;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use serde_json::json;

pub use faults::{Fault, Rule};

use crate::image::{self, Flavour, Image};

/// Who may read.
#[derive(Clone, Debug, Default)]
pub enum Access {
    #[default]
    Anonymous,
    /// HTTP basic authentication.
    Basic { user: String, password: String },
    /// Bearer tokens, given out at `/token` against basic authentication (or to anyone, without a user).
    Bearer { user: Option<(String, String)> },
}

#[derive(Default)]
struct State {
    access: Access,
    blobs: HashMap<String, Bytes>,
    /// (repository, tag or digest) → media type and body.
    manifests: BTreeMap<(String, String), (String, Bytes)>,
    uploads: HashMap<String, Vec<u8>>,
    begun: u32,
    /// A repository has only what was put into it, uploaded or mounted; manifests must find what they name there.
    strict: bool,
    owned: HashSet<(String, String)>,
    rules: Vec<Rule>,
    requests: Vec<String>,
    tokens: u32,
}

/// A running registry; it stops when it is dropped.
pub struct Registry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Registry {
    /// Listens on a free port of 127.0.0.1.
    pub fn start() -> Result<Registry> {
        Registry::start_on(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub fn start_on(address: SocketAddr) -> Result<Registry> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("registry")
            .enable_all()
            .build()?;
        let state = Arc::new(Mutex::new(State::default()));
        let listener =
            std::net::TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
        listener.set_nonblocking(true)?;
        // Also for tests that run in a runtime of their own.
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let address = listener.local_addr()?;
        runtime.spawn(serve::accept(listener, Arc::clone(&state), address));
        Ok(Registry { address, state, runtime: Some(runtime) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `127.0.0.1:PORT/name:tag`.
    pub fn reference(&self, name_and_tag: &str) -> String {
        format!("{}/{name_and_tag}", self.address)
    }

    pub fn set_access(&self, access: Access) {
        self.state().access = access;
    }

    /// Serves an image as `repository:tag`.
    pub fn put(&self, repository: &str, tag: &str, image: &Image) {
        let mut state = self.state();
        for (digest, blob) in &image.blobs {
            state.blobs.insert(digest.clone(), blob.clone());
            state.owned.insert((repository.to_owned(), digest.clone()));
        }
        drop(state);
        self.put_manifest(repository, tag, image.media_type, image.manifest.clone());
    }

    /// Serves any bytes as a manifest, by tag and by digest.
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, body: Bytes) {
        let mut state = self.state();
        let entry = (media_type.to_owned(), body);
        state.manifests.insert((repository.to_owned(), image::digest(&entry.1)), entry.clone());
        state.manifests.insert((repository.to_owned(), tag.to_owned()), entry);
    }

    /// Serves several platforms' images under one tag. Returns the index's digest.
    pub fn put_index(
        &self,
        repository: &str,
        tag: &str,
        flavour: Flavour,
        images: &[(&str, Option<&str>, &Image)],
    ) -> Result<String> {
        let mut manifests = Vec::new();
        for (architecture, variant, image) in images {
            self.put(repository, &image.digest(), image);
            let mut platform = json!({"os": "linux", "architecture": architecture});
            if let Some(variant) = variant {
                platform["variant"] = json!(variant);
            }
            manifests.push(json!({"mediaType": image.media_type, "digest": image.digest(),
                "size": image.manifest.len(), "platform": platform}));
        }
        let body = serde_json::to_vec(
            &json!({"schemaVersion": 2, "mediaType": flavour.index(), "manifests": manifests}),
        )?;
        let digest = image::digest(&body);
        self.put_manifest(repository, tag, flavour.index(), Bytes::from(body));
        Ok(digest)
    }

    /// Replaces a blob's bytes without changing its name.
    pub fn put_blob(&self, digest: &str, bytes: Bytes) {
        self.state().blobs.insert(digest.to_owned(), bytes);
    }

    /// From now on repositories are apart, and manifests are checked.
    pub fn be_strict(&self) {
        self.state().strict = true;
    }

    /// What a repository has under a tag or digest.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<Bytes> {
        let key = (repository.to_owned(), reference.to_owned());
        self.state().manifests.get(&key).map(|(_, body)| body.clone())
    }

    pub fn blob(&self, digest: &str) -> Option<Bytes> {
        self.state().blobs.get(digest).cloned()
    }

    pub fn fault(&self, path: &str, fault: Fault, times: Option<u32>) {
        self.state().rules.push(Rule { path: path.to_owned(), fault, times });
    }

    pub fn clear_faults(&self) {
        self.state().rules.clear();
    }

    /// All requests so far, as `GET /v2/… [range]`.
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    pub fn forget_requests(&self) {
        self.state().requests.clear();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
