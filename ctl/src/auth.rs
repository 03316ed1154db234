//! Credentials out of docker's configuration file (`$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`),
//! so that who has logged in with docker need not do so again. Credential helpers are not asked: where one is
//! configured and the file itself holds nothing for the registry, the daemon's own credentials apply.

use std::collections::HashMap;
use std::path::PathBuf;

use longshore_proto::longshore::engine::v1::RegistryAuth;
use serde::Deserialize;

use crate::parse::reference;

/// docker's name for its own registry in that file.
const HUB_KEY: &str = "https://index.docker.io/v1/";
const MAX_FILE: u64 = 1 << 20;

#[derive(Default, Deserialize)]
struct File {
    #[serde(default)]
    auths: HashMap<String, Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// What is known for the registry of `image`. A file that cannot be read or understood is as none.
pub fn for_image(image: &str) -> Option<RegistryAuth> {
    let path = path()?;
    if std::fs::metadata(&path).ok()?.len() > MAX_FILE {
        return None;
    }
    let text = std::fs::read(path).ok()?;
    let file: File = serde_json::from_slice(&text).ok()?;
    find(&file, reference::split(image).registry)
}

fn path() -> Option<PathBuf> {
    let folder = match std::env::var_os("DOCKER_CONFIG") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    Some(folder.join("config.json"))
}

fn find(file: &File, registry: &str) -> Option<RegistryAuth> {
    let keys = match registry {
        "docker.io" => vec![HUB_KEY.to_string(), "index.docker.io".into(), "docker.io".into()],
        other => vec![other.to_string(), format!("https://{other}"), format!("http://{other}")],
    };
    let entry = keys.iter().find_map(|key| file.auths.get(key))?;
    let (username, password) = match decode(&entry.auth) {
        Some(both) => both,
        None => (entry.username.clone(), entry.password.clone()),
    };
    let known = !username.is_empty() || !entry.identitytoken.is_empty();
    known.then(|| RegistryAuth { username, password, identity_token: entry.identitytoken.clone() })
}

/// `user:password` in base 64.
fn decode(text: &str) -> Option<(String, String)> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        bits = (bits << 6) | u32::from(digit(byte)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_string(), password.trim_end_matches('\0').to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found_by_registry() {
        let file: File = serde_json::from_str(
            r#"{"auths": {"localhost:5000": {"auth": "YW5uYTpzZWNyZXQ6MQ=="}, "https://index.docker.io/v1/": {"identitytoken": "t"},
                "r.io": {}}, "credsStore": "pass"}"#,
        )
        .unwrap();
        let auth = find(&file, "localhost:5000").unwrap();
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("anna", "secret:1"));
        assert_eq!(find(&file, "docker.io").unwrap().identity_token, "t");
        assert!(find(&file, "r.io").is_none() && find(&file, "other.io").is_none());
        assert_eq!(decode("!!"), None);
    }
}
