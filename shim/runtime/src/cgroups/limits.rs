//! The limits of `linux.resources`, as values for control files of v1 and v2.
//!
//! What always holds: a limit that was asked for is either applied or refused by name, never left out silently; the one
//! exception is swap on a kernel that does not account for it.

use super::{CgroupPaths, Group, devices, read, write_at, write_path};
use crate::{Error, Result};
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};
use rustix::io::Errno;
use std::path::Path;

impl CgroupPaths {
    /// Applies the limits of a new container; answers what this host left out. Devices are denied even if the config says
    /// nothing of them.
    pub(crate) fn limit_new(&self, resources: Option<&LinuxResources>) -> Result<Vec<String>> {
        let rules = resources.and_then(|resources| resources.devices().as_deref());
        let wanted = rules.is_some() || self.v1("devices").is_some() || self.mode == super::Mode::V2;
        // An ordinary user has no power over device filters, nor over any device that they would keep him from.
        if wanted && !crate::rootless::is_rootless() {
            devices::apply(self, rules.unwrap_or_default())?;
        }
        resources.map_or(Ok(Vec::new()), |resources| self.limit(resources))
    }

    /// Applies the limits but for devices; answers what this host left out.
    fn limit(&self, resources: &LinuxResources) -> Result<Vec<String>> {
        let mut writer = Writer { cgroups: self, warnings: Vec::new() };
        if let Some(memory) = resources.memory() {
            writer.memory(memory)?;
        }
        if let Some(cpu) = resources.cpu() {
            writer.cpu(cpu)?;
        }
        if let Some(pids) = resources.pids() {
            let limit = if pids.limit() < 0 { "max".to_owned() } else { pids.limit().to_string() };
            writer.both("linux.resources.pids", "pids", "pids.max", "pids.max", &limit)?;
        }
        if let Some(block_io) = resources.block_io() {
            writer.block_io(block_io)?;
        }
        for limit in resources.hugepage_limits().as_deref().unwrap_or_default() {
            let (v1, v2) = (
                format!("hugetlb.{}.limit_in_bytes", limit.page_size()),
                format!("hugetlb.{}.max", limit.page_size()),
            );
            writer.both("linux.resources.hugepageLimits", "hugetlb", &v1, &v2, &limit.limit().to_string())?;
        }
        if let Some(network) = resources.network() {
            if let Some(class) = network.class_id() {
                writer.v1_only(
                    "linux.resources.network.classID",
                    "net_cls",
                    "net_cls.classid",
                    &class.to_string(),
                )?;
            }
            for priority in network.priorities().as_deref().unwrap_or_default() {
                let value = format!("{} {}", priority.name(), priority.priority());
                writer.v1_only(
                    "linux.resources.network.priorities",
                    "net_prio",
                    "net_prio.ifpriomap",
                    &value,
                )?;
            }
        }
        for (device, rdma) in resources.rdma().iter().flatten() {
            let count = |value: Option<u32>| value.map_or("max".to_owned(), |n| n.to_string());
            let value = format!(
                "{device} hca_handle={} hca_object={}",
                count(rdma.hca_handles()),
                count(rdma.hca_objects())
            );
            writer.both("linux.resources.rdma", "rdma", "rdma.max", "rdma.max", &value)?;
        }
        writer.unified(resources)?;
        Ok(writer.warnings)
    }

    /// Applies limits; fields that are not set stay as they are.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        if let Some(rules) = resources.devices().as_deref().filter(|rules| !rules.is_empty()) {
            devices::apply(self, rules)?;
        }
        if let Some(unit) = &self.unit {
            unit.update(resources, self.mode)?;
        }
        self.limit(resources).map(drop)
    }
}

pub(super) struct Writer<'a> {
    pub(super) cgroups: &'a CgroupPaths,
    warnings: Vec<String>,
}

impl<'a> Writer<'a> {
    pub(super) fn write(&self, group: &Group, file: &str, value: &str) -> Result<()> {
        write_at(group, file, value).map_err(|errno| Error::Cgroup {
            path: group.root.join(&self.cgroups.path).join(file),
            value: value.into(),
            source: errno.into(),
        })
    }

    /// The cgroup that has a controller: v1's, or v2's once the controller is handed down to it.
    pub(super) fn find(&self, field: &str, controller: &'static str) -> Result<&'a Group> {
        if let Some(group) = self.cgroups.v1(controller) {
            return Ok(group);
        }
        let missing = || Error::NoController { field: field.into(), controller };
        let group = self.cgroups.v2().ok_or_else(missing)?;
        match enable(group, &self.cgroups.path, controller)? {
            true => Ok(group),
            false => Err(missing()),
        }
    }

    fn both(&self, field: &str, controller: &'static str, v1: &str, v2: &str, value: &str) -> Result<()> {
        let group = self.find(field, controller)?;
        self.write(group, if group.is_v2() { v2 } else { v1 }, value)
    }

    pub(super) fn v1_only(
        &self,
        field: &str,
        controller: &'static str,
        file: &str,
        value: &str,
    ) -> Result<()> {
        let group = self
            .cgroups
            .v1(controller)
            .ok_or_else(|| Error::NoController { field: field.into(), controller })?;
        self.write(group, file, value)
    }

    fn memory(&mut self, memory: &LinuxMemory) -> Result<()> {
        let field = "linux.resources.memory";
        let wanted = memory.limit().is_some()
            || memory.reservation().is_some()
            || memory.swap().is_some()
            || memory.kernel_tcp().is_some()
            || memory.swappiness().is_some()
            || memory.disable_oom_killer() == Some(true);
        if !wanted {
            return Ok(());
        }
        let group = self.find(field, "memory")?;
        if memory.check_before_update() == Some(true)
            && let Some(limit) = memory.limit().filter(|limit| *limit > 0)
        {
            let file = if group.is_v2() { "memory.current" } else { "memory.usage_in_bytes" };
            let usage = read::number_at(group.dir(), file).unwrap_or(0);
            if usage > limit as u64 {
                let why =
                    format!("the container uses {usage} bytes already, more than the new limit of {limit}");
                return Err(Error::InvalidSpec { field: format!("{field}.limit"), why });
            }
        }
        if group.is_v2() { self.memory_v2(group, memory) } else { self.memory_v1(group, memory) }
    }

    fn memory_v1(&mut self, group: &Group, memory: &LinuxMemory) -> Result<()> {
        const LIMIT: &str = "memory.limit_in_bytes";
        const SWAP: &str = "memory.memsw.limit_in_bytes";
        let swap = match memory.swap() {
            Some(_) if !read::exists(group, SWAP) => {
                self.warnings.push(
                    "linux.resources.memory.swap: this kernel does not account for swap; left out".into(),
                );
                None
            }
            // A limit without one for swap: what is unlimited with swap must be said before the limit is lifted.
            None if memory.limit() == Some(-1) && read::exists(group, SWAP) => Some(-1),
            swap => swap,
        };
        match (memory.limit(), swap) {
            (Some(limit), Some(swap)) => {
                // Neither may ever be on the wrong side of the other.
                let now = read::number_at(group.dir(), SWAP).unwrap_or(u64::MAX);
                let raise = swap == -1 || swap as u64 > now;
                let order =
                    if raise { [(SWAP, swap), (LIMIT, limit)] } else { [(LIMIT, limit), (SWAP, swap)] };
                for (file, value) in order {
                    self.write(group, file, &value.to_string())?;
                }
            }
            (Some(limit), None) => self.write(group, LIMIT, &limit.to_string())?,
            (None, Some(swap)) => self.write(group, SWAP, &swap.to_string())?,
            (None, None) => {}
        }
        for (file, value) in [
            ("memory.soft_limit_in_bytes", memory.reservation()),
            ("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp()),
        ] {
            if let Some(value) = value {
                self.write(group, file, &value.to_string())?;
            }
        }
        if let Some(swappiness) = memory.swappiness() {
            if swappiness > 100 {
                let why = format!("{swappiness} is not between 0 and 100");
                return Err(Error::InvalidSpec { field: "linux.resources.memory.swappiness".into(), why });
            }
            self.write(group, "memory.swappiness", &swappiness.to_string())?;
        }
        if memory.disable_oom_killer() == Some(true) {
            self.write(group, "memory.oom_control", "1")?;
        }
        Ok(())
    }

    fn memory_v2(&mut self, group: &Group, memory: &LinuxMemory) -> Result<()> {
        let bytes = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
        if memory.disable_oom_killer() == Some(true) || memory.swappiness().is_some() {
            self.warnings.push(
                "linux.resources.memory: swappiness and disableOOMKiller do not exist on cgroup v2; left out"
                    .into(),
            );
        }
        if let Some(swap) = memory.swap() {
            // The config counts memory and swap together, v2 counts swap alone.
            let alone = swap_alone(swap, memory.limit())?.map_or("max".to_owned(), |alone| alone.to_string());
            match self.write(group, "memory.swap.max", &alone) {
                Err(Error::Cgroup { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {
                    self.warnings.push(
                        "linux.resources.memory.swap: this kernel does not account for swap; left out".into(),
                    );
                }
                other => other?,
            }
        }
        if let Some(limit) = memory.limit() {
            self.write(group, "memory.max", &bytes(limit))?;
        }
        if let Some(reservation) = memory.reservation() {
            self.write(group, "memory.low", &bytes(reservation))?;
        }
        Ok(())
    }

    fn cpu(&self, cpu: &LinuxCpu) -> Result<()> {
        let bandwidth = cpu.shares().is_some_and(|s| s != 0)
            || cpu.quota().is_some_and(|q| q != 0)
            || cpu.period().is_some_and(|p| p != 0)
            || cpu.burst().is_some()
            || cpu.idle().is_some()
            || cpu.realtime_runtime().is_some_and(|r| r != 0)
            || cpu.realtime_period().is_some_and(|p| p != 0);
        if bandwidth {
            let group = self.find("linux.resources.cpu", "cpu")?;
            if group.is_v2() { self.cpu_v2(group, cpu)? } else { self.cpu_v1(group, cpu)? }
        }
        for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                self.both("linux.resources.cpu.cpus", "cpuset", file, file, value)?;
            }
        }
        Ok(())
    }

    fn cpu_v1(&self, group: &Group, cpu: &LinuxCpu) -> Result<()> {
        if let Some(idle) = cpu.idle() {
            self.write(group, "cpu.idle", &idle.to_string())?;
        }
        if let Some(shares) = cpu.shares().filter(|s| *s != 0 && cpu.idle().unwrap_or(0) == 0) {
            self.write(group, "cpu.shares", &shares.to_string())?;
        }
        let period = cpu.period().filter(|p| *p != 0).map(|p| p.to_string());
        let quota = cpu.quota().filter(|q| *q != 0).map(|q| q.to_string());
        if let Some(period) = &period {
            // A shorter period can be invalid with the quota of before: then the new quota goes first.
            match (self.write(group, "cpu.cfs_period_us", period), &quota) {
                (Err(_), Some(quota)) => {
                    self.write(group, "cpu.cfs_quota_us", quota)?;
                    self.write(group, "cpu.cfs_period_us", period)?;
                }
                (other, _) => other?,
            }
        }
        if let Some(quota) = &quota {
            self.write(group, "cpu.cfs_quota_us", quota)?;
        }
        if let Some(burst) = cpu.burst() {
            self.write(group, "cpu.cfs_burst_us", &burst.to_string())?;
        }
        if let Some(period) = cpu.realtime_period().filter(|p| *p != 0) {
            self.write(group, "cpu.rt_period_us", &period.to_string())?;
        }
        if let Some(runtime) = cpu.realtime_runtime().filter(|r| *r != 0) {
            self.write(group, "cpu.rt_runtime_us", &runtime.to_string())?;
        }
        Ok(())
    }

    fn cpu_v2(&self, group: &Group, cpu: &LinuxCpu) -> Result<()> {
        if cpu.realtime_period().is_some_and(|p| p != 0) || cpu.realtime_runtime().is_some_and(|r| r != 0) {
            return Err(Error::NoController {
                field: "linux.resources.cpu.realtimeRuntime".into(),
                controller: "realtime cpu",
            });
        }
        if let Some(idle) = cpu.idle() {
            self.write(group, "cpu.idle", &idle.to_string())?;
        }
        if let Some(shares) = cpu.shares().filter(|s| *s != 0 && cpu.idle().unwrap_or(0) == 0) {
            self.write(group, "cpu.weight", &weight_of_shares(shares).to_string())?;
        }
        let quota = cpu.quota().filter(|q| *q != 0);
        let period = cpu.period().filter(|p| *p != 0);
        if quota.is_some() || period.is_some() {
            let quota = quota.filter(|q| *q > 0).map_or("max".to_owned(), |q| q.to_string());
            let value = match period {
                Some(period) => format!("{quota} {period}"),
                None => quota,
            };
            self.write(group, "cpu.max", &value)?;
        }
        if let Some(burst) = cpu.burst() {
            self.write(group, "cpu.max.burst", &burst.to_string())?;
        }
        Ok(())
    }

    fn unified(&self, resources: &LinuxResources) -> Result<()> {
        let Some(unified) = resources.unified().as_ref().filter(|unified| !unified.is_empty()) else {
            return Ok(());
        };
        let field = "linux.resources.unified";
        let group = match self.cgroups.v2() {
            Some(group) if self.cgroups.mode == super::Mode::V2 => group,
            _ => return Err(Error::NoController { field: field.into(), controller: "unified (v2)" }),
        };
        for (file, value) in unified {
            if file.contains('/') || !file.contains('.') {
                let why = format!("{file:?} is not the name of a control file");
                return Err(Error::InvalidSpec { field: field.into(), why });
            }
            if let Some(controller) = file.split('.').next().filter(|c| *c != "cgroup") {
                enable(group, &self.cgroups.path, controller)?;
            }
            self.write(group, file, value)?;
        }
        Ok(())
    }
}

/// v2's limit of swap alone from one of memory and swap together; `None` is no limit.
pub(super) fn swap_alone(swap: i64, memory: Option<i64>) -> Result<Option<u64>> {
    match (swap, memory) {
        (-1, _) => Ok(None),
        (swap, Some(limit)) if limit >= 0 && swap >= limit => Ok(Some((swap - limit).unsigned_abs())),
        _ => {
            let why = "must not be less than the memory limit, which must be set too".into();
            Err(Error::InvalidSpec { field: "linux.resources.memory.swap".into(), why })
        }
    }
}

/// v1's 10..1000 to v2's 1..10000.
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9999 / 990
}

/// v1's 2..262144 to v2's 1..10000.
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Makes a v2 controller available in a cgroup by handing it down from the root; `false` if the host does not have it, or
/// does not let us have it.
fn enable(group: &Group, path: &str, controller: &str) -> Result<bool> {
    let has = |dir: &Path| {
        std::fs::read_to_string(dir.join("cgroup.controllers"))
            .is_ok_and(|list| list.split_whitespace().any(|c| c == controller))
    };
    if has(&group.root.join(path)) {
        return Ok(true);
    }
    if !has(&group.root) {
        return Ok(false);
    }
    let mut at = group.root.clone();
    for part in path.split('/') {
        let control = at.join("cgroup.subtree_control");
        at.push(part);
        if has(&at) {
            continue;
        }
        match write_path(&control, &format!("+{controller}")) {
            Err(Error::Cgroup { source, .. })
                if matches!(source.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS)) =>
            {
                return Ok(false);
            }
            other => other?,
        }
    }
    Ok(true)
}

/// A new v1 cpuset has no processors and takes no process: give it those of its parent, unless it got them by
/// `cgroup.clone_children`. A parent that another process has just made and not yet filled is filled first.
pub(super) fn inherit_cpuset(root: &Path, path: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let read = |path: std::path::PathBuf| {
            std::fs::read_to_string(&path).map_err(|source| Error::Io {
                doing: "read the processors of the cgroup",
                path,
                source,
            })
        };
        if !read(path.join(file))?.trim().is_empty() {
            continue;
        }
        let parent = path.parent().unwrap_or(root);
        if parent != root {
            inherit_cpuset(root, parent)?;
        }
        write_path(&path.join(file), read(parent.join(file))?.trim())?;
    }
    Ok(())
}

impl CgroupPaths {
    /// On v2 hosts: hands the controllers down that statistics and limits need, as far as the host has them.
    pub(crate) fn enable_usual_controllers(&self) -> Result<()> {
        let Some(group) = self.v2().filter(|_| self.mode == super::Mode::V2) else { return Ok(()) };
        for controller in ["memory", "pids", "cpu", "io", "cpuset"] {
            match enable(group, &self.path, controller) {
                // A parent with processes of its own cannot hand controllers down; then there are no such figures.
                Err(Error::Cgroup { source, .. })
                    if source.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {}
                other => drop(other?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_keep_their_ends() {
        assert_eq!(weight_of_shares(2), 1);
        assert_eq!(weight_of_shares(262_144), 10_000);
        assert_eq!(weight_of_shares(1024), 39);
    }
}
