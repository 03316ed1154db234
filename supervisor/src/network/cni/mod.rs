//! Container networks by CNI plugins (specification 1.0.0): configurations from folders, plugins run in chains, results
//! kept. It knows nothing of who asks: a container's id, a network namespace and an interface's name are all it needs.
//!
//! What always holds: an attachment is on disk before its first plugin runs, with the configuration that it is made by, and
//! goes after all plugins have taken it back, so that no DEL is lost to a crash or to a changed configuration.

mod config;
mod error;
mod plugin;
mod result;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use config::NetworkList;
pub use error::{CniError, Result};
use plugin::{Call, Command};
pub use result::{CniResult, Dns};

/// What is attached to what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Id of the container.
    pub container: String,
    /// Path of its network namespace.
    pub namespace: String,
    /// Such as `eth0`.
    pub interface: String,
    /// `K=V` between semicolons.
    #[serde(default)]
    pub args: String,
    /// Handed to plugins that have the capability of the key, such as `portMappings`.
    #[serde(default)]
    pub capabilities: Map<String, Value>,
    /// Tells this attachment from a later one of the same name.
    #[serde(default)]
    pub serial: u64,
}

/// An attachment as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    network: NetworkList,
    attachment: Attachment,
    /// Of the last plugin; `None` while it is made.
    #[serde(default)]
    result: Option<Value>,
}

/// Runs plugins and keeps what they have made.
pub struct Cni {
    /// Where configurations are.
    configurations: Vec<PathBuf>,
    /// Where plugins are.
    plugins: Vec<PathBuf>,
    /// Where attachments are kept.
    records: PathBuf,
    /// By container: whatever is done for one is done one after the other.
    turns: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Cni {
    pub fn new(configurations: Vec<PathBuf>, plugins: Vec<PathBuf>, records: PathBuf) -> Cni {
        Cni { configurations, plugins, records, turns: Mutex::default() }
    }

    /// The network for whoever names none: the first one that is configured, if its plugins are there.
    pub fn default_network(&self) -> Result<Option<String>> {
        let Some(list) = config::first(&self.configurations)? else { return Ok(None) };
        plugin::check(&list, &self.plugins)?;
        Ok(Some(list.name))
    }

    /// Attaches a container to the network of this name. What a failure leaves is taken back.
    pub async fn add(&self, network: &str, attachment: Attachment) -> Result<CniResult> {
        let path = self.path(&attachment.container, &attachment.interface)?;
        let list = config::find(&self.configurations, network)?;
        plugin::check(&list, &self.plugins)?;
        let _turn = self.turn(&attachment.container).lock_owned().await;
        if let Some(mut old) = self.read(&path)? {
            // Of an earlier run: its namespace is gone.
            old.attachment.namespace.clear();
            self.take_back(&path, &old).await?;
        }
        let mut kept = Kept { network: list, attachment, result: None };
        self.keep(&path, &kept)?;
        match self.run_all(&kept, Command::Add).await {
            Ok(result) => {
                let read = CniResult::read(&result);
                kept.result = Some(result);
                self.keep(&path, &kept)?;
                Ok(read)
            }
            Err(error) => {
                if let Err(left) = self.take_back(&path, &kept).await {
                    tracing::warn!(
                        container = kept.attachment.container,
                        "taking back a CNI attachment: {left}"
                    );
                }
                Err(error)
            }
        }
    }

    /// Whether all is as it was made.
    pub async fn check(&self, container: &str, interface: &str) -> Result<()> {
        let Some(kept) = self.read(&self.path(container, interface)?)? else { return Ok(()) };
        if kept.network.disable_check {
            return Ok(());
        }
        self.run_all(&kept, Command::Check).await.map(drop)
    }

    /// Takes an attachment back. One that is not kept is gone already. `namespace`: where it is now; empty if it is gone.
    pub async fn del(&self, container: &str, interface: &str, namespace: &str) -> Result<()> {
        let path = self.path(container, interface)?;
        let _turn = self.turn(container).lock_owned().await;
        // Of a daemon that was killed while it wrote.
        let _ = std::fs::remove_file(path.with_extension("new"));
        let Some(mut kept) = self.read(&path)? else { return Ok(()) };
        namespace.clone_into(&mut kept.attachment.namespace);
        self.take_back(&path, &kept).await
    }

    /// As [`Cni::del`], of this attachment and of no later one.
    pub async fn del_made(&self, container: &str, interface: &str, serial: u64) -> Result<()> {
        let path = self.path(container, interface)?;
        let _turn = self.turn(container).lock_owned().await;
        match self.read(&path)? {
            Some(mut kept) if kept.attachment.serial == serial => {
                kept.attachment.namespace.clear();
                self.take_back(&path, &kept).await
            }
            _ => Ok(()),
        }
    }

    fn turn(&self, container: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(container).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        turns.insert(container.to_owned(), Arc::downgrade(&turn));
        turn
    }

    /// The attachments that are kept: container and interface. Whoever starts looks which of them are still needed.
    pub fn kept(&self) -> Result<Vec<(String, String)>> {
        let entries = match std::fs::read_dir(&self.records) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(CniError::Io { doing: "listing", path: self.records.clone(), source }),
        };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(".json"));
            found.extend(
                stem.and_then(|stem| stem.split_once('@')).map(|(c, i)| (c.to_owned(), i.to_owned())),
            );
        }
        Ok(found)
    }

    async fn take_back(&self, path: &Path, kept: &Kept) -> Result<()> {
        self.run_all(kept, Command::Del).await?;
        match std::fs::remove_file(path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(CniError::Io { doing: "removing", path: path.into(), source })
            }
            _ => Ok(()),
        }
    }

    /// Runs the chain: forward, each plugin with the result of the one before, or backward, each with the last one's. Backward
    /// goes on at errors, and tells the first.
    async fn run_all(&self, kept: &Kept, command: Command) -> Result<Value> {
        let Kept { network, attachment, result } = kept;
        let call = Call {
            command,
            network: &network.name,
            container: &attachment.container,
            namespace: &attachment.namespace,
            interface: &attachment.interface,
            args: &attachment.args,
            folders: &self.plugins,
        };
        if command == Command::Del {
            let mut first = Ok(Value::Null);
            for plugin in network.plugins.iter().rev() {
                let request = request(network, attachment, plugin, result.as_ref());
                match plugin::run(call, &request).await {
                    Err(error) if first.is_ok() => first = Err(error),
                    _ => {}
                }
            }
            return first;
        }
        let mut previous = result.clone();
        for plugin in &network.plugins {
            let answer = plugin::run(call, &request(network, attachment, plugin, previous.as_ref())).await?;
            if command == Command::Add {
                previous = Some(answer).filter(|answer| !answer.is_null()).or(previous);
            }
        }
        Ok(previous.unwrap_or(Value::Null))
    }

    fn path(&self, container: &str, interface: &str) -> Result<PathBuf> {
        // What is part of a file's name may lead nowhere else, and is cut at its first @.
        for part in [container, interface] {
            if !config::is_name(part) {
                return Err(CniError::BadName(part.to_owned()));
            }
        }
        Ok(self.records.join(format!("{container}@{interface}.json")))
    }

    fn read(&self, path: &Path) -> Result<Option<Kept>> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| CniError::Damaged { path: path.into(), why: error.to_string() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CniError::Io { doing: "reading", path: path.into(), source }),
        }
    }

    /// Durable when it returns.
    fn keep(&self, path: &Path, kept: &Kept) -> Result<()> {
        let draft = path.with_extension("new");
        let write = || {
            std::fs::create_dir_all(&self.records)?;
            let mut file = std::fs::File::create(&draft)?;
            std::io::Write::write_all(&mut file, json!(kept).to_string().as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&draft, path)?;
            std::fs::File::open(&self.records)?.sync_all()
        };
        write().map_err(|source| CniError::Io { doing: "writing", path: path.into(), source })
    }
}

/// What a plugin reads: its configuration, and what it needs to know of the list, the plugins before it and its capabilities.
fn request(
    network: &NetworkList,
    attachment: &Attachment,
    plugin: &Map<String, Value>,
    previous: Option<&Value>,
) -> Map<String, Value> {
    let mut request = plugin.clone();
    request.insert("name".to_owned(), json!(network.name));
    request.insert("cniVersion".to_owned(), json!(network.version));
    if let Some(previous) = previous {
        request.insert("prevResult".to_owned(), previous.clone());
    }
    let able = plugin.get("capabilities").and_then(Value::as_object);
    let has = |key: &String| able.and_then(|able| able.get(key)).and_then(Value::as_bool) == Some(true);
    let given: Map<String, Value> = attachment
        .capabilities
        .iter()
        .filter(|(key, _)| has(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if !given.is_empty() {
        request.insert("runtimeConfig".to_owned(), Value::Object(given));
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A world with plugins that note what they are asked in a file.
    struct World {
        folder: tempfile::TempDir,
        cni: Cni,
    }

    impl World {
        fn new() -> World {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            for name in ["conf", "bin"] {
                std::fs::create_dir(at(name)).unwrap();
            }
            let cni = Cni::new(vec![at("conf")], vec![at("bin")], at("records"));
            let list = r#"{"cniVersion":"1.0.0","name":"lab","plugins":[
                {"type":"first"},{"type":"second","capabilities":{"portMappings":true}}]}"#;
            std::fs::write(at("conf").join("lab.conflist"), list).unwrap();
            World { folder, cni }
        }

        fn plugin(&self, name: &str, script: &str) {
            let path = self.folder.path().join("bin").join(name);
            let log = self.folder.path().join("log");
            let text = format!(
                "#!/bin/sh\ninput=$(cat)\necho \"{name} $CNI_COMMAND $CNI_NETNS $input\" >> {}\n{script}\n",
                log.display()
            );
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn log(&self) -> String {
            std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
        }

        fn attachment(&self) -> Attachment {
            Attachment {
                container: "c1".into(),
                namespace: "/proc/1/ns/net".into(),
                interface: "eth0".into(),
                capabilities: [("portMappings".to_owned(), json!([{"hostPort": 80}]))].into_iter().collect(),
                ..Attachment::default()
            }
        }
    }

    const RESULT: &str = r#"[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.2/24"}]}'; exit 0"#;

    #[tokio::test]
    async fn a_chain_is_run_forward_and_backward_with_results_and_capabilities() {
        let world = World::new();
        world.plugin("first", RESULT);
        world.plugin("second", RESULT);
        let result = world.cni.add("lab", world.attachment()).await.unwrap();
        assert_eq!(result.addresses[0].prefix, 24);
        world.cni.check("c1", "eth0").await.unwrap();
        // The configuration may be gone by then.
        std::fs::remove_dir_all(world.folder.path().join("conf")).unwrap();
        assert_eq!(world.cni.kept().unwrap(), [("c1".to_owned(), "eth0".to_owned())]);
        world.cni.del("c1", "eth0", "").await.unwrap();
        assert!(world.cni.kept().unwrap().is_empty());
        let log = world.log();
        let lines: Vec<&str> = log.lines().collect();
        let starts: Vec<String> =
            lines.iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            starts,
            ["first ADD", "second ADD", "first CHECK", "second CHECK", "second DEL", "first DEL"]
        );
        assert!(!lines[0].contains("prevResult") && !lines[0].contains("hostPort"));
        assert!(lines[1].contains("prevResult") && lines[1].contains("hostPort"));
        assert!(lines[4].contains("second DEL  {") && lines[4].contains("prevResult"));
    }

    #[tokio::test]
    async fn a_failed_add_is_taken_back_and_told_in_the_plugins_words() {
        let world = World::new();
        world.plugin("first", RESULT);
        world.plugin(
            "second",
            r#"[ "$CNI_COMMAND" = ADD ] || exit 0; echo '{"code":7,"msg":"no luck"}'; exit 1"#,
        );
        let error = world.cni.add("lab", world.attachment()).await.unwrap_err().to_string();
        assert_eq!(error, "CNI plugin \"second\" of network \"lab\" failed at ADD: no luck");
        assert!(world.log().contains("first DEL") && world.cni.kept().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_del_that_fails_is_kept_to_be_tried_again() {
        let world = World::new();
        world.plugin("first", RESULT);
        world.plugin("second", RESULT);
        world.cni.add("lab", world.attachment()).await.unwrap();
        world.plugin("second", "exit 3");
        assert!(world.cni.del("c1", "eth0", "").await.is_err());
        assert_eq!(world.cni.kept().unwrap().len(), 1);
        world.plugin("second", RESULT);
        world.cni.del("c1", "eth0", "").await.unwrap();
        assert!(world.cni.kept().unwrap().is_empty());
    }

    #[tokio::test]
    async fn names_that_lead_elsewhere_and_missing_plugins_are_refused() {
        let world = World::new();
        let bad = Attachment { container: "../x".into(), ..world.attachment() };
        assert!(matches!(world.cni.add("lab", bad).await, Err(CniError::BadName(_))));
        let error = world.cni.add("lab", world.attachment()).await.unwrap_err().to_string();
        assert!(error.contains("CNI plugin \"first\" of network \"lab\" is not in"), "{error}");
    }
}
