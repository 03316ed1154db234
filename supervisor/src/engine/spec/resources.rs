//! Limits of a container as cgroup settings.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxBlockIoBuilder, LinuxCpu, LinuxCpuBuilder, LinuxDeviceCgroup, LinuxMemory,
    LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, LinuxThrottleDevice,
    LinuxThrottleDeviceBuilder, LinuxWeightDevice, LinuxWeightDeviceBuilder,
};

use super::devices::numbers_of;
use super::kernel::{kernel, numbers};
use crate::engine::config::{DeviceValue, Limits};
use crate::error::{Error, Result};

/// Least memory with which a container can be expected to start.
pub const MIN_MEMORY: i64 = 512 << 10;

/// Length of a scheduling period in microseconds.
const CPU_PERIOD: i64 = 100_000;

/// Bounds that the kernel sets to a period and a quota, in microseconds.
const MIN_QUOTA: i64 = 1000;
const MAX_PERIOD: i64 = 1_000_000;

/// Most devices that limits are given for.
const MAX_DEVICES: usize = 1024;

/// Checks limits against each other, this host, and what the kernel takes.
pub fn check(limits: &Limits) -> Result<()> {
    memory(limits)?;
    cpu(limits)?;
    cpusets(limits)?;
    block_io(limits)?;
    if let Some(pids) = limits.pids
        && pids < 1
    {
        return Err(Error::invalid("pids-limit", format!("{pids}: must be at least 1")));
    }
    Ok(())
}

fn memory(limits: &Limits) -> Result<()> {
    let memory = limits.memory.unwrap_or(0);
    let (swap, reservation) = (limits.memory_swap, limits.memory_reservation);
    for (name, bytes) in [("limit", memory), ("reservation", reservation)] {
        if bytes != 0 && bytes < MIN_MEMORY {
            return Err(Error::invalid(
                format!("Minimum memory {name} allowed is 512KB"),
                format!("{bytes} bytes were asked for"),
            ));
        }
    }
    if swap < -1 {
        return Err(Error::invalid("memory-swap", format!("{swap}: it is -1 or a number of bytes")));
    }
    if swap > 0 && memory == 0 {
        return Err(Error::invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
            "add --memory",
        ));
    }
    if swap > 0 && swap < memory {
        return Err(Error::invalid(
            "Minimum memoryswap limit should be larger than memory limit, see usage",
            format!("{swap} bytes of memory and swap together were asked for, {memory} of memory"),
        ));
    }
    if memory > 0 && reservation > memory {
        return Err(Error::invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
            format!("{reservation} bytes were asked to be reserved, of {memory}"),
        ));
    }
    match limits.memory_swappiness {
        Some(value) if !(0..=100).contains(&value) => {
            Err(Error::invalid(format!("Invalid value: {value}"), "valid memory swappiness range is 0-100"))
        }
        _ => Ok(()),
    }
}

fn cpu(limits: &Limits) -> Result<()> {
    let conflict = |why: &str| Err(Error::invalid("Conflicting options", why));
    if let Some(nano) = limits.nano_cpus {
        if limits.cpu_period > 0 {
            return conflict("Nano CPUs and CPU Period cannot both be set");
        }
        if limits.cpu_quota > 0 {
            return conflict("Nano CPUs and CPU Quota cannot both be set");
        }
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let most = i64::try_from(cpus).unwrap_or(1).saturating_mul(1_000_000_000);
        if nano < 10_000_000 || nano > most {
            let what =
                format!("Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available");
            return Err(Error::invalid(what, "another number was asked for"));
        }
    }
    let period = limits.cpu_period;
    if period != 0 && !(MIN_QUOTA..=MAX_PERIOD).contains(&period) {
        return Err(Error::invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
            format!("{period} was asked for"),
        ));
    }
    if limits.cpu_quota > 0 && limits.cpu_quota < MIN_QUOTA {
        return Err(Error::invalid(
            "CPU cfs quota can not be less than 1ms (i.e. 1000)",
            format!("{} was asked for", limits.cpu_quota),
        ));
    }
    if limits.cpu_shares < 0 {
        return Err(Error::invalid("cpu-shares", format!("{}: it is 0 or more", limits.cpu_shares)));
    }
    let (period, runtime) = (limits.cpu_realtime_period, limits.cpu_realtime_runtime);
    if period == 0 && runtime == 0 {
        return Ok(());
    }
    if !kernel().realtime() {
        return Err(Error::precondition(
            "kernel does not support CPU real-time scheduler",
            "its cpu controller has no cpu.rt_period_us: leave out --cpu-rt-period and --cpu-rt-runtime",
        ));
    }
    if period < 0 || (period != 0 && runtime > period) {
        return Err(Error::invalid(
            "cpu real-time runtime cannot be higher than cpu real-time period",
            format!("{runtime} of {period} microseconds were asked for"),
        ));
    }
    Ok(())
}

fn cpusets(limits: &Limits) -> Result<()> {
    for (asked, available, what, name) in [
        (&limits.cpuset_cpus, &kernel().cpus, "CPUs", "cpus"),
        (&limits.cpuset_mems, &kernel().mems, "memory nodes", "mems"),
    ] {
        if asked.is_empty() {
            continue;
        }
        let wanted = numbers(asked).ok_or_else(|| {
            Error::invalid(format!("Invalid value {asked} for cpuset {name}"), "write it as in 0-3,7")
        })?;
        let there = numbers(available).unwrap_or_default();
        if !available.is_empty() && !wanted.is_subset(&there) {
            return Err(Error::invalid(
                format!("Requested {what} are not available - requested {asked}, available: {available}"),
                "this host has no others",
            ));
        }
    }
    Ok(())
}

fn block_io(limits: &Limits) -> Result<()> {
    let weights = limits.blkio_weight_device.iter().map(|each| each.value);
    for weight in weights.chain([u64::from(limits.blkio_weight)]) {
        if weight != 0 && !(10..=1000).contains(&weight) {
            return Err(Error::invalid(
                "Range of blkio weight is from 10 to 1000",
                format!("{weight} was asked for"),
            ));
        }
    }
    let lists = lists(limits);
    if lists.iter().map(|list| list.len()).sum::<usize>() > MAX_DEVICES {
        return Err(Error::ResourceExhausted {
            what: "limits of devices".into(),
            limit: "devices of one container",
            max: MAX_DEVICES as u64,
        });
    }
    lists.iter().flat_map(|list| list.iter()).try_for_each(|each| numbers_of(&each.path).map(drop))
}

fn lists(limits: &Limits) -> [&Vec<DeviceValue>; 5] {
    [
        &limits.blkio_weight_device,
        &limits.device_read_bps,
        &limits.device_write_bps,
        &limits.device_read_iops,
        &limits.device_write_iops,
    ]
}

/// The `linux.resources` of a spec; without `devices` those of a container that runs stay as they are.
pub fn resources(limits: &Limits, devices: Option<Vec<LinuxDeviceCgroup>>) -> Result<LinuxResources> {
    let mut resources = LinuxResourcesBuilder::default();
    if let Some(devices) = devices {
        resources = resources.devices(devices);
    }
    if let Some(memory) = memory_settings(limits)? {
        resources = resources.memory(memory);
    }
    if let Some(cpu) = cpu_settings(limits)? {
        resources = resources.cpu(cpu);
    }
    if let Some(limit) = limits.pids {
        resources = resources.pids(LinuxPidsBuilder::default().limit(limit).build().map_err(Error::oci)?);
    }
    if let Some(block_io) = block_io_settings(limits)? {
        resources = resources.block_io(block_io);
    }
    resources.build().map_err(Error::oci)
}

fn memory_settings(limits: &Limits) -> Result<Option<LinuxMemory>> {
    let mut memory = LinuxMemoryBuilder::default();
    let mut any = false;
    if let Some(limit) = limits.memory {
        any = true;
        memory = memory.limit(limit);
    }
    let swap = match (limits.memory_swap, limits.memory) {
        (0, Some(limit)) if kernel().has_swap() => limit.saturating_mul(2),
        (swap, _) => swap,
    };
    if swap > 0 || (swap == -1 && limits.memory.is_some() && kernel().has_swap()) {
        any = true;
        memory = memory.swap(swap);
    }
    if limits.memory_reservation > 0 {
        any = true;
        memory = memory.reservation(limits.memory_reservation);
    }
    if let Some(swappiness) = limits.memory_swappiness.and_then(|value| u64::try_from(value).ok()) {
        any = true;
        memory = memory.swappiness(swappiness);
    }
    if limits.oom_kill_disable {
        any = true;
        memory = memory.disable_oom_killer(true);
    }
    if any { memory.build().map(Some).map_err(Error::oci) } else { Ok(None) }
}

fn cpu_settings(limits: &Limits) -> Result<Option<LinuxCpu>> {
    let mut cpu = LinuxCpuBuilder::default();
    if let Some(nano) = limits.nano_cpus {
        let quota = (nano / 1000 * CPU_PERIOD / 1_000_000).max(MIN_QUOTA);
        cpu = cpu.quota(quota).period(CPU_PERIOD.unsigned_abs());
    }
    if limits.cpu_period > 0 {
        cpu = cpu.period(limits.cpu_period.unsigned_abs());
    }
    if limits.cpu_quota != 0 {
        cpu = cpu.quota(limits.cpu_quota);
    }
    if limits.cpu_shares > 0 {
        cpu = cpu.shares(limits.cpu_shares.unsigned_abs());
    }
    if limits.cpu_realtime_period > 0 {
        cpu = cpu.realtime_period(limits.cpu_realtime_period.unsigned_abs());
    }
    if limits.cpu_realtime_runtime != 0 {
        cpu = cpu.realtime_runtime(limits.cpu_realtime_runtime);
    }
    if !limits.cpuset_cpus.is_empty() {
        cpu = cpu.cpus(limits.cpuset_cpus.clone());
    }
    if !limits.cpuset_mems.is_empty() {
        cpu = cpu.mems(limits.cpuset_mems.clone());
    }
    let cpu = cpu.build().map_err(Error::oci)?;
    Ok((cpu != LinuxCpu::default()).then_some(cpu))
}

fn block_io_settings(limits: &Limits) -> Result<Option<LinuxBlockIo>> {
    if limits.blkio_weight == 0 && lists(limits).iter().all(|list| list.is_empty()) {
        return Ok(None);
    }
    let throttles = |values: &[DeviceValue]| values.iter().map(throttle).collect::<Result<Vec<_>>>();
    let mut block_io = LinuxBlockIoBuilder::default()
        .weight_device(limits.blkio_weight_device.iter().map(weight).collect::<Result<Vec<_>>>()?)
        .throttle_read_bps_device(throttles(&limits.device_read_bps)?)
        .throttle_write_bps_device(throttles(&limits.device_write_bps)?)
        .throttle_read_iops_device(throttles(&limits.device_read_iops)?)
        .throttle_write_iops_device(throttles(&limits.device_write_iops)?);
    if limits.blkio_weight > 0 {
        block_io = block_io.weight(limits.blkio_weight);
    }
    block_io.build().map(Some).map_err(Error::oci)
}

fn weight(value: &DeviceValue) -> Result<LinuxWeightDevice> {
    let (major, minor) = numbers_of(&value.path)?;
    let weight = u16::try_from(value.value).unwrap_or(u16::MAX);
    let weight = LinuxWeightDeviceBuilder::default().major(major).minor(minor).weight(weight);
    weight.build().map_err(Error::oci)
}

fn throttle(value: &DeviceValue) -> Result<LinuxThrottleDevice> {
    let (major, minor) = numbers_of(&value.path)?;
    let throttle = LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(value.value);
    throttle.build().map_err(Error::oci)
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
    fn docker_s_words_for_limits_that_contradict_each_other() {
        let with = |change: fn(&mut Limits)| {
            let mut limits = limits(Some(64 << 20), None, None);
            change(&mut limits);
            check(&limits).unwrap_err().for_people()
        };
        for (said, words) in [
            (
                with(|l| l.memory_swap = 1 << 20),
                "Minimum memoryswap limit should be larger than memory limit",
            ),
            (with(|l| l.memory_reservation = 1 << 30), "can not be less than memory reservation limit"),
            (with(|l| l.memory_reservation = 1), "Minimum memory reservation allowed is 512KB"),
            (
                with(|l| (l.memory, l.memory_swap) = (None, 1 << 30)),
                "You should always set the Memory limit when using Memoryswap limit",
            ),
            (
                with(|l| (l.nano_cpus, l.cpu_period) = (Some(500_000_000), 1000)),
                "Conflicting options: Nano CPUs and CPU Period cannot both be set",
            ),
            (
                with(|l| (l.nano_cpus, l.cpu_quota) = (Some(500_000_000), 1000)),
                "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
            ),
            (with(|l| l.cpu_period = 5), "CPU cfs period can not be less than 1ms"),
            (with(|l| l.cpu_quota = 5), "CPU cfs quota can not be less than 1ms"),
            (with(|l| l.cpuset_cpus = "x".into()), "Invalid value x for cpuset cpus"),
            (with(|l| l.blkio_weight = 5), "Range of blkio weight is from 10 to 1000"),
            (with(|l| l.memory_swappiness = Some(101)), "valid memory swappiness range is 0-100"),
        ] {
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn half_a_cpu_is_half_a_period() {
        let made = resources(&limits(None, Some(500_000_000), Some(7)), Some(Vec::new())).unwrap();
        let cpu = made.cpu().as_ref().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(50_000), Some(100_000)));
        assert_eq!(made.pids().as_ref().unwrap().limit(), 7);
        assert!(made.memory().is_none());
    }

    #[test]
    fn every_limit_arrives() {
        let all = Limits {
            memory: Some(64 << 20),
            memory_swap: 96 << 20,
            memory_reservation: 32 << 20,
            memory_swappiness: Some(10),
            oom_kill_disable: true,
            cpu_shares: 512,
            cpu_period: 50_000,
            cpu_quota: 25_000,
            cpuset_cpus: "0".into(),
            device_read_bps: vec![DeviceValue { path: "/dev/null".into(), value: 7 }],
            ..Limits::default()
        };
        let made = resources(&all, None).unwrap();
        let memory = made.memory().as_ref().unwrap();
        assert_eq!((memory.swap(), memory.reservation()), (Some(96 << 20), Some(32 << 20)));
        assert_eq!((memory.swappiness(), memory.disable_oom_killer()), (Some(10), Some(true)));
        let cpu = made.cpu().as_ref().unwrap();
        assert_eq!((cpu.shares(), cpu.quota(), cpu.period()), (Some(512), Some(25_000), Some(50_000)));
        assert_eq!(cpu.cpus().as_deref(), Some("0"));
        let rates = made.block_io().as_ref().unwrap().throttle_read_bps_device().clone().unwrap();
        assert_eq!((rates[0].major(), rates[0].minor(), rates[0].rate()), (1, 3, 7));
    }
}
