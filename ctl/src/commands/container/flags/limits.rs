//! The flags about what a container may use.

use longshore_proto::longshore::engine::v1::{ContainerConfig, DeviceValue, Resources, Ulimit};

use crate::failure::Failure;
use crate::parse::{device, number, size, ulimit};

#[derive(clap::Args)]
#[group(skip)]
pub struct Flags {
    /// Block IO weight of one device
    #[arg(long, value_name = "DEVICE:WEIGHT", value_parser = device::weight)]
    blkio_weight_device: Vec<DeviceValue>,
    /// Limit read rate (bytes per second) from a device
    #[arg(long, value_name = "DEVICE:BYTES", value_parser = device::bytes_a_second)]
    device_read_bps: Vec<DeviceValue>,
    /// Limit read rate (IO per second) from a device
    #[arg(long, value_name = "DEVICE:NUMBER", value_parser = device::operations_a_second)]
    device_read_iops: Vec<DeviceValue>,
    /// Limit write rate (bytes per second) to a device
    #[arg(long, value_name = "DEVICE:BYTES", value_parser = device::bytes_a_second)]
    device_write_bps: Vec<DeviceValue>,
    /// Limit write rate (IO per second) to a device
    #[arg(long, value_name = "DEVICE:NUMBER", value_parser = device::operations_a_second)]
    device_write_iops: Vec<DeviceValue>,
    /// Tune container memory swappiness (0 to 100)
    #[arg(long, value_name = "NUMBER", value_parser = number::integer)]
    memory_swappiness: Option<i64>,
    /// Disable OOM Killer
    #[arg(long)]
    oom_kill_disable: bool,
    /// Tune host's OOM preferences (-1000 to 1000)
    #[arg(long, value_name = "NUMBER", value_parser = number::integer)]
    oom_score_adj: Option<i64>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES", value_parser = size::memory)]
    shm_size: Option<i64>,
    /// Ulimit options
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit::ulimit)]
    ulimit: Vec<Ulimit>,
    #[command(flatten)]
    live: Live,
}

/// Those that can be changed while the container runs: `update` has them, too.
#[derive(clap::Args)]
#[group(skip)]
pub struct Live {
    /// Block IO (relative weight), between 10 and 1000, or 0 to disable
    #[arg(long, value_name = "WEIGHT", value_parser = number::small)]
    pub blkio_weight: Option<u16>,
    /// Limit CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "MICROSECONDS", value_parser = number::integer)]
    pub cpu_period: Option<i64>,
    /// Limit CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "MICROSECONDS", value_parser = number::integer)]
    pub cpu_quota: Option<i64>,
    /// Limit CPU real-time period in microseconds
    #[arg(long, value_name = "MICROSECONDS", value_parser = number::integer)]
    pub cpu_rt_period: Option<i64>,
    /// Limit CPU real-time runtime in microseconds
    #[arg(long, value_name = "MICROSECONDS", value_parser = number::integer)]
    pub cpu_rt_runtime: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(short = 'c', long, value_name = "NUMBER", value_parser = number::integer)]
    pub cpu_shares: Option<i64>,
    /// Number of CPUs
    #[arg(long, value_name = "DECIMAL", value_parser = number::nano_cpus)]
    pub cpus: Option<i64>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Memory limit
    #[arg(short, long, value_name = "BYTES", value_parser = size::memory)]
    pub memory: Option<i64>,
    /// Memory soft limit
    #[arg(long, value_name = "BYTES", value_parser = size::memory)]
    pub memory_reservation: Option<i64>,
    /// Swap limit equal to memory plus swap: -1 to enable unlimited swap
    #[arg(long, value_name = "BYTES", value_parser = size::memory_and_swap)]
    pub memory_swap: Option<i64>,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, value_name = "NUMBER", value_parser = number::integer)]
    pub pids_limit: Option<i64>,
}

impl Flags {
    /// Writes down what was asked for.
    pub fn fill(self, config: &mut ContainerConfig) -> Result<(), Failure> {
        if let Some(value) = self.memory_swappiness
            && value != -1
            && !(0..=100).contains(&value)
        {
            return Err(Failure::Refused(format!(
                "invalid value: {value}. Valid memory swappiness range is 0-100"
            )));
        }
        config.oom_score_adj = match self.oom_score_adj.unwrap_or(0) {
            score @ -1000..=1000 => i32::try_from(score).unwrap_or(0),
            score => {
                return Err(Failure::message(format!(
                    "Invalid value {score}, range for oom score adj is [-1000, 1000]"
                )));
            }
        };
        config.shm_size = self.shm_size.unwrap_or(0);
        // Of two limits of one name the later counts.
        for limit in self.ulimit {
            config.ulimits.retain(|other| other.name != limit.name);
            config.ulimits.push(limit);
        }
        config.resources = Some(Resources {
            memory_swappiness: self.memory_swappiness,
            oom_kill_disable: self.oom_kill_disable,
            blkio_weight_device: self.blkio_weight_device,
            device_read_bps: self.device_read_bps,
            device_read_iops: self.device_read_iops,
            device_write_bps: self.device_write_bps,
            device_write_iops: self.device_write_iops,
            ..self.live.resources()
        });
        Ok(())
    }
}

impl Live {
    /// What was asked for; what was not is 0 or empty.
    pub fn resources(self) -> Resources {
        Resources {
            memory: self.memory.unwrap_or(0),
            nano_cpus: self.cpus.unwrap_or(0),
            // As with docker, everything below 0 says "no limit".
            pids: self.pids_limit.unwrap_or(0).max(-1),
            cpu_shares: self.cpu_shares.unwrap_or(0),
            cpu_period: self.cpu_period.unwrap_or(0),
            cpu_quota: self.cpu_quota.unwrap_or(0),
            cpu_realtime_period: self.cpu_rt_period.unwrap_or(0),
            cpu_realtime_runtime: self.cpu_rt_runtime.unwrap_or(0),
            cpuset_cpus: self.cpuset_cpus.unwrap_or_default(),
            cpuset_mems: self.cpuset_mems.unwrap_or_default(),
            memory_reservation: self.memory_reservation.unwrap_or(0),
            memory_swap: self.memory_swap.unwrap_or(0),
            blkio_weight: self.blkio_weight.unwrap_or(0).into(),
            ..Resources::default()
        }
    }
}
