//! A snapshotter in another process, behind containerd's snapshots API.
//!
//! What always holds: the plugin sees the keys that a driver of ours sees, `NAMESPACE/KEY`, also in the label that names a snapshot
//! to be made; what of its answers is not this namespace's is not shown.

use longshore_proto::containerd::services::snapshots::v1 as wire;
use longshore_proto::containerd::types;
use tonic::Code;
use tonic::transport::Channel;
use wire::snapshots_client::SnapshotsClient;

use super::keys::{internal, present};
use super::{Commit, Info, Kind, Mount, TARGET, Usage};
use crate::error::{Error, Result};
use crate::labels::{Labels, from_hash, to_hash};
use crate::namespaces::Namespace;
use crate::plugins::{MAX_MESSAGE, Plugin};

/// Snapshots of one namespace in one plugin; beyond them a list is refused.
const MAX_LISTED: usize = 1_000_000;

/// The label that makes a snapshot a root, and the value by which it is known to come from here.
const ROOT: &str = "containerd.io/gc.root";
const KEPT: &str = "longshore";

/// A plugin of the type `snapshot`.
pub struct Remote {
    plugin: Plugin,
    /// Under which it is configured: a plugin with several snapshotters goes by it.
    name: String,
    /// As configured.
    capabilities: Vec<String>,
}

impl Remote {
    pub fn new(plugin: Plugin, name: String, capabilities: Vec<String>) -> Self {
        Self { plugin, name, capabilities }
    }

    pub fn capabilities(&self) -> &[String] {
        &self.capabilities
    }

    pub async fn stat(&self, namespace: &Namespace, key: &str) -> Result<Info> {
        let (snapshotter, full) = (self.name.clone(), internal(namespace, key));
        let asked = wire::StatSnapshotRequest { snapshotter, key: full };
        let call = |channel, request| async move { client(channel).stat(request).await };
        let answer = self.plugin.call("stat", namespace, asked, call).await.map_err(about(key))?;
        self.read(namespace, answer.info)
    }

    pub async fn list(&self, namespace: &Namespace) -> Result<Vec<Info>> {
        let asked = wire::ListSnapshotsRequest { snapshotter: self.name.clone(), filters: Vec::new() };
        let call = |channel, request| async move { client(channel).list(request).await };
        let mut stream = self.plugin.call("list", namespace, asked, call).await?;
        let prefix = internal(namespace, "");
        let mut found = Vec::new();
        while let Some(part) = self.plugin.within("list", stream.message()).await? {
            for info in part.info.into_iter().filter(|info| info.name.starts_with(&prefix)) {
                found.push(self.read(namespace, Some(info))?);
            }
            if found.len() > MAX_LISTED {
                let (what, max) = (format!("snapshotter \"{}\": list", self.name), MAX_LISTED as u64);
                return Err(Error::ResourceExhausted { what, limit: "snapshots of a plugin", max });
            }
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    pub async fn mounts(&self, namespace: &Namespace, key: &str) -> Result<Vec<Mount>> {
        let (snapshotter, full) = (self.name.clone(), internal(namespace, key));
        let asked = wire::MountsRequest { snapshotter, key: full };
        let call = |channel, request| async move { client(channel).mounts(request).await };
        let answer = self.plugin.call("mounts", namespace, asked, call).await.map_err(about(key))?;
        Ok(mounts(answer.mounts))
    }

    pub async fn usage(&self, namespace: &Namespace, key: &str) -> Result<Usage> {
        let (snapshotter, full) = (self.name.clone(), internal(namespace, key));
        let asked = wire::UsageRequest { snapshotter, key: full };
        let call = |channel, request| async move { client(channel).usage(request).await };
        let answer = self.plugin.call("usage", namespace, asked, call).await.map_err(about(key))?;
        let number = |count: i64| u64::try_from(count).unwrap_or(0);
        Ok(Usage { size: number(answer.size), inodes: number(answer.inodes) })
    }

    /// AlreadyExists also if the plugin has made the snapshot that the label [`TARGET`] names: the caller looks.
    pub async fn create(
        &self,
        kind: Kind,
        namespace: &Namespace,
        key: &str,
        parent: &str,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let full_parent = if parent.is_empty() { String::new() } else { internal(namespace, parent) };
        let (snapshotter, full) = (self.name.clone(), internal(namespace, key));
        let labels = to_hash(&inside(namespace, labels));
        let named = |error| match code(&error) {
            Some(Code::NotFound) => Error::not_found("parent snapshot", parent),
            _ => about(key)(error),
        };
        if kind == Kind::View {
            let asked = wire::ViewSnapshotRequest { snapshotter, key: full, parent: full_parent, labels };
            let call = |channel, request| async move { client(channel).view(request).await };
            let answer = self.plugin.call("view", namespace, asked, call).await.map_err(named)?;
            return Ok(mounts(answer.mounts));
        }
        let asked = wire::PrepareSnapshotRequest { snapshotter, key: full, parent: full_parent, labels };
        let call = |channel, request| async move { client(channel).prepare(request).await };
        let answer = self.plugin.call("prepare", namespace, asked, call).await.map_err(named)?;
        Ok(mounts(answer.mounts))
    }

    pub async fn commit(&self, namespace: &Namespace, commit: &Commit) -> Result<()> {
        let parent = commit.parent.as_deref().filter(|parent| !parent.is_empty());
        let asked = wire::CommitSnapshotRequest {
            snapshotter: self.name.clone(),
            name: internal(namespace, &commit.name),
            key: internal(namespace, &commit.key),
            labels: to_hash(&inside(namespace, commit.labels.clone())),
            parent: parent.map(|parent| internal(namespace, parent)).unwrap_or_default(),
        };
        let call = |channel, request| async move { client(channel).commit(request).await };
        self.plugin.call("commit", namespace, asked, call).await.map_err(|error| match code(&error) {
            Some(Code::AlreadyExists) => Error::already_exists("snapshot", &commit.name),
            _ => about(&commit.key)(error),
        })
    }

    pub async fn remove(&self, namespace: &Namespace, key: &str) -> Result<()> {
        let (snapshotter, full) = (self.name.clone(), internal(namespace, key));
        let asked = wire::RemoveSnapshotRequest { snapshotter, key: full };
        let call = |channel, request| async move { client(channel).remove(request).await };
        self.plugin.call("remove", namespace, asked, call).await.map_err(about(key))
    }

    /// Sets the labels that `keys` names, or all.
    pub async fn update(
        &self,
        namespace: &Namespace,
        key: &str,
        labels: Labels,
        keys: Option<&[String]>,
    ) -> Result<Info> {
        let paths = match keys {
            None => vec!["labels".to_owned()],
            Some(keys) => keys.iter().map(|key| format!("labels.{key}")).collect(),
        };
        let info = wire::Info {
            name: internal(namespace, key),
            labels: to_hash(&inside(namespace, labels)),
            ..wire::Info::default()
        };
        let asked = wire::UpdateSnapshotRequest {
            snapshotter: self.name.clone(),
            info: Some(info),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let call = |channel, request| async move { client(channel).update(request).await };
        let answer = self.plugin.call("update", namespace, asked, call).await.map_err(about(key))?;
        self.read(namespace, answer.info)
    }

    pub async fn cleanup(&self, namespace: &Namespace) -> Result<()> {
        let asked = wire::CleanupRequest { snapshotter: self.name.clone() };
        let call = |channel, request| async move { client(channel).cleanup(request).await };
        match self.plugin.call("cleanup", namespace, asked, call).await {
            // It has nothing to clean up.
            Err(error) if error.code() == Code::Unimplemented => Ok(()),
            outcome => outcome,
        }
    }

    fn read(&self, namespace: &Namespace, info: Option<wire::Info>) -> Result<Info> {
        let wrong = |why: &str| Error::Damaged {
            what: format!("an answer of the snapshotter \"{}\"", self.name),
            why: why.to_owned(),
        };
        let info = info.ok_or_else(|| wrong("it describes no snapshot"))?;
        let kind = match info.kind() {
            wire::Kind::View => Kind::View,
            wire::Kind::Active => Kind::Active,
            wire::Kind::Committed => Kind::Committed,
            wire::Kind::Unknown => return Err(wrong("a snapshot is of an unknown kind")),
        };
        let time = |at: Option<prost_types::Timestamp>| {
            at.and_then(|at| at.try_into().ok()).unwrap_or(std::time::UNIX_EPOCH)
        };
        let mut labels = from_hash(info.labels);
        if labels.get(ROOT).is_some_and(|value| value == KEPT) {
            labels.remove(ROOT);
        }
        if let Some(target) = labels.get_mut(TARGET)
            && let Some(key) = target.strip_prefix(&internal(namespace, ""))
        {
            *target = key.to_owned();
        }
        let (created, updated) = (time(info.created_at), time(info.updated_at));
        let parent = Some(info.parent).filter(|parent| !parent.is_empty());
        Ok(present(namespace, Info { kind, name: info.name, parent, created, updated, labels }))
    }
}

fn client(channel: Channel) -> SnapshotsClient<Channel> {
    SnapshotsClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

/// The label that names a snapshot to be made, by the plugin's key; and one that keeps a plugin's own collector away, if it has one, as a
/// containerd has: what goes is decided here.
fn inside(namespace: &Namespace, mut labels: Labels) -> Labels {
    if let Some(target) = labels.get_mut(TARGET) {
        *target = internal(namespace, target);
    }
    labels.entry(ROOT.to_owned()).or_insert_with(|| KEPT.to_owned());
    labels
}

fn code(error: &Error) -> Option<Code> {
    match error {
        Error::Plugin { code, .. } => Some(*code),
        _ => None,
    }
}

/// For `map_err`: what a plugin says of one snapshot, as a driver of ours would say it.
fn about(key: &str) -> impl FnOnce(Error) -> Error {
    let key = key.to_owned();
    move |error| match error {
        Error::Plugin { code: Code::NotFound, .. } => Error::not_found("snapshot", key),
        Error::Plugin { code: Code::AlreadyExists, .. } => Error::already_exists("snapshot", key),
        Error::Plugin { code: Code::FailedPrecondition, message, .. } => {
            Error::precondition(format!("snapshot \"{key}\""), message)
        }
        other => other,
    }
}

fn mounts(mounts: Vec<types::Mount>) -> Vec<Mount> {
    let convert = |mount: types::Mount| Mount {
        kind: mount.r#type,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    };
    mounts.into_iter().map(convert).collect()
}
