use base64::Engine as _;
use longshore_proto::runtime::v1 as wire;

use super::{Cri, required};
use crate::error::{Error, Result};
use crate::images::auth::Credentials;
use crate::images::reference::Reference;

impl Cri {
    pub(super) async fn do_pull_image(
        &self,
        request: wire::PullImageRequest,
    ) -> Result<wire::PullImageResponse> {
        let image = required(request.image, "image")?.image;
        let auth = request.auth.filter(|auth| is_for(auth, &image));
        let auth = auth.map(credentials).transpose()?.flatten();
        let image_ref = self.pods.pull_image(&image, auth).await?;
        Ok(wire::PullImageResponse { image_ref })
    }
}

/// Whether credentials are for this image's registry, if they say for which they are.
fn is_for(auth: &wire::AuthConfig, image: &str) -> bool {
    if auth.server_address.is_empty() {
        return true;
    }
    let said = auth.server_address.split_once("://").map_or(auth.server_address.as_str(), |(_, rest)| rest);
    let host = canonical_host(said.split('/').next().unwrap_or_default());
    Reference::parse(image).is_ok_and(|reference| canonical_host(reference.registry()) == host)
}

/// Docker Hub has several names.
fn canonical_host(host: &str) -> String {
    match host.to_ascii_lowercase().as_str() {
        "index.docker.io" | "registry-1.docker.io" | "docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
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

    #[test]
    fn credentials_of_another_registry_are_not_sent() {
        let auth = |server: &str| wire::AuthConfig { server_address: server.into(), ..Default::default() };
        for (server, image) in [
            ("", "quay.io/a/b"),
            ("https://index.docker.io/v1/", "busybox"),
            ("docker.io", "docker.io/library/busybox:1"),
            ("http://127.0.0.1:5000/v2/", "127.0.0.1:5000/x"),
            (
                "QUAY.io",
                "quay.io/a/b@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            ),
        ] {
            assert!(is_for(&auth(server), image), "{server} {image}");
        }
        for (server, image) in [
            ("quay.io", "busybox"),
            ("127.0.0.1:5001", "127.0.0.1:5000/x"),
            ("https://ghcr.io", "quay.io/a/b"),
        ] {
            assert!(!is_for(&auth(server), image), "{server} {image}");
        }
    }
}
