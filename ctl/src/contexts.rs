//! Named contexts: which daemons this user speaks to, by name.
//!
//! What always holds: a context is one file below `contexts` in our configuration folder, written whole or not at
//! all; `config.json` beside it names the one in use. The folder is `--config`, else LONGSHORE_CONFIG, else
//! `longshore` in XDG_CONFIG_HOME or `~/.config`. The context `default` is no file: it is LONGSHORE_HOST, or the
//! usual socket.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::endpoint::{DEFAULT_HOST, Endpoint};
use crate::failure::{Failure, errno_text};

/// The context that is always there.
pub const DEFAULT: &str = "default";
/// A file of ours that is longer was not written by us.
pub const MAX_FILE: u64 = 64 << 10;
const NAME_MAX: usize = 128;

/// One context as it is stored and exported.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Stored {
    pub name: String,
    #[serde(default)]
    pub description: String,
    pub host: String,
}

/// Where contexts are kept.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

/// What of the command line and the environment chooses a daemon.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// `-H`.
    pub host: Option<String>,
    /// `--context`.
    pub context: Option<String>,
}

/// The daemon that was chosen, and by which context; none if `-H` named it.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub endpoint: Endpoint,
    pub context: Option<String>,
}

/// An environment variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// LONGSHORE_HOST, which the default context stands for.
pub fn environment_host() -> Option<String> {
    variable("LONGSHORE_HOST")
}

impl Store {
    /// `folder` is the one of `--config`.
    pub fn new(folder: Option<&str>) -> Store {
        let path = |name: &str| variable(name).map(PathBuf::from);
        let folder = folder
            .map(PathBuf::from)
            .or_else(|| path("LONGSHORE_CONFIG"))
            .or_else(|| path("XDG_CONFIG_HOME").map(|folder| folder.join("longshore")))
            .or_else(|| path("HOME").map(|home| home.join(".config/longshore")))
            .unwrap_or_else(|| PathBuf::from("/root/.config/longshore"));
        Store { folder }
    }

    fn contexts(&self) -> PathBuf {
        self.folder.join("contexts")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.contexts().join(format!("{name}.json"))
    }

    fn settings(&self) -> PathBuf {
        self.folder.join("config.json")
    }

    /// Names in alphabetical order, without `default`.
    pub fn names(&self) -> Result<Vec<String>, Failure> {
        let entries = match std::fs::read_dir(self.contexts()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Failure::file("reading", &self.contexts(), &error)),
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".json").map(str::to_string))
            .filter(|name| check_name(name).is_ok())
            .collect();
        names.sort();
        Ok(names)
    }

    pub fn exists(&self, name: &str) -> bool {
        check_name(name).is_ok() && self.path(name).exists()
    }

    /// Reads one; `default` is made up.
    pub fn get(&self, name: &str) -> Result<Stored, Failure> {
        if name == DEFAULT {
            return Ok(Stored {
                name: DEFAULT.into(),
                description: "Current LONGSHORE_HOST based configuration".into(),
                host: environment_host().unwrap_or_else(|| DEFAULT_HOST.into()),
            });
        }
        if !self.exists(name) {
            return Err(Failure::message(format!("context {name:?} does not exist")));
        }
        let path = self.path(name);
        let text = read(&path)?;
        serde_json::from_slice(&text).map_err(|error| {
            Failure::message(format!("the context {name:?} cannot be read: {}: {error}", path.display()))
        })
    }

    /// Keeps one; the caller has looked whether it may replace another.
    pub fn put(&self, context: &Stored) -> Result<(), Failure> {
        check_name(&context.name)?;
        Endpoint::parse(&context.host)?;
        let text = serde_json::to_vec_pretty(context)
            .map_err(|error| Failure::message(format!("writing the context {:?}: {error}", context.name)))?;
        write_whole(&self.path(&context.name), &text)
    }

    pub fn remove(&self, name: &str) -> Result<(), Failure> {
        match self.exists(name) {
            true => std::fs::remove_file(self.path(name))
                .map_err(|error| Failure::file("removing", &self.path(name), &error)),
            false => Err(Failure::message(format!("context {name:?} does not exist"))),
        }
    }

    fn read_settings(&self) -> Result<serde_json::Map<String, serde_json::Value>, Failure> {
        let path = self.settings();
        if !path.exists() {
            return Ok(serde_json::Map::new());
        }
        serde_json::from_slice(&read(&path)?).map_err(|error| {
            Failure::message(format!("{} cannot be read: {error}: mend or remove it", path.display()))
        })
    }

    /// The context that `context use` chose; `default` if none.
    pub fn in_use(&self) -> Result<String, Failure> {
        let settings = self.read_settings()?;
        let name = settings.get("currentContext").and_then(|name| name.as_str()).unwrap_or_default();
        Ok(if name.is_empty() { DEFAULT } else { name }.to_string())
    }

    /// Chooses one for what comes; other settings in the file are kept.
    pub fn choose(&self, name: &str) -> Result<(), Failure> {
        let mut settings = self.read_settings()?;
        match name {
            DEFAULT => drop(settings.remove("currentContext")),
            name => drop(settings.insert("currentContext".into(), name.into())),
        }
        let text = serde_json::to_vec_pretty(&settings)
            .map_err(|error| Failure::message(format!("writing {}: {error}", self.settings().display())))?;
        write_whole(&self.settings(), &text)
    }

    /// The name of the context that counts, were `-H` not given: `--context`, then LONGSHORE_HOST (the default
    /// context), then LONGSHORE_CONTEXT, then the one in use.
    pub fn current(&self, choice: &Choice) -> Result<String, Failure> {
        match &choice.context {
            Some(name) if !name.is_empty() => Ok(name.clone()),
            _ if environment_host().is_some() => Ok(DEFAULT.into()),
            _ => variable("LONGSHORE_CONTEXT").map_or_else(|| self.in_use(), Ok),
        }
    }

    /// The daemon to speak to.
    pub fn resolve(&self, choice: &Choice) -> Result<Chosen, Failure> {
        match (&choice.host, &choice.context) {
            (Some(_), Some(_)) => {
                Err(Failure::message("conflicting options: cannot specify both --host and --context"))
            }
            (Some(host), None) if !host.is_empty() => {
                Ok(Chosen { endpoint: Endpoint::parse(host)?, context: None })
            }
            _ => {
                let name = self.current(choice)?;
                let unresolved = |failure: Failure| match failure {
                    Failure::Message(text) => Failure::Message(format!(
                        "unable to resolve the endpoint: {text}: see 'longshore context ls'"
                    )),
                    other => other,
                };
                let stored = self.get(&name).map_err(unresolved)?;
                Ok(Chosen { endpoint: Endpoint::parse(&stored.host)?, context: Some(name) })
            }
        }
    }
}

/// docker's rule for names, which also makes them safe as file names.
pub fn check_name(name: &str) -> Result<(), Failure> {
    let sound = |c: char| c.is_ascii_alphanumeric();
    let inner = |c: char| sound(c) || "_.+-".contains(c);
    match () {
        () if name == DEFAULT => Err(Failure::message(format!("{name:?} is a reserved context name"))),
        () if name.len() >= 2
            && name.len() <= NAME_MAX
            && name.starts_with(sound)
            && name.chars().all(inner) =>
        {
            Ok(())
        }
        () => Err(Failure::message(format!(
            "context name {name:?} is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
        ))),
    }
}

/// Reads a file that may not be longer than ours are.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let refused = |error: io::Error| Failure::file("open", path, &error);
    let length = std::fs::metadata(path).map_err(refused)?.len();
    if length > MAX_FILE {
        return Err(Failure::message(format!("{} has more than {MAX_FILE} bytes", path.display())));
    }
    std::fs::read(path).map_err(refused)
}

/// Writes a file so that a reader finds the old or the new one, never half of it.
fn write_whole(path: &Path, text: &[u8]) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder).map_err(|error| Failure::file("mkdir", folder, &error))?;
    let half = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = std::fs::write(&half, text).and_then(|()| std::fs::rename(&half, path));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&half);
        Failure::Message(format!("write {}: {}", path.display(), errno_text(&error)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_str());
        assert_eq!(store.names().unwrap(), Vec::<String>::new());
        assert_eq!(store.in_use().unwrap(), DEFAULT);
        let context = Stored { name: "far".into(), description: "d".into(), host: "ssh://root@far".into() };
        store.put(&context).unwrap();
        assert_eq!(store.get("far").unwrap(), context);
        std::fs::write(folder.path().join("config.json"), r#"{"auths": {"r": {}}}"#).unwrap();
        store.choose("far").unwrap();
        assert_eq!(store.in_use().unwrap(), "far");
        let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
        assert!(text.contains("auths"), "{text}");
        store.remove("far").unwrap();
        assert!(store.get("far").is_err() && store.remove("far").is_err());
    }

    #[test]
    fn names_are_docker_s() {
        for sound in ["aa", "a.b", "A+b-c_d", "0x"] {
            assert!(check_name(sound).is_ok(), "{sound}");
        }
        for wrong in ["", "a", "default", "-a", "a/b", "../x", "a b", ".a", &"a".repeat(200)] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }
}
