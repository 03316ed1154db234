//! Limits of a container as cgroup settings.

use std::path::Path;
use std::sync::OnceLock;

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroup, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources,
    LinuxResourcesBuilder,
};

use crate::engine::config::Limits;
use crate::error::{Error, Result};

/// Least memory with which a container can be expected to start.
pub const MIN_MEMORY: i64 = 512 << 10;

/// Length of a scheduling period in microseconds.
const CPU_PERIOD: i64 = 100_000;

/// Least quota that the kernel takes, in microseconds.
const MIN_QUOTA: i64 = 1000;

/// Checks limits against this host and against what the kernel takes.
pub fn check(limits: &Limits) -> Result<()> {
    if let Some(memory) = limits.memory
        && memory < MIN_MEMORY
    {
        return Err(Error::invalid(
            "Minimum memory limit allowed is 512KB",
            format!("{memory} bytes were asked for"),
        ));
    }
    if let Some(nano) = limits.nano_cpus {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let most = i64::try_from(cpus).unwrap_or(1).saturating_mul(1_000_000_000);
        if nano < 10_000_000 || nano > most {
            let what =
                format!("Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available");
            return Err(Error::invalid(what, "another number was asked for"));
        }
    }
    if let Some(pids) = limits.pids
        && pids < 1
    {
        return Err(Error::invalid("pids-limit", format!("{pids}: must be at least 1")));
    }
    Ok(())
}

/// The `linux.resources` of a spec.
pub fn resources(limits: &Limits, devices: Vec<LinuxDeviceCgroup>) -> Result<LinuxResources> {
    let mut resources = LinuxResourcesBuilder::default().devices(devices);
    if let Some(limit) = limits.memory {
        let mut memory = LinuxMemoryBuilder::default().limit(limit);
        if swap_is_accounted() {
            memory = memory.swap(limit.saturating_mul(2));
        }
        resources = resources.memory(memory.build().map_err(Error::oci)?);
    }
    if let Some(nano) = limits.nano_cpus {
        let quota = (nano / 1000 * CPU_PERIOD / 1_000_000).max(MIN_QUOTA);
        let cpu = LinuxCpuBuilder::default().quota(quota).period(CPU_PERIOD.unsigned_abs());
        resources = resources.cpu(cpu.build().map_err(Error::oci)?);
    }
    if let Some(limit) = limits.pids {
        resources = resources.pids(LinuxPidsBuilder::default().limit(limit).build().map_err(Error::oci)?);
    }
    resources.build().map_err(Error::oci)
}

/// Whether this kernel can limit memory and swap together; without it only memory is limited.
fn swap_is_accounted() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
            || Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(memory: Option<i64>, nano_cpus: Option<i64>, pids: Option<i64>) -> Limits {
        Limits { memory, nano_cpus, pids, ..Limits::default() }
    }

    #[test]
    fn limits_that_cannot_work_are_refused() {
        assert!(check(&limits(Some(1024), None, None)).is_err());
        assert!(check(&limits(None, Some(1), None)).is_err());
        assert!(check(&limits(None, Some(1_000_000_000_000_000), None)).is_err());
        assert!(check(&limits(None, None, Some(0))).is_err());
        check(&limits(Some(64 << 20), Some(500_000_000), Some(10))).unwrap();
    }

    #[test]
    fn half_a_cpu_is_half_a_period() {
        let made = resources(&limits(None, Some(500_000_000), Some(7)), Vec::new()).unwrap();
        let cpu = made.cpu().as_ref().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(50_000), Some(100_000)));
        assert_eq!(made.pids().as_ref().unwrap().limit(), 7);
        assert!(made.memory().is_none());
    }
}
