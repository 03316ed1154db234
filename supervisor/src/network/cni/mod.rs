//! Container networks by CNI plugins (specification 1.1.0): configurations from folders, plugins run in chains, results
//! kept. It knows nothing of who asks: a container's id, a network namespace and an interface's name are all it needs.
//!
//! What always holds: an attachment is on disk before its first plugin runs, with the configuration that it is made by, and
//! goes after all plugins have taken it back, so that no DEL is lost to a crash or to a changed configuration.

mod collect;
mod config;
mod error;
mod plugin;
mod result;
mod status;
mod version;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

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
    /// How long one plugin may take.
    patience: Duration,
    /// By container: whatever is done for one is done one after the other.
    turns: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// Attachments that nobody has any more and whose DEL has not succeeded yet, as their files are called.
    lost: Mutex<HashSet<String>>,
    /// Held by many while attachments come and go, by one alone while plugins are told which there are.
    gate: Arc<tokio::sync::RwLock<()>>,
    /// What plugins said last of their network.
    asked: tokio::sync::Mutex<Option<status::Asked>>,
}

impl Cni {
    pub fn new(configurations: Vec<PathBuf>, plugins: Vec<PathBuf>, records: PathBuf) -> Cni {
        Cni {
            configurations,
            plugins,
            records,
            patience: plugin::PATIENCE,
            turns: Mutex::default(),
            lost: Mutex::default(),
            gate: Arc::default(),
            asked: tokio::sync::Mutex::default(),
        }
    }

    /// With records of its own, on the networks of another, which knows of it: see [`Cni::collect`].
    pub fn beside(other: &Cni, records: PathBuf) -> Cni {
        let new = Cni::new(other.configurations.clone(), other.plugins.clone(), records);
        Cni { gate: other.gate.clone(), ..new }
    }

    /// The network for whoever names none: the first one that is configured, if its plugins are there.
    pub async fn default_network(&self) -> Result<Option<NetworkList>> {
        let (configurations, plugins) = (self.configurations.clone(), self.plugins.clone());
        let look = move || {
            let Some(list) = config::first(&configurations)? else { return Ok(None) };
            plugin::check(&list, &plugins)?;
            Ok(Some(list))
        };
        aside(look).await
    }

    /// Where configurations are looked for.
    pub fn configurations(&self) -> &[PathBuf] {
        &self.configurations
    }

    /// Attaches a container to the network of this name. What a failure leaves is taken back.
    pub async fn add(&self, network: &str, attachment: Attachment) -> Result<CniResult> {
        self.path(&attachment.container, &attachment.interface)?;
        let (configurations, plugins) = (self.configurations.clone(), self.plugins.clone());
        let name = network.to_owned();
        let find = move || {
            let list = config::find(&configurations, &name)?;
            plugin::check(&list, &plugins).map(|()| list)
        };
        self.add_to(aside(find).await?, attachment).await
    }

    /// As [`Cni::add`], where the network was found already.
    pub async fn add_to(&self, network: NetworkList, attachment: Attachment) -> Result<CniResult> {
        let path = self.path(&attachment.container, &attachment.interface)?;
        let turn = self.turn(&attachment.container).lock_owned().await;
        let _gate = self.gate.read().await;
        if let Some(mut old) = read(&path).await? {
            // Of an earlier run: its namespace is gone.
            old.attachment.namespace.clear();
            self.take_back(&path, &old).await?;
        }
        let kept = Kept { network, attachment, result: None };
        let mut kept = keep(&path, kept).await?;
        match self.run_all(&kept, Command::Add).await {
            Ok(result) => {
                let read = CniResult::read(&result);
                kept.result = Some(result);
                // That there is something to take back is kept already; what it is exactly, only who comes next waits for.
                tokio::task::spawn_blocking(move || {
                    let _turn = turn;
                    if let Err(error) = keep_now(&path, &kept) {
                        let container = kept.attachment.container;
                        tracing::warn!(
                            container,
                            "plugins will be asked to take back what they gave without being told of it: {error}"
                        );
                    }
                });
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
        let path = self.path(container, interface)?;
        let _turn = self.turn(container).lock_owned().await;
        let Some(kept) = read(&path).await? else { return Ok(()) };
        let known = version::has(&kept.network.version, version::CHECK);
        if !known || kept.network.disable_check || kept.result.is_none() {
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
        let _gate = self.gate.read().await;
        let Some(mut kept) = read(&path).await? else { return Ok(()) };
        namespace.clone_into(&mut kept.attachment.namespace);
        self.take_back(&path, &kept).await
    }

    /// As [`Cni::del`], of this attachment and of no later one.
    pub async fn del_made(&self, container: &str, interface: &str, serial: u64) -> Result<()> {
        let path = self.path(container, interface)?;
        let _turn = self.turn(container).lock_owned().await;
        let _gate = self.gate.read().await;
        match read(&path).await? {
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
        let gone = path.to_owned();
        let remove = move || match std::fs::remove_file(&gone) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(CniError::Io { doing: "removing", path: gone, source })
            }
            _ => Ok(()),
        };
        aside(remove).await?;
        if let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) {
            self.lost().remove(stem);
        }
        Ok(())
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
            patience: self.patience,
        };
        if command == Command::Del {
            let mut first = Ok(Value::Null);
            let result = result.as_ref().filter(|_| version::has(&network.version, version::CHECK));
            for plugin in network.plugins.iter().rev() {
                let request = request(network, attachment, plugin, result);
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
            if command == Command::Add && !answer.is_null() {
                let adopted = version::adopt(answer, &network.version).map_err(|why| CniError::NoResult {
                    plugin: config::plugin_type(plugin).unwrap_or_default().to_owned(),
                    network: network.name.clone(),
                    command: command.name(),
                    why,
                })?;
                previous = Some(adopted);
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

    fn lost(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work on files, which may be on a slow disk, beside what else is done.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(CniError::Lost))
}

async fn read(path: &Path) -> Result<Option<Kept>> {
    let path = path.to_owned();
    aside(move || read_now(&path)).await
}

fn read_now(path: &Path) -> Result<Option<Kept>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| CniError::Damaged { path: path.into(), why: error.to_string() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CniError::Io { doing: "reading", path: path.into(), source }),
    }
}

/// Durable when it returns.
async fn keep(path: &Path, kept: Kept) -> Result<Kept> {
    let path = path.to_owned();
    aside(move || keep_now(&path, &kept).map(|()| kept)).await
}

fn keep_now(path: &Path, kept: &Kept) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let (draft, text) = (path.with_extension("new"), json!(kept).to_string());
    let write = || {
        std::fs::create_dir_all(folder)?;
        crate::folders::replace(path, &draft, |file| std::io::Write::write_all(file, text.as_bytes()))
    };
    write().map_err(|source| CniError::Io { doing: "writing", path: path.into(), source })
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
            World::of("1.0.0")
        }

        fn of(version: &str) -> World {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            for name in ["conf", "bin"] {
                std::fs::create_dir(at(name)).unwrap();
            }
            let mut cni = Cni::new(vec![at("conf")], vec![at("bin")], at("records"));
            cni.patience = Duration::from_secs(2);
            let list = format!(
                r#"{{"cniVersion":"{version}","name":"lab","plugins":[
                {{"type":"first"}},{{"type":"second","capabilities":{{"portMappings":true}}}}]}}"#
            );
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

    #[tokio::test]
    async fn a_plugin_that_lies_hangs_or_says_too_much_is_told_of() {
        let world = World::new();
        world.plugin("second", "exit 0");
        let mine = r#"[ "$CNI_COMMAND" = ADD ] || exit 0; "#;
        for (script, says) in [
            ("echo ok", "answers ADD with what is no result: expected value at line 1 column 1: \"ok\""),
            ("echo '[1]'", "it is no JSON object"),
            (r#"echo '{"cniVersion":"7.0.0"}'"#, "version \"7.0.0\", which does not exist"),
            (
                r#"echo '{"cniVersion":"0.2.0","ip4":{}}'"#,
                "of version 0.2.0, but the network of version 1.0.0",
            ),
            ("yes", "it says more than 1048576 bytes"),
            ("sleep 100", "did not finish ADD within 2 s"),
            ("kill -9 $$", "failed at ADD: it says nothing"),
        ] {
            world.plugin("first", &format!("{mine}{script}"));
            let error = world.cni.add("lab", world.attachment()).await.unwrap_err().to_string();
            assert!(error.contains("\"first\"") && error.contains(says), "{script}: {error}");
            assert!(world.cni.kept().unwrap().is_empty(), "{script}");
        }
    }

    #[tokio::test]
    async fn what_a_plugin_has_started_does_not_hold_up_its_answer() {
        let world = World::new();
        world.plugin("first", &format!("sleep 3 & {RESULT}"));
        world.plugin("second", "exit 0");
        let begun = std::time::Instant::now();
        let result = world.cni.add("lab", world.attachment()).await.unwrap();
        assert_eq!(result.addresses.len(), 1);
        assert!(begun.elapsed() < Duration::from_millis(2900), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn an_old_network_is_neither_checked_nor_told_at_del_what_it_made() {
        let world = World::of("0.3.1");
        let result = RESULT.replace("1.0.0", "0.3.1");
        world.plugin("first", &result);
        world.plugin("second", &result);
        world.cni.add("lab", world.attachment()).await.unwrap();
        world.cni.check("c1", "eth0").await.unwrap();
        world.cni.del("c1", "eth0", "").await.unwrap();
        let log = world.log();
        assert!(!log.contains("CHECK"), "{log}");
        let del = log.lines().find(|line| line.starts_with("second DEL")).unwrap();
        assert!(!del.contains("prevResult"), "{del}");
        let add = log.lines().find(|line| line.starts_with("second ADD")).unwrap();
        assert!(add.contains(r#""version":"4""#), "{add}");
        assert_eq!(world.cni.status().await.unwrap().as_deref(), Some("lab"));
        assert!(world.cni.collect(&world.cni).await.unwrap() && !world.log().contains("GC"));
    }

    #[tokio::test]
    async fn plugins_say_whether_their_network_is_ready() {
        let world = World::of("1.1.0");
        world.plugin("first", "exit 0");
        let why = r#"[ "$CNI_COMMAND" = STATUS ] && echo '{"code":50,"msg":"no addresses left"}' && exit 1"#;
        world.plugin("second", why);
        let error = world.cni.status().await.unwrap_err().to_string();
        assert!(
            error.starts_with("CNI network \"lab\" is not ready") && error.contains("no addresses left"),
            "{error}"
        );
        assert!(world.cni.status().await.is_err());
        assert_eq!(world.log().matches("second STATUS").count(), 1, "an answer counts for a moment");
        world.plugin("second", "exit 0");
        tokio::time::sleep(Duration::from_millis(2100)).await;
        assert_eq!(world.cni.status().await.unwrap().as_deref(), Some("lab"));
    }

    #[tokio::test]
    async fn plugins_are_told_which_attachments_there_are() {
        let world = World::of("1.1.0");
        let result = RESULT.replace("1.0.0", "1.1.0");
        world.plugin("first", &result);
        world.plugin("second", &result);
        let other = Cni::beside(&world.cni, world.folder.path().join("others"));
        for container in ["live", "dead"] {
            let attachment = Attachment { container: container.into(), ..world.attachment() };
            world.cni.add("lab", attachment).await.unwrap();
        }
        other.add("lab", Attachment { container: "engines".into(), ..world.attachment() }).await.unwrap();
        world.cni.is_lost("dead", "eth0");
        assert!(world.cni.collect(&other).await.unwrap());
        let log = world.log();
        let told = log.lines().find(|line| line.starts_with("first GC")).unwrap();
        assert!(
            told.contains(r#"{"containerID":"live","ifname":"eth0"}"#) && told.contains("engines"),
            "{told}"
        );
        assert!(!told.contains("dead") && log.contains("second GC"), "{told}");
        // Whoever is being attached is not taken for garbage.
        let busy = world.cni.gate.read().await;
        assert!(!other.collect(&world.cni).await.unwrap());
        drop(busy);
        world.cni.del("dead", "eth0", "").await.unwrap();
        assert!(world.cni.lost().is_empty());
    }
}
