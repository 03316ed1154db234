//! What a container is made from, and what the engine keeps about it. The record is the JSON payload of the
//! `longshore.engine.v1.Container` extension of an ordinary containerd container; fields are only ever added,
//! with defaults, so that a newer daemon reads an older record.

mod care;
mod limits;
mod mounts;
mod network;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use care::{HealthCheck, LogConfig, RestartCondition, RestartPolicy};
pub use limits::{Device, DeviceValue, Limits, Ulimit};
pub use mounts::{Access, BindOptions, Mount, MountKind, TmpfsOptions, VolumeOptions};
pub use network::{Endpoint, NetworkMode, PortBinding, Protocol};

use super::state::State;

/// What the user asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Reference as the user wrote it.
    pub image: String,
    /// Arguments after the image; empty: the image's Cmd.
    pub args: Vec<String>,
    /// Replaces the image's entrypoint; `Some` with no words clears it.
    pub entrypoint: Option<Vec<String>>,
    /// `KEY=value`; a bare KEY removes the variable.
    pub env: Vec<String>,
    pub working_dir: String,
    /// `name|uid[:group|gid]`.
    pub user: String,
    pub hostname: String,
    pub tty: bool,
    pub open_stdin: bool,
    pub labels: BTreeMap<String, String>,
    pub mounts: Vec<Mount>,
    pub network: NetworkMode,
    pub read_only_rootfs: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub privileged: bool,
    pub limits: Limits,
    /// Remove the container when it has stopped.
    pub auto_remove: bool,
    /// Name or number; empty: the image's, then SIGTERM.
    pub stop_signal: String,
    /// Seconds; `None`: 10; -1: for ever.
    pub stop_timeout: Option<i32>,
    pub log: LogConfig,
    /// `os/arch[/variant]`; empty: the host's.
    pub platform: String,
    /// The command line that made this container.
    pub made_by: String,
    pub domainname: String,
    pub endpoints: Vec<Endpoint>,
    pub publish: Vec<PortBinding>,
    pub publish_all: bool,
    /// `80/tcp`, beside the image's.
    pub expose: Vec<String>,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    /// `name:address`.
    pub extra_hosts: Vec<String>,
    pub restart: RestartPolicy,
    pub health: HealthCheck,
    /// `None`: as the daemon is configured.
    pub init: Option<bool>,
    pub devices: Vec<Device>,
    pub device_cgroup_rules: Vec<String>,
    pub group_add: Vec<String>,
    pub ipc_mode: String,
    pub pid_mode: String,
    pub uts_mode: String,
    pub userns_mode: String,
    pub cgroupns_mode: String,
    pub cgroup_parent: String,
    pub security_opt: Vec<String>,
    pub sysctls: BTreeMap<String, String>,
    pub ulimits: Vec<Ulimit>,
    /// Bytes; 0: 64 MiB.
    pub shm_size: i64,
    /// `NAME|ID[:ro|rw]`.
    pub volumes_from: Vec<String>,
    pub volume_driver: String,
    /// Empty: the daemon's.
    pub runtime: String,
    pub annotations: BTreeMap<String, String>,
    pub oom_score_adj: i32,
    pub storage_opt: BTreeMap<String, String>,
    pub cidfile: String,
    /// Which standard streams the one who made it takes part in.
    pub attach: Vec<String>,
}

/// Everything that the engine keeps about one container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub name: String,
    pub config: ContainerConfig,
    /// Digest of the image's config.
    pub image_id: String,
    /// Canonical reference of the image, empty if it was named by id.
    #[serde(default)]
    pub image_ref: String,
    /// Of the writable layer; empty in records of an earlier version: the default.
    #[serde(default)]
    pub snapshotter: String,
    /// The path of the executable and its arguments, as they run.
    pub process_args: Vec<String>,
    /// How many of them are the entrypoint's.
    #[serde(default)]
    pub entrypoint_words: usize,
    /// The image's entrypoint and Cmd or what replaced them: what `ps` shows is [`Record::process_args`].
    pub process_env: Vec<String>,
    pub process_cwd: String,
    /// `config.user`, or the image's.
    pub user: String,
    /// Signal number.
    pub stop_signal: i32,
    /// Whether stdin ends with the client that sends it. Not so for a container that was begun detached.
    #[serde(default)]
    pub stdin_once: bool,
    /// What runs a health check of the form `CMD-SHELL`; empty: `/bin/sh -c`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub health_shell: Vec<String>,
    /// The image's volumes: in records of an earlier version folders of the writable layer.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// All that is mounted, volumes by their names; `None` in records of an earlier version.
    #[serde(default)]
    pub mounts: Option<Vec<Mount>>,
    /// Ids of the images among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounted_images: Vec<String>,
    /// The image's ports, `80/tcp`.
    #[serde(default)]
    pub exposed: Vec<String>,
    #[serde(with = "stamp")]
    pub created_at: Timestamp,
    pub state: State,
}

impl Record {
    /// Entrypoint and arguments as `ps` shows them.
    pub fn command(&self) -> String {
        let quoted = |(at, word): (usize, &String)| match at > 0 && word.contains(' ') {
            true => format!("'{word}'"),
            false => word.clone(),
        };
        self.process_args.iter().enumerate().map(quoted).collect::<Vec<_>>().join(" ")
    }

    /// The words after the entrypoint, as docker's history has them.
    pub fn arguments(&self) -> String {
        self.process_args.get(self.entrypoint_words..).unwrap_or_default().join(" ")
    }

    /// What is mounted beside what every container has.
    pub fn mounts(&self) -> &[Mount] {
        self.mounts.as_deref().unwrap_or(&self.config.mounts)
    }
}

/// Timestamps as RFC 3339 text.
pub mod stamp {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(value: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The same for a time that may not have come yet.
pub mod maybe_stamp {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(value: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(time) => serializer.collect_str(time),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(de::Error::custom)).transpose()
    }
}
