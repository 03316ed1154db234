//! docker's configuration file: `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
//!
//! What always holds: what is not understood in it is kept; it is replaced as a whole, and readable for its owner alone.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use longshore_proto::longshore::engine::v1::RegistryAuth;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::failure::{Failure, errno_text};

const MAX_FILE: u64 = 1 << 20;

/// The file as it is, or as it will be.
pub struct File {
    path: PathBuf,
    content: Map<String, Value>,
}

impl File {
    /// Reads it; one that is not there is as an empty one.
    pub fn load() -> Result<File, Failure> {
        let folder = match std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty()) {
            Some(folder) => PathBuf::from(folder),
            None => PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into())).join(".docker"),
        };
        File::at(folder.join("config.json"))
    }

    fn at(path: PathBuf) -> Result<File, Failure> {
        let bad = |why: String| Failure::message(format!("{}: {why}", path.display()));
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > MAX_FILE => {
                return Err(bad(format!("is longer than {MAX_FILE} bytes")));
            }
            Ok(_) => {}
            // Who has no right to look into the folder has no credentials there, either.
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
                ) =>
            {
                return Ok(File { path, content: Map::new() });
            }
            Err(error) => return Err(bad(errno_text(&error))),
        }
        let text = fs::read(&path).map_err(|error| bad(errno_text(&error)))?;
        let content = if text.iter().all(u8::is_ascii_whitespace) {
            Map::new()
        } else {
            serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?
        };
        Ok(File { path, content })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The helper that keeps what belongs to this name.
    pub fn helper(&self, key: &str) -> Option<String> {
        let own = self.content.get("credHelpers").and_then(|helpers| helpers.get(key));
        let named = [own, self.content.get("credsStore")].into_iter().flatten().filter_map(Value::as_str);
        named.filter(|name| !name.is_empty()).map(str::to_owned).next()
    }

    /// All names that the file has something for.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.content
            .get("auths")
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(Map::keys)
            .map(String::as_str)
    }

    /// What the file itself has.
    pub fn get(&self, key: &str) -> Option<RegistryAuth> {
        let entry = self.content.get("auths")?.get(key)?;
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (username, password) =
            decode(&text("auth")).unwrap_or_else(|| (text("username"), text("password")));
        let auth = RegistryAuth { username, password, identity_token: text("identitytoken") };
        (!auth.username.is_empty() || !auth.identity_token.is_empty()).then_some(auth)
    }

    /// Keeps credentials in the file itself.
    pub fn put(&mut self, key: &str, auth: &RegistryAuth) -> Result<(), Failure> {
        let mut entry = Map::new();
        let pair = format!("{}:{}", auth.username, auth.password);
        entry.insert("auth".into(), encode(pair.as_bytes()).into());
        if !auth.identity_token.is_empty() {
            entry.insert("identitytoken".into(), auth.identity_token.clone().into());
        }
        self.auths()?.insert(key.to_owned(), entry.into());
        self.save()
    }

    /// Notes that something is kept elsewhere.
    pub fn name(&mut self, key: &str) -> Result<(), Failure> {
        self.auths()?.insert(key.to_owned(), json!({}));
        self.save()
    }

    /// Forgets these.
    pub fn remove(&mut self, keys: &[String]) -> Result<(), Failure> {
        let auths = self.auths()?;
        keys.iter().for_each(|key| drop(auths.remove(key)));
        self.save()
    }

    fn auths(&mut self) -> Result<&mut Map<String, Value>, Failure> {
        let odd = format!("{}: auths is no object", self.path.display());
        let auths = self.content.entry("auths").or_insert_with(|| json!({}));
        if auths.is_null() {
            *auths = json!({});
        }
        auths.as_object_mut().ok_or_else(|| Failure::message(odd))
    }

    fn save(&self) -> Result<(), Failure> {
        // A link stays one: what it leads to is replaced.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let failed = |error: std::io::Error| Failure::file("writing", &path, &error);
        let folder = path.parent().unwrap_or(Path::new("/"));
        if !folder.is_dir() {
            use std::os::unix::fs::DirBuilderExt;
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        let temporary = folder.join(format!(".config.json.{}", std::process::id()));
        let written = self.write(&temporary).and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written.map_err(failed)
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut text = Vec::new();
        let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        self.content.serialize(&mut serde_json::Serializer::with_formatter(&mut text, format))?;
        // What a command that was killed has left there is nobody's.
        let _ = fs::remove_file(path);
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&text)?;
        file.sync_all()
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for index in 0..4 {
            let digit = (bits >> (18 - 6 * index) & 63) as usize;
            text.push(if index > group.len() { '=' } else { char::from(ALPHABET[digit]) });
        }
    }
    text
}

/// `user:password` in base 64.
fn decode(text: &str) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let digit = ALPHABET.iter().position(|known| *known == byte)?;
        bits = (bits << 6) | digit as u32;
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
    fn credentials_are_found_and_what_is_not_understood_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/config.json");
        fs::create_dir(folder.path().join("deep")).unwrap();
        fs::write(
            &path,
            r#"{"auths": {"localhost:5000": {"auth": "YW5uYTpzZWNyZXQ6MQ=="}, "r.io": {}, "t.io": {"identitytoken": "t"}},
                "credHelpers": {"h.io": "pass"}, "HttpHeaders": {"x": "y"}, "psFormat": "table"}"#,
        )
        .unwrap();
        let mut file = File::at(path.clone()).unwrap();
        let auth = file.get("localhost:5000").unwrap();
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("anna", "secret:1"));
        assert_eq!(file.get("t.io").unwrap().identity_token, "t");
        assert!(file.get("r.io").is_none() && file.get("other.io").is_none());
        assert_eq!(file.helper("h.io").as_deref(), Some("pass"));
        assert_eq!(file.helper("r.io"), None);
        let auth =
            RegistryAuth { username: "a".into(), password: "bc".into(), identity_token: String::new() };
        file.put("new.io", &auth).unwrap();
        file.remove(&["r.io".to_owned()]).unwrap();
        let file = File::at(path.clone()).unwrap();
        assert_eq!(file.get("new.io"), Some(auth));
        assert_eq!(file.content["HttpHeaders"], json!({"x": "y"}));
        assert_eq!(file.content["psFormat"], json!("table"));
        assert!(file.keys().all(|key| key != "r.io"));
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn base_64() {
        for text in ["a:b", "anna:secret", "ab:", "x:yz1"] {
            let (user, password) = text.split_once(':').unwrap();
            assert_eq!(decode(&encode(text.as_bytes())), Some((user.to_owned(), password.to_owned())));
        }
        assert_eq!(encode(b"anna:secret"), "YW5uYTpzZWNyZXQ=");
        assert_eq!(decode("!!"), None);
    }
}
