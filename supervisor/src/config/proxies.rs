//! Plugins in processes of their own, as containerd's configuration names them: `[proxy_plugins.NAME]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Config, ConfigError};

/// What is built in, and what no plugin may be called.
const SNAPSHOTTERS: [&str; 2] = ["overlayfs", "native"];
pub const WALKING: &str = "walking";
/// The content store that is built in; clients see it as `content`.
pub const LOCAL: &str = "local";
const CONTENT: &str = "content";

/// What a plugin serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum ProxyKind {
    #[serde(rename = "snapshot", alias = "io.containerd.snapshotter.v1")]
    Snapshot,
    #[serde(rename = "content", alias = "io.containerd.content.v1")]
    Content,
    #[serde(rename = "diff", alias = "io.containerd.differ.v1")]
    Diff,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyPlugin {
    #[serde(rename = "type")]
    pub kind: ProxyKind,
    /// The plugin's Unix socket.
    pub address: PathBuf,
    /// `os/architecture[/variant]`; empty: the daemon's own.
    #[serde(default)]
    pub platform: String,
    /// Shown to clients that look plugins up.
    #[serde(default)]
    pub exports: BTreeMap<String, String>,
    /// What clients may expect of it: rebase, remap-ids, only-remap-ids.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// How long one call may take.
    #[serde(default = "patience")]
    pub timeout_seconds: u64,
}

fn patience() -> u64 {
    120
}

impl ProxyPlugin {
    /// The address as a path.
    pub fn socket(&self) -> &Path {
        self.address.to_str().and_then(|text| text.strip_prefix("unix://")).map_or(&self.address, Path::new)
    }
}

/// Who applies and makes layers.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Diff {
    /// Asked in this order; the next one if it says that it is not implemented.
    pub order: Vec<String>,
}

impl Default for Diff {
    fn default() -> Self {
        Self { order: vec![WALKING.to_owned()] }
    }
}

impl Config {
    /// The plugins of one kind.
    pub fn proxies(&self, kind: ProxyKind) -> impl Iterator<Item = (&String, &ProxyPlugin)> {
        self.proxy_plugins.iter().filter(move |(_, plugin)| plugin.kind == kind)
    }

    /// The plugin that keeps the bytes of blobs, by its name.
    pub fn content_plugin(&self) -> Option<(&String, &ProxyPlugin)> {
        self.proxies(ProxyKind::Content).find(|(name, _)| **name == self.content.store)
    }

    pub(super) fn check_plugins(&self) -> Result<(), ConfigError> {
        let refuse = |key, value: &str, why| Err(ConfigError::Value { key, value: value.to_owned(), why });
        for (name, plugin) in &self.proxy_plugins {
            let key = "proxy_plugins";
            if crate::namespaces::check_identifier("plugin", name).is_err() {
                return refuse(key, name, "a plugin's name has letters, digits, and -_. between them");
            }
            if SNAPSHOTTERS.contains(&name.as_str()) || name == WALKING {
                return refuse(key, name, "is built in: give the plugin another name");
            }
            if plugin.kind == ProxyKind::Content && [LOCAL, CONTENT].contains(&name.as_str()) {
                return refuse(key, name, "is built in: give the plugin another name");
            }
            if plugin.kind == ProxyKind::Content && self.content.store != *name {
                let why = "one store keeps all content: name this plugin in content.store, or take it out";
                return refuse(key, name, why);
            }
            let parts = plugin.platform.split('/').collect::<Vec<_>>();
            if !plugin.platform.is_empty() && (!(2..=3).contains(&parts.len()) || parts.contains(&"")) {
                return refuse(key, name, "its platform must be os/architecture or os/architecture/variant");
            }
            if !plugin.socket().is_absolute() {
                return refuse(key, name, "its address must be an absolute path");
            }
            if !(1..=86_400).contains(&plugin.timeout_seconds) {
                return refuse(key, name, "its timeout_seconds must be from 1 to 86400");
            }
        }
        let known = |name: &str, built_in: &[&str], kind| {
            built_in.contains(&name) || self.proxies(kind).any(|(plugin, _)| plugin == name)
        };
        if !known(&self.content.store, &[LOCAL], ProxyKind::Content) {
            let why = "is neither local nor a plugin of the type content";
            return refuse("content.store", &self.content.store, why);
        }
        let default = &self.snapshotter.default;
        if !known(default, &SNAPSHOTTERS, ProxyKind::Snapshot) {
            let why = "is neither overlayfs nor native nor a plugin of the type snapshot";
            return refuse("snapshotter.default", default, why);
        }
        if self.diff.order.is_empty() {
            return refuse("diff.order", "[]", "must name at least one");
        }
        match self.diff.order.iter().find(|name| !known(name, &[WALKING], ProxyKind::Diff)) {
            Some(name) => refuse("diff.order", name, "is neither walking nor a plugin of the type diff"),
            None => Ok(()),
        }
    }
}
