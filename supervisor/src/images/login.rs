//! Logging in: whether a registry takes these credentials.

#![forbid(unsafe_code)]

use std::sync::Arc;

use http::header::HeaderMap;
use http::{Method, StatusCode};

use super::auth::Credentials;
use super::fetch::Remote;
use super::fetch::error::FetchError;
use super::fetch::http::{Http, shown};
use super::reference::Reference;
use crate::config::Registry;

/// Asks the registry. What is returned is to be kept instead of the password, if there is something.
pub async fn login(
    http: &Arc<Http>,
    config: &Registry,
    registry: &str,
    credentials: Credentials,
) -> Result<Option<String>, FetchError> {
    let address = || FetchError::Address { text: registry.chars().take(200).collect() };
    // The registry is looked at as a whole: any repository of it will do to find its hosts.
    let reference = Reference::parse(&format!("{registry}/login")).map_err(|_| address())?;
    if reference.registry() != registry {
        return Err(address());
    }
    let remote = Remote::new(http, config, &reference, Some(credentials)).await?;
    let host = remote.origin().ok_or_else(address)?;
    let authorizer = host.authorizer.for_login();
    let url = host.url("").await?;
    let answer = host.send(Method::GET, &url, HeaderMap::new(), None, &authorizer).await?;
    match answer.status() {
        status if status.is_success() => Ok(authorizer.identity().await),
        StatusCode::UNAUTHORIZED => {
            Err(FetchError::Login { url: shown(&url), status: "401 Unauthorized".to_owned() })
        }
        _ => Err(host.refusal(&format!("login at {registry}"), answer).await),
    }
}
