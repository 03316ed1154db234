//! How a container is looked after while it runs and when it has ended: restarts, health, logs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// When a container that ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    #[default]
    No,
    OnFailure,
    Always,
    UnlessStopped,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartPolicy {
    pub condition: RestartCondition,
    /// 0: no bound.
    pub max_retries: u32,
    /// Also when the health check says unhealthy.
    pub on_unhealthy: bool,
}

/// What is asked of the health check; what is 0 or empty is the image's to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// `NONE`, `CMD` and words, or `CMD-SHELL` and a line.
    pub test: Vec<String>,
    /// Nanoseconds.
    pub interval: i64,
    pub timeout: i64,
    pub start_period: i64,
    pub start_interval: i64,
    pub retries: i32,
}

/// Where a container's output goes, and when the log is rotated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// Bytes; 0: the daemon's default; -1: never.
    pub max_size: i64,
    /// Files kept, the live one included; 0: the daemon's default.
    pub max_files: i32,
    /// Empty: `json-file`.
    pub driver: String,
    pub options: BTreeMap<String, String>,
}
