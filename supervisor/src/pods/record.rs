//! What is kept of pods and their containers: extensions of sandbox and container records, so that containerd's clients
//! see them, too.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::config::{ContainerConfig, PodConfig};
use crate::any::Any;
use crate::error::{Error, Result};
use crate::network::endpoint::EndpointState;
use crate::network::ports::Published;

/// The extension of a sandbox's record.
pub const POD: &str = "longshore.pods.v1.Pod";
/// The extension of a container's record.
pub const CONTAINER: &str = "longshore.pods.v1.Container";

/// Whether containers can be started in a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodState {
    Ready,
    /// It is being stopped: nothing is made or started in it, and what it has may still be there.
    Stopping,
    #[default]
    NotReady,
    /// Its record cannot be read: nothing is made in it, and what it has stays until it is stopped.
    Unreadable,
}

impl PodState {
    /// Whether nothing of its network and processes is left.
    pub fn is_over(self) -> bool {
        self == PodState::NotReady
    }
}

/// What a pod has of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodNetwork {
    /// Of the built-in networks.
    pub endpoints: Vec<EndpointState>,
    pub published: Vec<Published>,
    /// The CNI network; empty: none.
    pub cni: String,
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRecord {
    pub config: PodConfig,
    pub created_at: Timestamp,
    pub state: PodState,
    #[serde(default)]
    pub network: PodNetwork,
    /// Its first process, where the pod's containers see each other's processes.
    #[serde(default)]
    pub pause: bool,
}

/// The states of a container, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    #[default]
    Created,
    Running,
    Exited,
    /// Its shim does not answer.
    Unknown,
}

impl State {
    /// Whether there may be processes of it.
    pub fn may_run(self) -> bool {
        matches!(self, State::Running | State::Unknown)
    }
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct End {
    pub code: i32,
    pub at: Timestamp,
    /// `Completed`, `Error`, `OOMKilled`, …
    pub reason: String,
    /// Why, if it never ran.
    pub message: String,
}

/// As whom it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub pod: String,
    pub config: ContainerConfig,
    /// Digest of its image's config.
    pub image_id: String,
    /// The image's repository digest, or its id where there is none.
    pub image_ref: String,
    /// Absolute; empty: none.
    pub log_path: String,
    pub stop_signal: String,
    pub cgroup: String,
    /// Whether systemd makes it.
    #[serde(default)]
    pub by_systemd: bool,
    pub user: Identity,
    pub created_at: Timestamp,
    #[serde(default)]
    pub state: State,
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    #[serde(default)]
    pub end: Option<End>,
    /// Of its first process, while it runs.
    #[serde(default)]
    pub pid: u32,
    /// Whether it is started from a checkpoint.
    #[serde(default)]
    pub restored: bool,
}

/// As an extension.
pub fn pack<T: Serialize>(name: &'static str, key: &str, record: &T) -> Result<Any> {
    let json = serde_json::to_vec(record).map_err(|source| Error::Record {
        table: name,
        key: key.to_owned(),
        source: source.into(),
    })?;
    Ok(Any::new(name, json))
}

/// From an extension.
pub fn unpack<T: DeserializeOwned>(name: &'static str, key: &str, any: &Any) -> Result<T> {
    serde_json::from_slice(&any.value).map_err(|source| Error::Record {
        table: name,
        key: key.to_owned(),
        source: source.into(),
    })
}
