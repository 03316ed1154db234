use base64::Engine as _;
use longshore_proto::runtime::v1 as wire;

use super::{Cri, required};
use crate::error::{Error, Result};
use crate::images::auth::Credentials;

impl Cri {
    pub(super) async fn do_pull_image(
        &self,
        request: wire::PullImageRequest,
    ) -> Result<wire::PullImageResponse> {
        let image = required(request.image, "image")?.image;
        let auth = request.auth.map(credentials).transpose()?.flatten();
        let image_ref = self.pods.pull_image(&image, auth).await?;
        Ok(wire::PullImageResponse { image_ref })
    }
}

fn credentials(auth: wire::AuthConfig) -> Result<Option<Credentials>> {
    if !auth.registry_token.is_empty() {
        return Ok(Some(Credentials::Header(format!("Bearer {}", auth.registry_token))));
    }
    if auth.username.is_empty() && auth.identity_token.is_empty() && !auth.auth.is_empty() {
        let refuse = |why: &str| Error::invalid("credentials", why);
        let text = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim());
        let text = text.map_err(|_| refuse("auth is not base64"))?;
        let text = String::from_utf8(text).map_err(|_| refuse("auth is not UTF-8"))?;
        let (username, password) = text.split_once(':').ok_or_else(|| refuse("auth has no colon"))?;
        return Ok(Credentials::from_parts(username, password.trim_end_matches('\0'), ""));
    }
    Ok(Credentials::from_parts(&auth.username, &auth.password, &auth.identity_token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_all_forms() {
        let of = |auth: wire::AuthConfig| credentials(auth).unwrap();
        let password = |user: &str, word: &str| {
            Some(Credentials::Password { username: user.into(), password: word.into() })
        };
        assert!(of(wire::AuthConfig::default()).is_none());
        let auth = wire::AuthConfig { auth: "dXNlcjpzZWNyZXQ=".into(), ..Default::default() };
        assert!(of(auth) == password("user", "secret"));
        let auth = wire::AuthConfig { username: "a".into(), password: "b".into(), ..Default::default() };
        assert!(of(auth) == password("a", "b"));
        assert!(credentials(wire::AuthConfig { auth: "?".into(), ..Default::default() }).is_err());
    }
}
