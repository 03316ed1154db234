//! Limits of a container's cgroup and of its processes.

use serde::{Deserialize, Serialize};

/// Limits of the container's cgroup; `None`, 0 and empty: no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<i64>,
    /// Thousand-millionths of a CPU.
    pub nano_cpus: Option<i64>,
    pub pids: Option<i64>,
    pub cpu_shares: i64,
    /// Microseconds.
    pub cpu_period: i64,
    pub cpu_quota: i64,
    pub cpu_realtime_period: i64,
    pub cpu_realtime_runtime: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    /// Bytes.
    pub memory_reservation: i64,
    /// Memory and swap together, bytes; -1: no limit for swap; 0: twice the memory.
    pub memory_swap: i64,
    /// 0 to 100.
    pub memory_swappiness: Option<i64>,
    pub oom_kill_disable: bool,
    pub blkio_weight: u16,
    pub blkio_weight_device: Vec<DeviceValue>,
    pub device_read_bps: Vec<DeviceValue>,
    pub device_write_bps: Vec<DeviceValue>,
    pub device_read_iops: Vec<DeviceValue>,
    pub device_write_iops: Vec<DeviceValue>,
}

/// A limit of one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceValue {
    pub path: String,
    pub value: u64,
}

/// A resource limit of processes (setrlimit).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `nproc`, …
    pub name: String,
    /// -1: unlimited.
    pub soft: i64,
    pub hard: i64,
}

/// A device of the host in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// A path, or a CDI name.
    pub host_path: String,
    /// Empty: the same.
    pub container_path: String,
    /// Empty: `rwm`.
    pub permissions: String,
}
