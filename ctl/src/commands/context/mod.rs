//! Verbs on named contexts: which daemons this user speaks to.

pub mod create;
pub mod export;
pub mod import;
pub mod inspect;
pub mod ls;
pub mod rm;
pub mod show;
pub mod update;
pub mod r#use;

use crate::contexts::{Store, environment_host};
use crate::endpoint::Endpoint;
use crate::failure::Failure;
use crate::output::print;

/// What `--endpoint host=…` or `--endpoint from=…` come to: an address.
fn address(store: &Store, pairs: &str) -> Result<String, Failure> {
    let mut host = None;
    for pair in pairs.split(',') {
        match pair.split_once('=') {
            Some(("host", value)) => host = Some(value.to_string()),
            Some(("from", name)) => host = Some(store.get(name)?.host),
            Some((key @ ("ca" | "cert" | "key" | "skip-tls-verify"), _)) => {
                return Err(Failure::message(format!(
                    "the endpoint's {key:?} is for TLS over TCP, which longshore does not speak: use unix:// or ssh://"
                )));
            }
            Some((key, _)) => {
                return Err(Failure::message(format!(
                    "unrecognized config key: {key:?}: host and from are known"
                )));
            }
            None => {
                return Err(Failure::message(format!(
                    "{pair:?} must be formatted as key=value, as in host=unix:///x.sock"
                )));
            }
        }
    }
    let host = host.ok_or_else(|| Failure::message("the endpoint needs host=ADDRESS or from=CONTEXT"))?;
    Endpoint::parse(&host)?;
    Ok(host)
}

/// The reminder that a variable of the environment counts for more than the context in use.
fn remind(wanted: &str) {
    if environment_host().is_some() {
        print::note(format!(
            "Warning: LONGSHORE_HOST environment variable overrides the active context. To use {wanted}, either set the \
             global --context flag, or unset LONGSHORE_HOST environment variable."
        ));
    }
}
