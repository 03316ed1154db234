//! Whether a registry takes somebody's credentials.

use super::pull::{Auth, credentials};
use crate::engine::Engine;
use crate::error::{Error, Result};

impl Engine {
    /// Asks the registry. What is returned is to be kept instead of the password, if there is something.
    pub async fn login(&self, registry: &str, auth: &Auth) -> Result<Option<String>> {
        let credentials = credentials(auth).ok_or_else(|| {
            Error::invalid(format!("login at {registry}"), "neither a name and password nor a token is given")
        })?;
        self.puller.login(registry, credentials).await
    }
}
