//! The daemon's configuration: flags over the file over defaults.
//!
//! What always holds: every key has a default and an unknown key is an error that names file and line.

mod cri;
mod network;
mod proxies;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where the file is looked for when none is named.
pub const DEFAULT_PATH: &str = "/etc/longshore/config.toml";

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("reading the configuration {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// The message begins with the line and column.
    #[error("configuration {}: {source}", path.display())]
    Parse { path: PathBuf, source: toml::de::Error },
    #[error("writing the configuration as TOML: {0}")]
    Write(#[from] toml::ser::Error),
    #[error("configuration: {key} = {value}: {why}")]
    Value { key: &'static str, value: String, why: &'static str },
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What survives a reboot: content, snapshots, metadata, container logs.
    pub root: PathBuf,
    /// What does not: bundles, sockets.
    pub state: PathBuf,
    /// The Unix socket of the gRPC API.
    pub address: PathBuf,
    /// error, warn, info, debug or trace, or a tracing filter such as `info,longshored::gc=debug`.
    pub log_level: String,
    /// The cgroup that the daemon puts itself and its shims into.
    pub cgroup: Option<String>,
    pub grpc: Grpc,
    pub content: Content,
    pub gc: Gc,
    pub registry: Registry,
    pub runtime: Runtime,
    pub snapshotter: Snapshotter,
    pub diff: Diff,
    pub proxy_plugins: BTreeMap<String, ProxyPlugin>,
    pub engine: Engine,
    pub network: Network,
    pub cri: Cri,
    pub restart: Restart,
    pub metadata: Metadata,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/longshore".into(),
            state: "/run/longshore".into(),
            address: "/run/longshore/longshore.sock".into(),
            log_level: "info".into(),
            cgroup: None,
            grpc: Grpc::default(),
            content: Content::default(),
            gc: Gc::default(),
            registry: Registry::default(),
            runtime: Runtime::default(),
            snapshotter: Snapshotter::default(),
            diff: Diff::default(),
            proxy_plugins: BTreeMap::new(),
            engine: Engine::default(),
            network: Network::default(),
            cri: Cri::default(),
            restart: Restart::default(),
            metadata: Metadata::default(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grpc {
    /// Members of this group (a name or a number) may use the socket; otherwise only root.
    pub group: Option<String>,
    /// Longest message in bytes, both ways.
    pub max_message_bytes: usize,
    /// Connections at one time, on each socket. Half of the files that the daemon may open are the limit in any case.
    pub max_connections: usize,
    /// Requests that are answered at one time, without the long-lived streams.
    pub max_requests: usize,
    /// Long-lived calls (waits, event subscriptions, attached streams) at one time.
    pub max_streams: usize,
}

impl Default for Grpc {
    fn default() -> Self {
        Self {
            group: None,
            max_message_bytes: 16 * 1024 * 1024,
            max_connections: 4096,
            max_requests: 1024,
            max_streams: 16 * 1024,
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Content {
    /// Ingests that are open at one time.
    pub max_writers: usize,
    /// Largest blob in bytes.
    pub max_blob_bytes: u64,
    /// Whether a namespace is given a blob of another for its digest alone.
    pub sharing: Sharing,
    /// Who keeps the bytes: `local`, or a plugin of the type content.
    pub store: String,
}

/// Who may have a blob without sending it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Whoever knows its digest.
    #[default]
    Shared,
    /// Nobody, unless a namespace that has it is labelled `containerd.io/namespace.shareable=true`.
    Isolated,
}

impl std::fmt::Display for Sharing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Shared => "shared",
            Self::Isolated => "isolated",
        })
    }
}

impl Default for Content {
    fn default() -> Self {
        Self {
            max_writers: 1024,
            max_blob_bytes: 64 << 30,
            sharing: Sharing::default(),
            store: LOCAL.to_owned(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gc {
    /// Milliseconds between a deletion and the collection it causes: more deletions join it.
    pub delay_ms: u64,
    /// Seconds between collections when nothing else causes one; 0: never.
    pub interval_seconds: u64,
    /// Hours after which an ingest that nobody writes to is dropped.
    pub ingest_hours: u64,
}

impl Default for Gc {
    fn default() -> Self {
        Self { delay_ms: 500, interval_seconds: 3600, ingest_hours: 24 }
    }
}

/// How registries are reached.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registry {
    /// Folders with a `hosts.toml` for each registry, in containerd's form; the first that has one for it counts.
    pub config_path: Vec<PathBuf>,
    /// `host[:port]` that may be spoken to over http, or https with a certificate that nobody vouches for.
    pub insecure: Vec<String>,
    /// Further certificate authorities, PEM.
    pub ca_files: Vec<PathBuf>,
    /// For a registry `host[:port]` the mirrors to ask first, in order.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Credentials by `host[:port]`, for pulls that bring none.
    pub auth: BTreeMap<String, RegistryAuth>,
    /// Blobs of one image that are fetched at one time; 0: the default.
    pub max_downloads: usize,
    /// After how many seconds in which nothing of it moves a pull ends; 0: never.
    pub stall_seconds: u64,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            config_path: vec!["/etc/longshore/certs.d".into()],
            insecure: Vec::new(),
            ca_files: Vec::new(),
            mirrors: BTreeMap::new(),
            auth: BTreeMap::new(),
            max_downloads: 0,
            stall_seconds: 300,
        }
    }
}

#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
    /// Instead of name and password.
    pub identity_token: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryAuth").field("username", &self.username).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runtime {
    /// The cgroup below which containers get theirs.
    pub cgroup_parent: String,
    /// The shim; otherwise it is looked for beside the daemon, then on PATH.
    pub shim: Option<PathBuf>,
    /// Shims that wait for a container.
    pub pool_size: usize,
    /// Runtimes by the name that containers give.
    pub runtimes: BTreeMap<String, NamedRuntime>,
}

/// A runtime that is configured by name. Without `path` its shim is found by `type`, and without that by its own name, as
/// `containerd-shim-NAME-vN` on PATH or beside the daemon.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct NamedRuntime {
    /// The name of the runtime that it is; `io.containerd.longshore.v1` is our shim.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its shim's binary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// `NAME=value` pairs for the shim's environment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
}

impl Default for Runtime {
    fn default() -> Self {
        Self { cgroup_parent: "longshore".into(), shim: None, pool_size: 2, runtimes: BTreeMap::new() }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Snapshotter {
    /// overlayfs or native.
    pub default: String,
}

impl Default for Snapshotter {
    fn default() -> Self {
        Self { default: "overlayfs".into() }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// The namespace of containers and images that `longshore` works with.
    pub namespace: String,
    /// Size at which a container's log is rotated, in bytes.
    pub log_max_size: u64,
    /// Rotated logs that are kept, the current one included.
    pub log_max_files: u32,
    /// Limits of processes for containers that ask for no others: name and `SOFT[:HARD]`.
    pub default_ulimits: BTreeMap<String, String>,
    /// Whether containers that do not say get an init.
    pub init: bool,
    /// The log driver of containers that name none: json-file, local or none.
    pub log_driver: String,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            namespace: "default".into(),
            log_max_size: 10 * 1024 * 1024,
            log_max_files: 5,
            init: false,
            log_driver: "json-file".into(),
            default_ulimits: BTreeMap::new(),
        }
    }
}

/// The restart monitor.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Restart {
    /// Seconds between two looks at the containers that it keeps running; 0: never.
    pub interval_seconds: u64,
}

impl Default for Restart {
    fn default() -> Self {
        Self { interval_seconds: 10 }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metadata {
    /// Most bytes of the store's cache.
    pub cache_bytes: u64,
    /// Seconds between exports while something changes.
    pub export_seconds: u64,
}

impl Default for Metadata {
    fn default() -> Self {
        Self { cache_bytes: 16 * 1024 * 1024, export_seconds: 300 }
    }
}

impl Config {
    /// The named file, which must be there; or the default one, if it is.
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(Path::new(DEFAULT_PATH));
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    /// The whole configuration as a file that [`Config::load`] reads.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        Ok(toml::to_string(self)?)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })
    }

    /// Where clients put programs that images bring for the daemon: `bin` and `lib` are below it.
    pub fn opt(&self) -> PathBuf {
        self.root.join("opt")
    }

    /// Refuses values that parse but cannot work.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (key, path) in [("root", &self.root), ("state", &self.state), ("address", &self.address)] {
            if !path.is_absolute() {
                let value = path.display().to_string();
                return Err(ConfigError::Value { key, value, why: "must be an absolute path" });
            }
        }
        if self.grpc.max_message_bytes < 1024 * 1024 {
            let value = self.grpc.max_message_bytes.to_string();
            return Err(ConfigError::Value {
                key: "grpc.max_message_bytes",
                value,
                why: "must be at least 1048576",
            });
        }
        if crate::namespaces::Namespace::parse(&self.engine.namespace).is_err() {
            let value = self.engine.namespace.clone();
            return Err(ConfigError::Value { key: "engine.namespace", value, why: "is no namespace" });
        }
        if self.engine.namespace == crate::pods::NAMESPACE {
            let value = self.engine.namespace.clone();
            let why = "has the pods of Kubernetes, which are not the engine's";
            return Err(ConfigError::Value { key: "engine.namespace", value, why });
        }
        let own = self.cgroup.as_ref().map(|own| ("cgroup", own.strip_prefix('/').unwrap_or(own)));
        let parent = ("runtime.cgroup_parent", self.runtime.cgroup_parent.as_str());
        for (key, path) in own.into_iter().chain([parent]) {
            let sane = |part: &str| !part.is_empty() && part != "." && part != "..";
            if !path.split('/').all(sane) || path.contains(char::is_control) {
                let why = "must be a relative path such as longshore or machines/longshore";
                return Err(ConfigError::Value { key, value: path.to_owned(), why });
            }
        }
        for (name, runtime) in &self.runtime.runtimes {
            if runtime.path.as_ref().is_some_and(|path| !path.is_absolute()) {
                let why = "path must be absolute";
                return Err(ConfigError::Value { key: "runtime.runtimes", value: name.clone(), why });
            }
            if runtime.env.iter().any(|pair| pair.find('=').is_none_or(|at| at == 0) || pair.contains('\0')) {
                let why = "env must be NAME=value pairs";
                return Err(ConfigError::Value { key: "runtime.runtimes", value: name.clone(), why });
            }
        }
        if let Some(path) = self.registry.config_path.iter().find(|path| !path.is_absolute()) {
            let (value, why) = (path.display().to_string(), "must be an absolute path");
            return Err(ConfigError::Value { key: "registry.config_path", value, why });
        }
        if self.engine.log_max_files == 0 || self.engine.log_max_size < 64 * 1024 {
            let value = format!("{} files of {}", self.engine.log_max_files, self.engine.log_max_size);
            let why = "a log needs one file or more of 65536 bytes or more";
            return Err(ConfigError::Value { key: "engine.log_max_files, engine.log_max_size", value, why });
        }
        self.network.check()?;
        self.cri.check()?;
        self.check_plugins()
    }
}

pub use cri::{Cri, PodNetworks};
pub use network::{ForwardMode, Network, PublishMode, is_interface_name};
pub use proxies::{Diff, LOCAL, ProxyKind, ProxyPlugin, WALKING};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_named_with_file_and_line() {
        let error =
            Config::parse("root = \"/x\"\n\n[grpc]\ngruop = \"x\"\n", Path::new("/c.toml")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/c.toml") && text.contains("line 4") && text.contains("gruop"), "{text}");
    }

    /// docs/config.md shows every key with its default; the lines that are commented out there are valid, too.
    #[test]
    fn the_documented_configuration_is_the_default_one() {
        let page = include_str!("../../docs/config.md");
        let (_, rest) = page.split_once("```toml\n").unwrap();
        let (block, _) = rest.split_once("```").unwrap();
        let documented = Config::parse(block, Path::new("docs/config.md")).unwrap();
        assert_eq!(toml::to_string(&documented).unwrap(), toml::to_string(&Config::default()).unwrap());
        let examples =
            block.replace("insecure = []\n", "").replace("ca_files = []\n", "").replace("\n#! ", "\n");
        let with_examples = Config::parse(&examples, Path::new("docs/config.md")).unwrap();
        with_examples.check().unwrap();
        for key in toml::to_string(&with_examples)
            .unwrap()
            .lines()
            .filter_map(|line| Some(line.split_once(" = ")?.0))
        {
            assert!(page.contains(key), "{key} is not documented");
        }
    }

    #[test]
    fn defaults_are_valid() {
        Config::default().check().unwrap();
        Config::parse("", Path::new("/c")).unwrap().check().unwrap();
    }
}
