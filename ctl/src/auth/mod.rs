//! Credentials for registries, where docker's users have theirs: in docker's configuration file or with the helpers that it names, so
//! that who has logged in with docker need not do so again.
//!
//! What always holds: a secret is never shown; it goes to the helper or the file that keeps it, and to the daemon.

pub mod file;
mod helper;

use longshore_proto::longshore::engine::v1::RegistryAuth;

use crate::failure::Failure;
use crate::output::print;
use crate::parse::reference;
use file::File;

/// docker's name for its own registry.
pub const HUB_KEY: &str = "https://index.docker.io/v1/";

/// What is known for the registry of `image`. That a file or a helper cannot be asked is told, and no reason to fail: the registry may
/// want nothing.
pub fn for_image(image: &str) -> Option<RegistryAuth> {
    let registry = reference::split(image).registry;
    let key = if registry == "docker.io" { HUB_KEY } else { registry };
    match File::load().and_then(|file| get(&file, key)) {
        Ok(known) => known,
        Err(failure) => {
            print::note(format!("WARNING: credentials for {registry}: {failure}"));
            None
        }
    }
}

/// Under which name the credentials of a server are kept: docker's own by its address, others by their host.
pub fn key_of(server: &str) -> String {
    let host = host(server);
    match host {
        "" | "docker.io" | "index.docker.io" => HUB_KEY.to_owned(),
        host => host.to_owned(),
    }
}

/// The registry as references name it.
pub fn registry_of(key: &str) -> &str {
    if key == HUB_KEY { "docker.io" } else { key }
}

fn host(server: &str) -> &str {
    let bare = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    bare.split('/').next().unwrap_or_default()
}

/// What is kept under this name.
pub fn get(file: &File, key: &str) -> Result<Option<RegistryAuth>, Failure> {
    match file.helper(key) {
        Some(helper) => helper::get(&helper, key),
        None => Ok(file.get(key).or_else(|| {
            // Older docker wrote the whole address.
            file.keys().find(|other| host(other) == key).and_then(|other| file.get(other))
        })),
    }
}

/// Whether what is kept is readable for whoever reads the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    ByHelper,
    InFile,
    /// It was so already.
    Unchanged,
}

/// Keeps credentials.
pub fn store(file: &mut File, key: &str, auth: &RegistryAuth) -> Result<Kept, Failure> {
    if let Some(helper) = file.helper(key) {
        helper::store(&helper, key, auth)?;
        file.name(key)?;
        return Ok(Kept::ByHelper);
    }
    if file.get(key).as_ref() == Some(auth) {
        return Ok(Kept::Unchanged);
    }
    file.put(key, auth)?;
    Ok(Kept::InFile)
}

/// Forgets them, under each name that the server may have.
pub fn erase(file: &mut File, key: &str) -> Result<(), Failure> {
    let mut keys = vec![key.to_owned()];
    if key != HUB_KEY {
        keys.extend([format!("http://{key}"), format!("https://{key}")]);
    }
    if let Some(helper) = file.helper(key) {
        helper::erase(&helper, key)?;
    }
    file.remove(&keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_one_name() {
        for (server, key) in [
            ("", HUB_KEY),
            ("docker.io", HUB_KEY),
            ("https://index.docker.io/v1/", HUB_KEY),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("http://127.0.0.1:5000/v1/", "127.0.0.1:5000"),
            ("https://r.io", "r.io"),
        ] {
            assert_eq!(key_of(server), key, "{server}");
        }
    }
}
