//! What pods and their containers are made from, as it was asked for and as it is kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Labels and annotations.
pub type Map = BTreeMap<String, String>;

/// What a pod is called by whoever asked for it. No two pods have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodName {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub attempt: u32,
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}_{}_{}", self.name, self.namespace, self.uid, self.attempt)
    }
}

/// With whom a namespace is shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    #[default]
    Pod,
    /// With nobody.
    Container,
    /// With the host.
    Node,
    /// With another container, which is named beside it.
    Target,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespaces {
    pub network: Sharing,
    pub pid: Sharing,
    pub ipc: Sharing,
    /// Id of the container whose processes are seen.
    pub target: String,
    /// `None`: the host's users.
    pub users: Option<UserMaps>,
}

/// The ids of a user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMaps {
    pub uids: Vec<IdMap>,
    pub gids: Vec<IdMap>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    pub container: u32,
    pub host: u32,
    pub length: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// A port of the host that leads to the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Port {
    pub protocol: crate::engine::config::Protocol,
    pub container_port: u16,
    pub host_port: u16,
    /// Empty: all.
    pub host_ip: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodConfig {
    pub name: PodName,
    pub hostname: String,
    /// Folder of the containers' logs; empty: there are none.
    pub log_directory: String,
    pub dns: Dns,
    pub ports: Vec<Port>,
    pub labels: Map,
    pub annotations: Map,
    /// Empty: the daemon's.
    pub cgroup_parent: String,
    pub sysctls: Map,
    pub namespaces: Namespaces,
    pub privileged: bool,
    pub overhead: Option<Resources>,
    pub resources: Option<Resources>,
    /// Who runs it; empty: our own runtime.
    pub handler: String,
}

/// Limits. Zero and nothing: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Microseconds.
    pub cpu_period: i64,
    pub cpu_quota: i64,
    pub cpu_shares: i64,
    /// Bytes.
    pub memory: i64,
    /// Memory and swap together.
    pub memory_swap: i64,
    pub oom_score_adj: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    /// Page size, as in `2MB`, and bytes.
    pub huge_pages: Vec<(String, u64)>,
    /// Files of the unified hierarchy.
    pub unified: Map,
}

/// Which system calls may be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    #[default]
    Unconfined,
    Default,
    /// Those of a file.
    File(String),
}

/// How supplementary groups come together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Groups {
    /// Those asked for and those of the image's user.
    #[default]
    Merge,
    /// Those asked for.
    Strict,
}

/// As whom a container runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    pub uid: Option<u32>,
    pub name: String,
    pub gid: Option<u32>,
    pub groups: Vec<u32>,
    pub policy: Groups,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub ambient_capabilities: Vec<String>,
    pub privileged: bool,
    pub namespaces: Namespaces,
    pub user: User,
    pub read_only_root: bool,
    pub no_new_privileges: bool,
    /// `None`: the usual ones, or none where the pod has users of its own.
    pub masked_paths: Option<Vec<String>>,
    pub read_only_paths: Option<Vec<String>>,
    pub seccomp: Seccomp,
    /// Empty: none.
    pub apparmor: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

/// Whether a mount can be written to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Writing {
    #[default]
    Allowed,
    /// What is mounted below it may be.
    Refused,
    /// Nor what is mounted below it.
    RefusedBelow,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    pub container_path: String,
    pub host_path: String,
    /// An image instead of a path of the host.
    pub image: Option<Image>,
    pub image_sub_path: String,
    pub writing: Writing,
    pub propagation: Propagation,
    /// Whose its files appear to be; `None`: whose they are.
    pub owners: Option<UserMaps>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    pub container_path: String,
    pub host_path: String,
    pub permissions: String,
}

/// An image as it was named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Image {
    /// Id, tag or digest.
    pub image: String,
    pub annotations: Map,
    pub user_specified: String,
    pub handler: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    pub name: String,
    pub attempt: u32,
    pub image: Image,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub working_dir: String,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    /// Names of vendors' devices.
    pub cdi: Vec<String>,
    pub labels: Map,
    pub annotations: Map,
    /// Below the pod's folder of logs; empty: no log.
    pub log_path: String,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub resources: Resources,
    pub security: Security,
    /// Such as `SIGTERM`; empty: the image's.
    pub stop_signal: String,
}
