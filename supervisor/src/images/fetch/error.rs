//! What goes wrong between us and a registry, each as its own case.

#![forbid(unsafe_code)]

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(
        "{url}: plain http is only spoken to loopback addresses and to hosts in the configuration's `registry.insecure`"
    )]
    Scheme { url: String },
    #[error("{url}: redirected too often or to nowhere")]
    Redirects { url: String },
    #[error("cannot reach {url}: {why}")]
    Transport { url: String, why: String },
    #[error("{url}: no data for {seconds} s")]
    Stalled { url: String, seconds: u64 },
    #[error("cannot set up TLS: {why}")]
    Client { why: String },
    #[error("certificates of {}: {why}", path.display())]
    CaFile { path: PathBuf, why: String },
    #[error("{what} is longer than {limit} bytes")]
    TooLong { what: String, limit: u64 },
    #[error("{what}: unauthorized: {detail} (credentials for {host} are missing or wrong)")]
    Unauthorized { what: String, host: String, detail: String },
    #[error("{what}: access denied by {host}: {detail}")]
    Denied { what: String, host: String, detail: String },
    #[error("{what} not found: {detail}")]
    NotFound { what: String, detail: String },
    #[error(
        "{what}: toomanyrequests: {host} limits requests{limit} and asks to wait {wait} s; a pull waits {budget} s in all: {detail}"
    )]
    RateLimited { what: String, host: String, limit: String, wait: u64, budget: u64, detail: String },
    #[error("{what}: {host} answered {status}: {detail}")]
    Status { what: String, host: String, status: u16, detail: String },
    #[error("{what}: {host} sent what is not understood: {why}")]
    Malformed { what: String, host: String, why: String },
    /// Docker's words.
    #[error("login attempt to {url} failed with status: {status}")]
    Login { url: String, status: String },
    #[error("{what}: {host} sent a wrong or missing Content-Range")]
    ContentRange { what: String, host: String },
    #[error("{what}: {host} ended the data after {got} of {wanted} bytes")]
    Short { what: String, host: String, got: u64, wanted: u64 },
    #[error("{what}: {host} sent more than the {wanted} bytes that it is long")]
    Long { what: String, host: String, wanted: u64 },
    #[error("{what}: {host} sent data whose digest is {got}")]
    Digest { what: String, host: String, got: String },
    #[error("the token server {url} failed: {detail}")]
    TokenServer { url: String, status: u16, detail: String },
    #[error("{host} asks for authentication that is not understood: {challenge}")]
    Challenge { host: String, challenge: String },
    #[error("\"{text}\" is no registry address")]
    Address { text: String },
    #[error("the hosts that are configured for {registry} are not meant for this: none has the capability")]
    NoHost { registry: String },
    #[error("credentials for {host}: {why}")]
    Helper { host: String, why: String },
    #[error("{}: {why}", path.display())]
    HostsFile { path: PathBuf, why: String },
    #[error(transparent)]
    Store(#[from] Box<crate::error::Error>),
}

impl FetchError {
    /// Whether the same request may succeed a little later.
    pub fn passes(&self) -> bool {
        match self {
            FetchError::Transport { .. } | FetchError::Stalled { .. } | FetchError::Short { .. } => true,
            FetchError::Status { status, .. } | FetchError::TokenServer { status, .. } => {
                matches!(status, 408 | 425 | 500..=599)
            }
            _ => false,
        }
    }
}

impl From<crate::error::Error> for FetchError {
    fn from(error: crate::error::Error) -> FetchError {
        FetchError::Store(Box::new(error))
    }
}
